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
| `adapters` | other people's formats: diffusers, EDM, flow, callbacks |
| `training` | `train(config, path)`: data, loop, checkpoints |
| `evaluation` | how good a model is: likelihood, noise levels, samples |
| `runs` | what is on disk as Python objects: `Run`, `Pretrained`, `fit` |
| `comparison` | objectives against each other: many runs, paired |
| `cli` | the command line, a file per verb |

The modules of the mathematics are names of the package, too: `from elbos import weightings`.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
    from elbos.theory import oracles as oracles
    from elbos.theory import parameterizations as parameterizations
    from elbos.theory import process as process
    from elbos.theory import recipes as recipes
    from elbos.theory import schedules as schedules
    from elbos.theory import weightings as weightings
    from elbos.theory.denoiser import Denoiser as Denoiser
    from elbos.theory.objective import Objective as Objective
    from elbos.validation.by_level import LossByLevel as LossByLevel
    from elbos.validation.history import ValidationHistory as ValidationHistory
    from elbos.validation.validator import Validator as Validator

__version__ = "0.1.0"

_PATHS = {
    "Denoiser": "theory.denoiser:Denoiser",
    "LossByLevel": "validation.by_level:LossByLevel",
    "Objective": "theory.objective:Objective",
    "Run": "runs.run:Run",
    "ValidationHistory": "validation.history:ValidationHistory",
    "Validator": "validation.validator:Validator",
    "adapters": "adapters",
    "adaptive": "theory.adaptive",
    "analysis": "theory.elbo",
    "audit": "audit",
    "compare": "comparison.compare:compare",
    "fit": "runs.fit:fit",
    "likelihood": "models.likelihood",
    "networks": "models.networks",
    "oracles": "theory.oracles",
    "parameterizations": "theory.parameterizations",
    "process": "theory.process",
    "recipes": "theory.recipes",
    "samplers": "models.samplers",
    "schedules": "theory.schedules",
    "testing": "audit.testing",
    "validation": "validation",
    "weightings": "theory.weightings",
}
_EXTRAS = {"Run": "train", "compare": "evaluate", "fit": "train"}
__all__ = ["__version__", *_PATHS]


def __getattr__(name: str) -> Any:
    if name not in _PATHS:
        raise AttributeError(f"module 'elbos' has no attribute {name!r}")
    path, _, member = _PATHS[name].partition(":")
    with needs(_EXTRAS.get(name, "all")):
        module = importlib.import_module(f"elbos.{path}")
    return getattr(module, member) if member else module


def __dir__() -> list[str]:
    return sorted([*globals(), *_PATHS])
