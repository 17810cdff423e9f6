"""Presets: complete training configurations, by name.

The schedules are adaptive, so that a preset trains well under any weighting. Their clean end is
where the decoder of the likelihood resolves the pixel values: log-SNR 7.8 for the 17 values of
digits, VDM's 13.3 for 256, both 6 standard deviations of the noise from one value to the next.

Two presets for ImageNet have published settings for networks and optimizers, and the weighting
and schedule of Kingma & Gao (2023), https://arxiv.org/abs/2303.00848. Set `--data.path` to the
folder that `elbos data` wrote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from elbos.base.codec import digest
from elbos.base.errors import UsageError, suggestion
from elbos.models.networks import ADMConfig, MLPConfig, UNetConfig, UViTConfig, ViTConfig
from elbos.models.samplers import StochasticDPMSolver
from elbos.theory import parameterizations, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import EDMSampling
from elbos.training.config import Averaging, Config, Optimizer, Output
from elbos.training.data import Digits, Fashion, Packed, Toy
from elbos.training.sampling import Sampling

_FINE = (5, 6, 7, 8)  # measured for 256 pixel values: with 7 and 8 alone, 0.12 bits/dim worse
_SMALL = UNetConfig(channels=(32, 64), fourier_exponents=_FINE)
_FASHION = Config(
    data=Fashion(),
    network=UNetConfig(fourier_exponents=_FINE),
    parameterization=parameterizations.V(),
    schedule=Adaptive(logsnr_min=-10.0, logsnr_max=13.3),
    weighting=weightings.Sigmoid(k=2.0),
    optimizer=Optimizer(use_muon=True, learning_rate=8e-3),
    # To sigma/alpha = 0.02. To EDM's 0.002, a quarter of the step from one pixel value to the next,
    # samples are worse (docs/results/time-to-quality).
    sampling=Sampling(sampler=StochasticDPMSolver(), grid=EDMSampling(logsnr_max=7.824)),
    num_images=100_000,
    batch_size=32,
)

_PUBLISHED = Optimizer(
    learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup_images=0, use_decay=False
)
_RARELY = Output(log_every=200_000, validate_every=20_000_000)

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
        network=UNetConfig(num_blocks=1, num_attention_levels=0, dropout=0.1),
        parameterization=parameterizations.V(),
        schedule=Adaptive(logsnr_min=-8.0, logsnr_max=7.8),
        weighting=weightings.Sigmoid(k=2.0),
        optimizer=Optimizer(use_muon=True, learning_rate=8e-3),
        num_images=120_000,
        batch_size=64,
    ),
    "fashion": _FASHION,
    "fashion-small": replace(_FASHION, network=_SMALL, num_images=50_000),
    # Trained on 12,800 images, one seed, the loss ended at 0.191 with the U-Net's learning rate, at
    # 0.182 with twice and with four times that.
    "fashion-vit": replace(
        _FASHION,
        network=ViTConfig(num_features=256, num_blocks=6, patch_size=4, fourier_exponents=_FINE),
        optimizer=replace(_FASHION.optimizer, learning_rate=1.6e-2),
        num_images=160_000,
        batch_size=64,
    ),
    # Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233, table 11: AdamW at 3e-4, a batch
    # of 2048, 540,000 steps, dropout 0.1, EMA 0.9999, of which the width at the end is 10,000
    # steps. Kingma & Gao: v, sigmoid(2 - log-SNR), the adaptive schedule.
    "imagenet64-adm": Config(
        data=Packed(path=Path("/data/imagenet-64"), flip=True),
        network=ADMConfig(),
        parameterization=parameterizations.V(),
        schedule=Adaptive(logsnr_min=-10.0, logsnr_max=13.3),
        weighting=weightings.Sigmoid(k=2.0),
        optimizer=replace(_PUBLISHED, learning_rate=3e-4),
        averaging=Averaging(relative_width=0.0185),
        num_images=540_000 * 2048,
        batch_size=2048,
        output=_RARELY,
    ),
    # Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093, appendix B: Adam at 1e-4 after a
    # warm-up of 10,000 steps, a batch of 2048, 500,000 steps, gradients clipped to 1, EMA 0.9999,
    # v; noise levels moved by 2 ln(64/128) for the images' size, here the weighting's.
    "imagenet128-uvit": Config(
        data=Packed(path=Path("/data/imagenet-128")),
        network=UViTConfig(),
        parameterization=parameterizations.V(),
        schedule=Adaptive(logsnr_min=-11.4, logsnr_max=13.3),
        weighting=weightings.Sigmoid(k=2.0 + 2 * math.log(64 / 128)),
        optimizer=replace(_PUBLISHED, betas=(0.9, 0.99), warmup_images=10_000 * 2048),
        averaging=Averaging(relative_width=0.02),
        num_images=500_000 * 2048,
        batch_size=2048,
        output=_RARELY,
    ),
}
"""Every preset by name."""

SUMMARIES = {
    "toy": "Points in the plane and a small MLP: a test of everything.",
    "digits": "The 8x8 digits of scikit-learn and a U-Net: the demonstration.",
    "fashion": "Fashion-MNIST, and a U-Net of 64 and 128 channels: the standard experiment.",
    "fashion-small": "Fashion-MNIST and a U-Net of 32 and 64 channels, for fewer images.",
    "fashion-vit": "Fashion-MNIST and a vision transformer, as long as the U-Net.",
    "imagenet64-adm": "ImageNet at 64x64, packed, and ADM's U-Net: the paper's experiment.",
    "imagenet128-uvit": "ImageNet at 128x128, packed, and simple diffusion's U-ViT.",
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Training configuration and the name of its preset."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    preset: tyro.conf.Suppress[str]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> "Chosen":
        """Return the preset that the first command-line word names.

        Raises:
            UsageError: If there is no such preset.
        """
        name = words[0].replace("_", "-") if words else ""
        if name not in PRESETS:
            raise UsageError(f"The preset comes first: {suggestion(name, PRESETS)}")
        return cls(config=PRESETS[name], preset=name)


def default_name(config: Config, preset: str) -> str:
    """Return the default name of a run: the preset, and a digest of the settings if they differ.

    Examples:
        >>> default_name(PRESETS["digits"], "digits")
        'digits'
        >>> default_name(replace(PRESETS["digits"], num_images=512), "digits")[:7]
        'digits-'
    """
    identity = config.identity()
    if identity == PRESETS[preset].identity():
        return preset
    return f"{preset}-{digest(identity)[:8]}"


def nearest_preset(config: Config) -> str:
    """Return the preset from which the fewest parts of a configuration differ."""

    def num_differences(name: str) -> int:
        preset = PRESETS[name]
        return sum(getattr(config, f.name) != getattr(preset, f.name) for f in fields(Config))

    return min(PRESETS, key=num_differences)
