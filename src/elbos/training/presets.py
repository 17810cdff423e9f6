"""Presets: complete configurations under a name."""

from elbos import parameterizations, schedules, weightings
from elbos.networks import MLPConfig, UNetConfig
from elbos.training.config import Config
from elbos.training.data import Digits, Fashion, Toy

PRESETS: dict[str, Config] = {
    "toy": Config(
        data=Toy(),
        network=MLPConfig(),
        parameterization=parameterizations.V(),
        schedule=schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0),
        weighting=weightings.ELBO(),
        num_images=500_000,
        batch_size=512,
        precision="fp32",
    ),
    "digits": Config(
        data=Digits(),
        network=UNetConfig(patch_size=1, dropout=0.1),
        parameterization=parameterizations.V(),
        schedule=schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0),
        weighting=weightings.Sigmoid(k=2.0),
        num_images=100_000,
    ),
    "fashion": Config(
        data=Fashion(),
        network=UNetConfig(),
        parameterization=parameterizations.V(),
        schedule=schedules.Cosine(logsnr_min=-10.0, logsnr_max=13.3),
        weighting=weightings.Sigmoid(k=2.0),
        num_images=400_000,
    ),
}
"""Every preset by name."""
