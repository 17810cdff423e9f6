r"""elbos: what does a diffusion loss optimize?

Every diffusion training loss is a weighted integral of ELBOs, one per noise level (Kingma & Gao
2023, https://arxiv.org/abs/2303.00848). Whatever is named here is imported when it is first used.
The rooms; each imports only from itself and from those before it:

| room | what it holds |
|---|---|
| `base` | what knows nothing of diffusion: files, messages, checks, tables, pages |
| `theory` | the paper: process, schedules, predictions, weightings, objective, theorem, oracles |
| `models` | from a denoiser to samples and bits per dimension; networks |
| `audit` | the weighting of anybody's loss, measured |
| `validation` | the ELBO of any denoiser on held-out data, in anybody's loop |
| `adapters` | other people's formats: diffusers, EDM, flow, callbacks, trainers |
| `training` | `train(config, path)`: data, trainer, checkpoints |
| `evaluation` | how good a model is: likelihood, noise levels, samples |
| `runs` | what is on disk as Python objects: `Run`, `Pretrained`, `fit`, export |
| `comparison` | objectives against each other: many runs, paired |
| `cli` | the command line, a file per verb |

The modules of the mathematics have short paths, too: `from elbos.weightings import Sigmoid`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from elbos.base import aliases
from elbos.base.extras import needs

if TYPE_CHECKING:
    from elbos import adapters as adapters
    from elbos import audit as audit
    from elbos import validation as validation
    from elbos.audit import testing as testing
    from elbos.comparison.compare import compare as compare
    from elbos.models import likelihood as likelihood
    from elbos.models import networks as networks
    from elbos.models import samplers as samplers
    from elbos.runs.fit import fit as fit
    from elbos.runs.run import Run as Run
    from elbos.theory import adaptive as adaptive
    from elbos.theory import elbo as analysis  # noqa: F401
    from elbos.theory import floor as floor
    from elbos.theory import oracles as oracles
    from elbos.theory import parameterizations as parameterizations
    from elbos.theory import process as process
    from elbos.theory import recipes as recipes
    from elbos.theory import schedules as schedules
    from elbos.theory import weightings as weightings
    from elbos.theory.denoiser import Denoiser as Denoiser
    from elbos.theory.objective import Objective as Objective
    from elbos.training import tracking as tracking
    from elbos.validation.by_level import LossByLevel as LossByLevel
    from elbos.validation.history import ValidationHistory as ValidationHistory
    from elbos.validation.validator import Validator as Validator

__version__ = "0.1.0"

_FROM = {
    "Denoiser": "theory.denoiser",
    "LossByLevel": "validation.by_level",
    "Objective": "theory.objective",
    "Run": "runs.run",
    "ValidationHistory": "validation.history",
    "Validator": "validation.validator",
    "compare": "comparison.compare",
    "fit": "runs.fit",
}
_MODULES = (
    *("adapters", "adaptive", "analysis", "audit", "floor", "likelihood", "networks"),
    *("oracles", "parameterizations", "process", "recipes", "samplers", "schedules"),
    *("testing", "tracking", "validation", "weightings"),
)
_EXTRAS = {"Run": "train", "compare": "evaluate", "fit": "train", "tracking": "track"}
__all__ = ["__version__", *_FROM, *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'elbos' has no attribute {name!r}")
    with needs(_EXTRAS.get(name, "all")):
        module = importlib.import_module(f"elbos.{_FROM.get(name, name)}")
    return getattr(module, name) if name in _FROM else module


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM, *_MODULES])


aliases.install()
