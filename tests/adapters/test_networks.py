"""Networks of diffusers, small and with random weights, called as its pipelines call them."""

import pytest
import torch

from elbos.adapters.diffusers import denoiser
from elbos.theory.denoiser import unwrapped
from elbos.theory.parameterizations import Eps, Flow

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

DDIM = {"_class_name": "DDIMScheduler"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
SMALL = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 4, "patch_size": 2}
GENERATOR = torch.Generator().manual_seed(0)
TEXT = torch.randn(3, 5, 16, generator=GENERATOR)
POOLED = torch.randn(3, 12, generator=GENERATOR)


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


def sd3():
    return diffusers.SD3Transformer2DModel(
        **SMALL,
        in_channels=4,
        out_channels=4,
        sample_size=4,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=12,
        pos_embed_max_size=4,
    )


NETWORKS = {
    "dit": (dit, DDIM, torch.tensor([1, 2, 3]), {"class_labels": torch.tensor([1, 2, 3])}),
    "pixart": (pixart, DDIM, {"encoder_hidden_states": TEXT}, {"encoder_hidden_states": TEXT}),
    "sd3": (sd3, FLOW, *[{"encoder_hidden_states": TEXT, "pooled_projections": POOLED}] * 2),
}


@pytest.mark.parametrize(("make", "config", "cond", "named"), NETWORKS.values(), ids=NETWORKS)
@torch.no_grad()
def test_transformers_are_called_as_in_their_pipelines(make, config, cond, named, randn):
    torch.manual_seed(0)
    network, z = make().eval(), randn(3, 4, 4, 4).float()
    if config is FLOW:
        tau = torch.tensor([0.9, 0.5, 0.02])
        logsnr, timestep, predicts = 2 * torch.log(1 / tau - 1), 1000 * tau, Flow()
        scale = ((1 - tau) ** 2 + tau**2).sqrt().view(-1, 1, 1, 1)
    else:
        timestep, predicts, scale = torch.tensor([20, 500, 990]), Eps(), 1.0
        logsnr = torch.logit(diffusers.DDIMScheduler().alphas_cumprod.double()[timestep]).float()
    output = network(z * scale, timestep=timestep, **named).sample[:, :4]
    expected = predicts.split(output, z, logsnr)
    estimates = denoiser(network, config)(z, logsnr, cond)
    # of betas, float32 in diffusers is off by a hundredth of a step
    for estimate, exact in zip(estimates, expected, strict=True):
        torch.testing.assert_close(estimate, exact, rtol=1e-3, atol=1e-4)


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


def test_a_module_that_calls_another_is_a_network_of_its_own():
    class Inner(torch.nn.Module):
        def forward(self, z, c_noise, aug):
            return z

    class Preconditioned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = Inner()

        def forward(self, z, sigma):
            return self.module(z, sigma.log(), None)

    network = Preconditioned()
    assert unwrapped(network) is network
    assert unwrapped(torch.nn.DataParallel(network)) is network
    assert unwrapped(torch.optim.swa_utils.AveragedModel(network)).__class__ is Preconditioned


@torch.no_grad()
def test_wrapped_networks_are_known_by_what_they_wrap(randn):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **named):
            return self.module(*inputs, **named)

    torch.manual_seed(0)
    network, z, logsnr = sd3().eval(), randn(3, 4, 4, 4).float(), torch.zeros(3)
    cond = NETWORKS["sd3"][2]
    pairs = zip(
        denoiser(Wrapper(network), FLOW)(z, logsnr, cond),
        denoiser(network, FLOW)(z, logsnr, cond),
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)
