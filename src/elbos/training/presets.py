"""Presets: complete configurations under a name.

The schedules are adaptive, so that a preset trains well under whatever weighting it is given. Their
clean end is where the decoder of the likelihood resolves the pixel values: 7.8 for the 17 of
digits, VDM's 13.3 for 256, both 6 standard deviations of the noise from one value to the next.
Cleaner noise levels would be trained on for nothing.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Union

import tyro

from elbos import parameterizations, weightings
from elbos.adaptive import Adaptive
from elbos.networks import MLPConfig, UNetConfig
from elbos.samplers import StochasticDPMSolver
from elbos.training.config import Config, Optimizer
from elbos.training.data import Digits, Fashion, Toy
from elbos.training.sampling import Sampling

_FINE = (5, 6, 7, 8)  # measured for 256 pixel values: with 7 and 8 alone, 0.12 bits/dim worse
_SMALL = UNetConfig(channels=(64, 128), fourier_exponents=_FINE)
_FASHION = Config(
    data=Fashion(),
    network=UNetConfig(num_blocks=2, fourier_exponents=_FINE),
    parameterization=parameterizations.V(),
    schedule=Adaptive(logsnr_min=-10.0, logsnr_max=13.3),
    weighting=weightings.Sigmoid(k=2.0),
    optimizer=Optimizer(use_muon=True, learning_rate=8e-3),
    sampling=Sampling(sampler=StochasticDPMSolver(), num_steps=16),
    num_images=160_000,
    batch_size=64,
)

PRESETS: dict[str, Config] = {
    "toy": Config(
        data=Toy(),
        network=MLPConfig(),
        parameterization=parameterizations.V(),
        schedule=Adaptive(logsnr_min=-10.0, logsnr_max=10.0),
        weighting=weightings.ELBO(),
        num_images=500_000,
        batch_size=512,
        precision="fp32",
    ),
    "digits": Config(
        data=Digits(),
        network=UNetConfig(channels=(96, 192), patch_size=1, dropout=0.1),
        parameterization=parameterizations.V(),
        schedule=Adaptive(logsnr_min=-8.0, logsnr_max=7.8),
        weighting=weightings.Sigmoid(k=2.0),
        optimizer=Optimizer(learning_rate=2e-3),
        num_images=120_000,
    ),
    "fashion": _FASHION,
    "fashion-small": replace(_FASHION, network=_SMALL, num_images=100_000),
}
"""Every preset by name."""

_SUMMARIES = {
    "toy": "Points in the plane and a small MLP: a test of everything.",
    "digits": "The 8x8 digits of scikit-learn and a U-Net: the demonstration.",
    "fashion": "Fashion-MNIST, and a U-Net of 128 and 256 channels: the standard experiment.",
    "fashion-small": "Fashion-MNIST and a U-Net of 64 and 128 channels, for fewer images.",
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A configuration that began as a preset.

    Attributes:
        config: The configuration.
        preset: Name of the preset.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: tyro.conf.Suppress[str]


if TYPE_CHECKING:
    Preset = Chosen
else:
    Preset = Union[  # noqa: UP007, built at run time
        tuple(
            Annotated[
                Chosen,
                tyro.conf.subcommand(
                    name,
                    default=Chosen(config=config, preset=name),
                    description=_SUMMARIES.get(name),
                ),
            ]
            for name, config in PRESETS.items()
        )
    ]
