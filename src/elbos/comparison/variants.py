r"""Named training objectives: each is a prediction type, a noise schedule and a weighting.

The built-in variants are the paper's and later ones. A variant replaces the objective in a
configuration, and nothing else changes: network, initial weights, order of the data, noise and the
uniform draws for noise levels are functions of the seed. Two settings depend on the objective:

- **The ends** of the schedule are the configuration's, so that the ELBO of every variant is the
  same integral.
- **The clipping of gradients.** A constant factor of the weighting changes nothing in AdamW and
  Muon, but would change which gradients are clipped. The clipping threshold is therefore
  proportional to

  $$S(w) = \tfrac12 \int w(\lambda)\,\mathrm{sigmoid}(\lambda)\,d\lambda,$$

  the loss of the best denoiser of standard normal data.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import re
from dataclasses import dataclass, replace

import torch

from elbos.base.codec import normalize, parse
from elbos.base.errors import shortened, suggestion
from elbos.theory import schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.parameterizations import EDM, Eps, Flow, V, X
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Cosine, Normal
from elbos.theory.weightings import Monotone, Weighting
from elbos.training.choices import NoiseSchedule, Prediction, Weight, require_storable
from elbos.training.config import Config

_NUM_CELLS = 10_000
_EXAMPLE = '"mine=V(),Adaptive(),Sigmoid(k=3)"'


@dataclass(frozen=True)
class Variant:
    """Named training objective with prediction type, noise schedule and weighting.

    Attributes:
        name: Name in reports and run directories: letters, digits, dots and dashes.
        schedule: Distribution of noise levels; the ends are taken from the configuration instead.

    Raises:
        ValueError: If the name is not usable for a folder, or the weighting is a function, which
            `Tabulated.from_function` makes storable.

    Examples:
        >>> Variant.parse("mine=V(),Adaptive(),Sigmoid(k=3)").weighting
        Sigmoid(k=3.0)
    """

    name: str
    parameterization: Prediction
    schedule: NoiseSchedule
    weighting: Weight

    def __post_init__(self) -> None:
        require_storable(self.weighting)
        normalize(self)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise ValueError(
                f"{shortened(self.name)!r} is no name: give letters, digits, dots and dashes."
            )

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Parse a training objective from NAME=PREDICTION,SCHEDULE,WEIGHTING, or a built-in NAME.

        A weighting may be a function in a Python file, `FILE.py:FUNCTION`; the file is run.
        """
        name, is_custom, objective = (part.strip() for part in text.partition("="))
        if is_custom:
            where = f"objective {shortened(name)!r} (a prediction type, a schedule and a weighting)"
            kinds = tuple[Prediction, NoiseSchedule, Weight]
            return cls(name, *parse(kinds, objective, where, runs_files=True))
        if name not in VARIANTS:
            raise ValueError(
                f"There is no objective {shortened(name)!r}, and your own are written as "
                f"{_EXAMPLE}: {suggestion(name, VARIANTS)}"
            )
        return VARIANTS[name]

    def config(self, base: Config) -> Config:
        """Return a training configuration with this training objective.

        Raises:
            ValueError: If the objective cannot be trained between the ends of `base.schedule`.
        """
        ends = base.schedule.logsnr_min, base.schedule.logsnr_max
        try:
            config = replace(
                base,
                parameterization=self.parameterization,
                schedule=replace(self.schedule, logsnr_min=ends[0], logsnr_max=ends[1]),
                weighting=self.weighting,
            )
            scale = loss_scale(self.weighting, *ends) / loss_scale(base.weighting, *ends)
            max_grad_norm = float(f"{base.optimizer.max_grad_norm * scale:.6g}")
            optimizer = replace(base.optimizer, max_grad_norm=max_grad_norm)
            return replace(config, optimizer=optimizer)
        except ValueError as error:
            raise ValueError(f"The objective {self.name} cannot be trained: {error}") from error


def loss_scale(weighting: Weighting, logsnr_min: float, logsnr_max: float) -> float:
    r"""Compute $S(w)$, the minimum weighted loss on standard normal data, by the midpoint rule."""
    cells = (torch.arange(_NUM_CELLS, dtype=torch.float64) + 0.5) / _NUM_CELLS
    logsnr = logsnr_min + (logsnr_max - logsnr_min) * cells
    losses = weighting(logsnr) * torch.sigmoid(logsnr)
    return 0.5 * losses.mean().item() * (logsnr_max - logsnr_min)


_EDM_MONOTONIC = Monotone(weightings.EDM())
_SD3 = RECIPES["sd3"].weighting

_BUILT_IN = [
    # from the paper
    Variant("iddpm", Eps(), Cosine(), weightings.IDDPM()),
    *(
        Variant(f"eps-{name}-sigmoid-{k}", Eps(), schedule, weightings.Sigmoid(k=float(k)))
        for name, schedule in (("cosine", Cosine()), ("adaptive", Adaptive()))
        for k in range(1, 6)
    ),
    Variant("edm", EDM(), Normal.edm(), weightings.EDM()),
    Variant("edm-adaptive", EDM(), Adaptive(), weightings.EDM()),
    Variant("edm-adaptive-sigmoid-2", EDM(), Adaptive(), weightings.Sigmoid(k=2.0)),
    Variant("edm-adaptive-monotonic", EDM(), Adaptive(), _EDM_MONOTONIC),
    Variant("v-cosine", V(), Cosine(), weightings.Exponential()),
    Variant("v-adaptive", V(), Adaptive(), weightings.Exponential()),
    Variant("v-adaptive-sigmoid-2", V(), Adaptive(), weightings.Sigmoid(k=2.0)),
    Variant("v-adaptive-edm-monotonic", V(), Adaptive(), _EDM_MONOTONIC),
    # later ones
    Variant("flow", Flow(), schedules.Flow(), weightings.Exponential()),
    Variant("sd3", Flow(), Normal.logit_normal(), _SD3),
    Variant("sd3-adaptive", Flow(), Adaptive(), _SD3),
    Variant("sd3-adaptive-monotonic", Flow(), Adaptive(), Monotone(_SD3)),
    Variant("p2", Eps(), Cosine(), weightings.P2()),
    Variant("min-snr", X(), Cosine(), weightings.MinSNR()),
    Variant("min-snr-adaptive", X(), Adaptive(), weightings.MinSNR()),
    Variant("min-snr-adaptive-monotonic", X(), Adaptive(), Monotone(weightings.MinSNR())),
    Variant("elbo", V(), Adaptive(), weightings.ELBO()),
]

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _BUILT_IN}
"""The built-in objectives by name."""

DEFAULT_VARIANTS = (
    "iddpm",
    "eps-cosine-sigmoid-2",
    "eps-adaptive-sigmoid-2",
    "edm",
    "edm-adaptive",
    "edm-adaptive-sigmoid-2",
    "edm-adaptive-monotonic",
    "v-cosine",
    "v-adaptive-sigmoid-2",
    "sd3-adaptive",
    "sd3-adaptive-monotonic",
    "min-snr-adaptive",
    "min-snr-adaptive-monotonic",
    "flow",
    "elbo",
)
"""Fifteen built-in objectives, with five pairs that differ only in the weighting: one is monotone,
the other is not."""
