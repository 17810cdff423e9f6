r"""Networks of diffusers that take packed latents, reversed times or additional inputs, behind one
call: `network(z, timestep, **conditions)`.

The data of every family are scaled latents, `[b, c, h, w]`, or `[b, c, f, h, w]` for video, and
noise is mixed in on the path of flow matching, $z_\tau = (1 - \tau)x + \tau\epsilon$. The networks
differ in their inputs and in the sign of the velocity:

| family | latents as | time | returns | computed here |
|---|---|---|---|---|
| Flux, FLUX.2 | tokens | $\tau$ | $\epsilon - x$ | positions of image and text |
| Qwen-Image | tokens | $\tau$ | $\epsilon - x$ | shapes of the images |
| Krea 2 | tokens | $\tau$ | $\epsilon - x$ | positions of text and image |
| Z-Image | a list of videos of one frame | $1 - \tau$ | $x - \epsilon$ | the captions' lengths |
| Lumina 2 | latents | $1 - \tau$ | $x - \epsilon$ | |
| HiDream | latents | $1000\tau$ | $x - \epsilon$ | |
| Wan | video | $1000\tau$ | $\epsilon - x$ | the frame axis of images |

Tokens are the patches of $p \times p$ latents, row by row, where $p$ is such that the network's
`in_channels` are $p^2 c$. Stable Diffusion 1 to 3, SDXL, Sana and PixArt are not in the table: they
take latents and the scheduler's timestep.

References:
    The training scripts of diffusers, https://github.com/huggingface/diffusers/tree/main/examples
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from elbos.models.calls import called
from elbos.theory.denoiser import unwrapped

_NUM_STEPS = 1000  # timesteps of the training scripts, whatever the scheduler's configuration


class FamilyNetwork(nn.Module):
    """Text-to-image network of diffusers, one of `FAMILIES`, that returns a velocity.

    Args:
        inner: The network, which may be compiled or wrapped for data parallelism.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.training = inner, inner.training

    def forward(
        self, z: Float[Tensor, "b c *d"], timestep: Float[Tensor, " b"], **cond: Any
    ) -> Float[Tensor, "b c *d"]:
        r"""Return the velocity $\epsilon - x$ at the timestep $1000\tau$.

        A ValueError is raised for missing or unknown conditions.
        """
        call = FAMILIES[type(unwrapped(self.inner)).__name__]
        return called(partial(call, self.inner), (z, timestep), cond)


