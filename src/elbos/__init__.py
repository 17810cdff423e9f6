r"""elbos: what does a diffusion loss optimize?

Every diffusion training loss is a weighted integral of ELBOs, one per noise level (Kingma & Gao
2023, https://arxiv.org/abs/2303.00848). Whatever is named here is imported when it is first used.
The modules; each imports only from its own group or those before it:

| module | what it holds |
|---|---|
| `arrays`, `checks`, `errors`, `files`, `progress`, `records`, `user_code` | for all others |
| `philox` | random numbers by (seed, purpose, step, sample) |
| `process` | the Gaussian process $z = \alpha x + \sigma \epsilon$, in log-SNR |
| `schedules`, `adaptive` | a noise schedule is a distribution over log-SNR |
| `parameterizations` | what a network predicts, $y = a x + b \epsilon$ |
| `extrema`, `weightings`, `tabulated` | $w(\lambda)$, and where it rises |
| `recipes`, `analysis` | published recipes; monotone or not, the mixture of ELBOs, the theorem |
| `conditions`, `denoiser` | what a network is conditioned on; network + parameterization |
| `items` | samples by number, from a tensor or a dataset |
| `oracles`, `objective` | data for which everything is known; the weighted loss |
| `floor` | the least loss that data leave to any denoiser |
| `samplers`, `likelihood`, `networks` | from a denoiser to samples and to bits per dimension |
| `codec` | objects as JSON, as text and as labels, and back |
| `audit`, `adapters` | the weighting of somebody else's loss, measured; other people's formats |
| `validation` | the ELBO of any denoiser on held-out data, in anybody's training loop |
| `tracking` | results in experiment trackers |
| `runs` | what is on disk: directories, checkpoints, configurations |
| `training`, `evaluation` | a run: trained; how good it is |
| `comparison` | objectives against each other: many runs, paired |
| `report` | how results look: on the terminal, as pages, in figures |
| `export` | the weights of a run, with a model card, for others to open |
| `cli` | the command line |
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elbos import adapters as adapters
    from elbos import adaptive as adaptive
    from elbos import analysis as analysis
    from elbos import audit as audit
    from elbos import floor as floor
    from elbos import likelihood as likelihood
    from elbos import networks as networks
    from elbos import oracles as oracles
    from elbos import parameterizations as parameterizations
    from elbos import process as process
    from elbos import recipes as recipes
    from elbos import samplers as samplers
    from elbos import schedules as schedules
    from elbos import tracking as tracking
    from elbos import validation as validation
    from elbos import weightings as weightings
    from elbos.comparison.compare import compare as compare
    from elbos.denoiser import Denoiser as Denoiser
    from elbos.objective import Objective as Objective
    from elbos.training.fit import fit as fit
    from elbos.training.run import Run as Run
    from elbos.validation.by_level import LossByLevel as LossByLevel
    from elbos.validation.validator import Validator as Validator

__version__ = "0.1.0"

_FROM = {
    "Denoiser": "denoiser",
    "LossByLevel": "validation.by_level",
    "Objective": "objective",
    "Run": "training.run",
    "Validator": "validation.validator",
    "compare": "comparison.compare",
    "fit": "training.fit",
}
_MODULES = (
    *("adapters", "adaptive", "analysis", "audit", "floor", "likelihood", "networks"),
    *("oracles", "parameterizations", "process", "recipes", "samplers", "schedules"),
    *("tracking", "validation", "weightings"),
)
__all__ = ["__version__", *_FROM, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"elbos.{name}")
    if name in _FROM:
        return getattr(importlib.import_module(f"elbos.{_FROM[name]}"), name)
    raise AttributeError(f"module 'elbos' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM, *_MODULES])
