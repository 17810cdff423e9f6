r"""Scaled latents of diffusers' autoencoders, the data of latent diffusion models.

A network is trained on latents that are shifted and scaled, overall or by channel,

$$x = (\mathrm{encode}(\text{image}) - \text{shift}) \cdot \text{scale}.$$

| autoencoder | of | shift | scale |
|---|---|---|---|
| `AutoencoderKL` | SD 1 to 3, SDXL, Flux, Z-Image | `shift_factor` | `scaling_factor` |
| `AutoencoderDC` | Sana | 0 | `scaling_factor` |
| `AutoencoderKLQwenImage`, `AutoencoderKLWan` | Qwen-Image, Krea 2, Wan | `latents_mean` | `1 / latents_std` |
| `AutoencoderKLFlux2` | FLUX.2 | `bn.running_mean` | `(bn.running_var + batch_norm_eps)**-0.5` |

FLUX.2 scales patches of 2 x 2 latents, whose entries are channels of the network.
"""  # noqa: E501

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from elbos.adapters.diffusers.training import number

VAES = (
    *("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderDC"),
    *("AutoencoderKLQwenImage", "AutoencoderKLWan"),
)
"""Names of the diffusers classes of autoencoders that `Latents` knows."""

_OF_VIDEO = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
_LOGVAR = -30.0  # stands for zero variance: the lowest log-variance in diffusers


@dataclass(frozen=True, kw_only=True)
class Latents:
    """VAE of a latent diffusion model with scaling of the latents.

    Attributes:
        vae: The autoencoder of diffusers.
        scale: The factor that multiplies shifted latents: the VAE's `scaling_factor`, divided by
            the channels' standard deviations if given.
        shift: The value subtracted from latents before scaling: the VAE's `shift_factor`, or the
            channel means; `[c, 1, 1]` or one number.
        patch: Side of the patches of latents that become channels before scaling; 2 for FLUX.2.
        is_video: Whether the VAE encodes videos. An image is given to it as a video of one frame.
    """

    vae: Any
    scale: Float[Tensor, "..."]
    shift: Float[Tensor, "..."]
    patch: int = 1
    is_video: bool = False

    @classmethod
    def from_vae(cls, vae: Any) -> "Latents":
        """Read the scaling of the latents from a diffusers VAE's configuration, or FLUX.2's batch
        normalization.

        Raises:
            ValueError: If the configuration has neither a `scaling_factor` nor `latents_std`.
        """
        config, name = vae.config, type(vae).__name__
        if name == "AutoencoderKLFlux2":
            variance = vae.bn.running_var + config["batch_norm_eps"]
            return cls(
                vae=vae,
                scale=variance.rsqrt().view(-1, 1, 1),
                shift=vae.bn.running_mean.view(-1, 1, 1),
                patch=config["patch_size"][0],
            )
        entries = {key: value for key, value in config.items() if value is not None}
        has_channels = {"latents_mean", "latents_std"} <= entries.keys()
        if "scaling_factor" not in entries and not has_channels:
            raise ValueError("the VAE's config.json has no scaling_factor: add the training value.")
        scale = torch.tensor(number(entries, "scaling_factor", 1.0, above=0))
        shift = torch.tensor(number(entries, "shift_factor", 0.0))
        if has_channels:
            shift, std = (torch.tensor(entries[f"latents_{s}"]) for s in ("mean", "std"))
            shift, scale = shift.view(-1, 1, 1), scale / std.view(-1, 1, 1)
        return cls(vae=vae, scale=scale, shift=shift, is_video=name in _OF_VIDEO)

    @torch.no_grad()
    def __call__(
        self,
        images: Float[Tensor, "b c *f h w"],
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Float[Tensor, "b d *k i j"]:
        """Encode images as scaled latents.

        The latents are float32, on the device of the VAE.

        Args:
            images: Images in [-1, 1], or videos, for a VAE of videos.
            generator: Random generator for sampling from the latent distribution, or one generator
                per image. Default: the mean of the distribution.
        """
        encoded = self._encoded(images)
        latents: Tensor = encoded.mode() if generator is None else encoded.sample(generator)
        return self.normalize(latents.flatten(1, -3) if images.ndim == 4 else latents)

    def normalize(self, latents: Float[Tensor, "b d *k i j"]) -> Float[Tensor, "b e *k l m"]:
        """Shift and scale latents, such as cached outputs of the VAE, for the diffusion network."""
        x = self._patches(latents)
        return (x - self._by_channel(self.shift, x)) * self._by_channel(self.scale, x)

    @torch.no_grad()
    def moments(
        self, images: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d i j"], Float[Tensor, "b d i j"]]:
        """Encode images as means and log-variances of scaled latents, both float32."""
        encoded = self._encoded(images)
        mean, logvar = (part.float().flatten(1, -3) for part in (encoded.mean, encoded.logvar))
        return self.normalize(mean), self._patches(logvar) + 2 * self.scale.to(mean).log()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b d *k i j"]) -> Float[Tensor, "b c *f h w"]:
        """Decode scaled latents to images, approximately in [-1, 1], on the VAE's device."""
        z = latents.to(next(self.vae.parameters()))
        z = z / self._by_channel(self.scale, z) + self._by_channel(self.shift, z)
        z = pixel_shuffle(z, self.patch) if self.patch > 1 else z
        is_image = latents.ndim == 4
        images: Tensor = self.vae.decode(z.unsqueeze(2) if is_image and self.is_video else z).sample
        return images.flatten(1, -3) if is_image else images

    def _encoded(self, images: Tensor) -> Any:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Gaussian

        x = images.to(next(self.vae.parameters()))
        encoded = self.vae.encode(x.unsqueeze(2) if self.is_video and x.ndim == 4 else x)
        if (latent := getattr(encoded, "latent", None)) is None:
            return encoded.latent_dist
        return Gaussian(torch.cat([latent, torch.full_like(latent, _LOGVAR)], 1), True)

    def _patches(self, latents: Tensor) -> Tensor:
        return pixel_unshuffle(latents, self.patch) if self.patch > 1 else latents

    @staticmethod
    def _by_channel(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z).reshape(-1, *(1,) * (z.ndim - 2))
