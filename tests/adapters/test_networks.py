"""Networks of diffusers, small and with random weights, called as its pipelines call them."""

import pytest
import torch

from elbos.adapters.diffusers import denoiser
from elbos.theory.parameterizations import Eps

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

DDIM = {"_class_name": "DDIMScheduler"}
SMALL = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 4, "patch_size": 2}
GENERATOR = torch.Generator().manual_seed(0)
TEXT = torch.randn(3, 5, 16, generator=GENERATOR)


def dit():
    return diffusers.DiTTransformer2DModel(
        **SMALL, in_channels=4, out_channels=8, sample_size=4, num_embeds_ada_norm=10
    )


def pixart():
    return diffusers.PixArtTransformer2DModel(
        **SMALL,
        in_channels=4,
        out_channels=8,
        sample_size=4,
        cross_attention_dim=16,
        caption_channels=16,
        use_additional_conditions=False,
    )


NETWORKS = {
    "dit": (dit, torch.tensor([1, 2, 3]), {"class_labels": torch.tensor([1, 2, 3])}),
    "pixart": (pixart, {"encoder_hidden_states": TEXT}, {"encoder_hidden_states": TEXT}),
}


@pytest.mark.parametrize(("make", "cond", "named"), NETWORKS.values(), ids=NETWORKS)
@torch.no_grad()
def test_transformers_are_called_as_in_their_pipelines(make, cond, named, randn):
    torch.manual_seed(0)
    network, z = make().eval(), randn(3, 4, 4, 4).float()
    timestep = torch.tensor([20, 500, 990])
    logsnr = torch.logit(diffusers.DDIMScheduler().alphas_cumprod.double()[timestep]).float()
    output = network(z, timestep=timestep, **named).sample[:, :4]
    expected = Eps().split(output, z, logsnr)
    estimates = denoiser(network, DDIM)(z, logsnr, cond)
    # of betas, float32 in diffusers is off by a hundredth of a step
    torch.testing.assert_close(estimates, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_learned_embedding_of_time_gets_whole_steps(randn):
    unet = diffusers.UNet2DModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        time_embedding_type="learned",
        num_train_timesteps=1000,
    ).eval()
    z, step = randn(2, 1, 8, 8).float(), torch.tensor([100, 700])
    denoise = denoiser(unet, {"_class_name": "DDPMScheduler"})
    between = torch.tensor([100.4, 699.7]).double()
    table = torch.logit(diffusers.DDPMScheduler().alphas_cumprod.double())
    logsnr = torch.lerp(table[between.long()], table[between.long() + 1], between.frac()).float()
    torch.testing.assert_close(denoise(z, logsnr)[1], unet(z, step).sample, rtol=0, atol=1e-6)


@torch.no_grad()
def test_wrapped_networks_are_known_by_what_they_wrap(randn):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **named):
            return self.module(*inputs, **named)

    torch.manual_seed(0)
    network, z, logsnr = dit().eval(), randn(3, 4, 4, 4).float(), torch.zeros(3)
    cond = NETWORKS["dit"][1]
    torch.testing.assert_close(
        denoiser(Wrapper(network), DDIM)(z, logsnr, cond),
        denoiser(network, DDIM)(z, logsnr, cond),
        rtol=0,
        atol=0,
    )
