"""The bound of a network that takes packed latents, which a function of (z, timestep, ...) packs.

Flux' transformer takes 2x2 patches of latents as tokens, with their positions, and times from 0 to
1. Here it is tiny and untrained; latents and embeddings of a text are noise.
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

import elbos

torch.manual_seed(0)
width = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 4, 8)}
depth = {"num_layers": 1, "num_single_layers": 1}
text_width = {"joint_attention_dim": 8, "pooled_projection_dim": 8}
transformer = FluxTransformer2DModel(in_channels=16, **width, **depth, **text_width).eval()


def velocity(z, timestep, text, pooled):
    """The velocity eps - x, [b, c, h, w], at the scheduler's timestep."""
    grid = z.shape[2] // 2, z.shape[3] // 2
    tokens = transformer(
        hidden_states=pixel_unshuffle(z, 2).flatten(2).mT,
        timestep=timestep / 1000,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        img_ids=torch.cartesian_prod(torch.arange(1), *map(torch.arange, grid)),
        txt_ids=torch.zeros(text.shape[1], 3),
    ).sample
    return pixel_shuffle(tokens.mT.unflatten(2, grid), 2)


latents = torch.randn(16, 4, 8, 8)  # scaled as in the network's training
cond = {"text": torch.randn(16, 5, 8), "pooled": torch.randn(16, 8)}
denoiser = elbos.adapters.diffusers.denoiser(velocity, FlowMatchEulerDiscreteScheduler())
validator = elbos.Validator(latents, logsnr_min=-10.0, logsnr_max=denoiser.logsnr_max)
result = validator(denoiser, cond=cond)  # warns, rightly, that the network is untrained
print(f"{result.nats.mean:.2f} ± {result.nats.standard_error:.2f} nats/dim, up to a constant")