def pack(z: Float[Tensor, "b c *d"], network: Any) -> tuple[Tensor, tuple[int, int]]:
    """Divide images into tokens `[b, rows * columns, p * p * c]`, in a grid (rows, columns)."""
    inner: Any = unwrapped(network)
    num_channels = z.shape[1]
    side = math.isqrt(inner.config.in_channels // num_channels)
    is_image = z.ndim == 4 or (z.ndim == 5 and z.shape[2] == 1)
    is_packed = is_image and side**2 * num_channels == inner.config.in_channels
    if not (is_packed and z.shape[-2] % side == z.shape[-1] % side == 0):
        raise ValueError(
            f"{type(inner).__name__} takes tokens of {inner.config.in_channels} channels, which "
            f"data of shape {tuple(z.shape[1:])} do not give: give latents, (c, h, w)."
        )
    patches = pixel_unshuffle(z.flatten(1, -3), side)
    return patches.flatten(2).mT, (patches.shape[2], patches.shape[3])


def unpack(
    tokens: Float[Tensor, "b n d"], grid: tuple[int, int], z: Float[Tensor, "b c *d"]
) -> Float[Tensor, "b c *d"]:
    """Assemble images of the shape of `z` from tokens, the inverse of `pack`."""
    patches = tokens.mT.reshape(len(z), -1, *grid)
    return pixel_shuffle(patches, z.shape[-1] // grid[1]).reshape(z.shape)


def positions(*sizes: int, like: Tensor) -> Int[Tensor, "n axes"]:
    """Return the integer coordinates of a regular grid, the last axis fastest."""
    return torch.cartesian_prod(*(torch.arange(size, device=like.device) for size in sizes))


def _guidance(
    network: Any, guidance: float | Tensor | None, z: Tensor
) -> Float[Tensor, " b"] | None:
    """Return the guidance scale of each sample; None if the network has no input for it."""
    inner: Any = unwrapped(network)
    if not inner.config.get("guidance_embeds", True):  # the first FLUX.2 of diffusers had no choice
        return None
    if guidance is None:
        raise ValueError(
            f"{type(inner).__name__} is guidance-distilled (guidance_embeds): give the training "
            "script's guidance_scale as guidance in cond, a number or a tensor [b]."
        )
    return torch.as_tensor(guidance, dtype=torch.float32, device=z.device).expand(len(z))


def _flux(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    encoder_hidden_states: Tensor,
    pooled_projections: Tensor,
    guidance: float | Tensor | None = None,
) -> Tensor:
    tokens, (rows, columns) = pack(z, network)
    image = positions(1, rows, columns, like=z)
    y = network(
        hidden_states=tokens,
        timestep=timestep / _NUM_STEPS,
        guidance=_guidance(network, guidance, z),
        pooled_projections=pooled_projections,
        encoder_hidden_states=encoder_hidden_states,
        txt_ids=image.new_zeros(encoder_hidden_states.shape[1], 3),
        img_ids=image,
        return_dict=False,
    )[0]
    return unpack(y, (rows, columns), z)


def _flux2(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    encoder_hidden_states: Tensor,
    guidance: float | Tensor | None = None,
) -> Tensor:
    tokens, (rows, columns) = pack(z, network)
    y = network(
        hidden_states=tokens,
        timestep=timestep / _NUM_STEPS,
        guidance=_guidance(network, guidance, z),
        encoder_hidden_states=encoder_hidden_states,
        txt_ids=positions(1, 1, 1, encoder_hidden_states.shape[1], like=z),
        img_ids=positions(1, rows, columns, 1, like=z),
        return_dict=False,
    )[0]
    return unpack(y, (rows, columns), z)


def _qwen_image(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    encoder_hidden_states: Tensor,
    encoder_hidden_states_mask: Tensor | None = None,
) -> Tensor:
    tokens, grid = pack(z, network)
    y = network(
        hidden_states=tokens,
        timestep=timestep / _NUM_STEPS,
        encoder_hidden_states=encoder_hidden_states,
        encoder_hidden_states_mask=encoder_hidden_states_mask,
        img_shapes=[(1, *grid)] * len(z),
        return_dict=False,
    )[0]
    return unpack(y, grid, z)


def _krea2(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None = None,
) -> Tensor:
    tokens, grid = pack(z, network)
    image = positions(1, *grid, like=z).float()
    y = network(
        hidden_states=tokens,
        timestep=timestep / _NUM_STEPS,
        encoder_hidden_states=encoder_hidden_states,
        encoder_attention_mask=encoder_attention_mask,
        position_ids=torch.cat([image.new_zeros(encoder_hidden_states.shape[1], 3), image]),
        return_dict=False,
    )[0]
    return unpack(y, grid, z)


def _z_image(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    cap_feats: Float[Tensor, "b l d"],
    cap_mask: Bool[Tensor, "b l"] | None = None,
) -> Tensor:
    captions = list(cap_feats)
    if cap_mask is not None:
        captions = [tokens[mask.bool()] for tokens, mask in zip(captions, cap_mask, strict=True)]
    time = (_NUM_STEPS - timestep) / _NUM_STEPS
    videos = list(z.unsqueeze(2) if z.ndim == 4 else z)
    return -torch.stack(network(videos, time, captions, return_dict=False)[0]).reshape(z.shape)


def _lumina2(network: Any, z: Tensor, timestep: Tensor, **cond: Any) -> Tensor:
    return -called(network, (z, 1 - timestep / _NUM_STEPS), cond)


def _hidream(
    network: Any,
    z: Tensor,
    timestep: Tensor,
    *,
    encoder_hidden_states_llama3: Float[Tensor, "b layers l d"],
    **cond: Any,
) -> Tensor:
    cond["encoder_hidden_states_llama3"] = encoder_hidden_states_llama3.transpose(0, 1)
    return -called(network, (z, timestep), cond)


def _wan(network: Any, z: Tensor, timestep: Tensor, **cond: Any) -> Tensor:
    video = z.unsqueeze(2) if z.ndim == 4 else z
    return called(network, (video, timestep), cond).reshape(z.shape)


FAMILIES: Mapping[str, Callable[..., Tensor]] = {
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "QwenImageTransformer2DModel": _qwen_image,
    "Krea2Transformer2DModel": _krea2,
    "ZImageTransformer2DModel": _z_image,
    "Lumina2Transformer2DModel": _lumina2,
    "HiDreamImageTransformer2DModel": _hidream,
    "WanTransformer3DModel": _wan,
}
"""The function that calls a network of diffusers, by the name of the network's class."""
