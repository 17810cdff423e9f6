"""The exact denoiser in anybody's format is, adapted, the exact denoiser."""

import math
from dataclasses import replace

import pytest
import torch
from stand_ins import LINEAR, of_betas, of_edm, of_flow, of_sigma

from elbos import adapters
from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import diffuse

GAUSSIAN = GaussianMixture(
    weights=torch.ones(1).double(),
    means=torch.zeros(1, 3).double(),
    stds=torch.tensor([0.6]).double(),
)
MIXTURE = GaussianMixture(
    weights=torch.tensor([0.3, 0.5, 0.2]).double(),
    means=torch.tensor([[0.5, -0.5, 0.0], [-0.7, 0.1, 0.3], [0.2, 0.9, -0.6]]).double(),
    stds=torch.tensor([0.1, 0.2, 0.05]).double(),
)
DATA = {"gaussian": GAUSSIAN, "mixture": MIXTURE}


def scheduled(name, make, **options):
    config = {"_class_name": f"{name}Scheduler"} | options
    return lambda data: adapters.diffusers.denoiser(make(data), config)


V = {"prediction_type": "v_prediction"}
FORMATS = {
    "ddpm-epsilon": scheduled("DDPM", lambda data: of_betas(data, LINEAR, "epsilon")),
    "ddpm-v_prediction": scheduled(
        "DDPM", lambda data: of_betas(data, LINEAR, "v_prediction"), **V
    ),
    "edm-f": scheduled("EDMEuler", lambda data: of_edm(data, 0.5)),
    "flow-match": scheduled(
        "FlowMatchEulerDiscrete", lambda data: of_flow(data, time_scale=1000), shift=3.0
    ),
    "edm": lambda data: adapters.edm.denoiser(of_sigma(data)),
    "flow-0": lambda data: adapters.flow.denoiser(of_flow(data), data_at=0),
    "flow-1": lambda data: adapters.flow.denoiser(
        of_flow(data, 1000, data_at=1), data_at=1, time_scale=1000
    ),
    **{
        f"flow-{end}, optimal transport": lambda data, end=end: adapters.flow.denoiser(
            of_flow(data, data_at=end, sigma_min=0.01), data_at=end, sigma_min=0.01
        )
        for end in (0, 1)
    },
}
"""Formats; more of diffusers' schedulers are held against diffusers itself, in `test_scheduled`."""


def drawn(denoiser, data, dtype):
    """Noisy data at 41 noise levels from end to end of the denoiser's range."""
    low, high = max(denoiser.logsnr_min, -12.0), min(denoiser.logsnr_max, 12.0)
    generator = torch.Generator().manual_seed(0)
    logsnr = torch.linspace(low, high, 41, dtype=torch.float64).repeat_interleave(16)
    x, _ = data.sample(len(logsnr), generator)
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    x, eps, logsnr = x.to(dtype), eps.to(dtype), logsnr.to(dtype)
    return diffuse(x, eps, logsnr), logsnr, eps


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_estimates_are_the_oracles_in_float64(make, data):
    denoiser = make(data)
    z, logsnr, _ = drawn(denoiser, data, torch.float64)
    torch.testing.assert_close(denoiser(z, logsnr), data(z, logsnr), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_losses_are_the_oracles_in_float32(make, data):
    """The mean of 16 samples at each level: an estimate is rounded by up to 6e-8 e^6 = 2.4e-5."""
    denoiser = make(data)
    z, logsnr, eps = drawn(denoiser, data, torch.float32)
    exact = data(z.double(), logsnr.double())[1]
    loss, loss_exact = (
        (0.5 * (eps_hat.double() - eps) ** 2).view(41, -1).mean(1)
        for eps_hat in (denoiser(z, logsnr)[1], exact)
    )
    torch.testing.assert_close(loss, loss_exact, rtol=0, atol=1e-5)


def test_the_range_is_that_of_the_steps():
    bar = 1 - torch.from_numpy(LINEAR)
    denoiser = FORMATS["ddpm-epsilon"](GAUSSIAN)
    expected = [torch.logit(level).item() for level in (bar.prod(), bar[0])]
    assert [denoiser.logsnr_min, denoiser.logsnr_max] == pytest.approx(expected, abs=1e-9)
    flow = FORMATS["flow-match"](GAUSSIAN)
    assert flow.logsnr_min == -math.inf
    assert flow.logsnr_max == pytest.approx(2 * math.log(999 / 3), abs=1e-12)


@pytest.mark.parametrize("name", ["edm", "flow-0", "ddpm-v_prediction"])
def test_batch_size_may_equal_the_width(name, randn):
    data = GaussianMixture(
        weights=torch.ones(1).double(),
        means=torch.tensor([[0.1, -0.4, 0.2, 0.6]]).double(),
        stds=torch.tensor([0.6]).double(),
    )
    z, logsnr = randn(4, 4), torch.tensor([-4.0, -1.0, 2.0, 6.0]).double()
    torch.testing.assert_close(
        FORMATS[name](data)(z, logsnr), data(z, logsnr), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", ["edm", "flow-0", "ddpm-epsilon"])
def test_a_network_may_change_its_input(name, randn):
    exact, changes = FORMATS[name](MIXTURE), FORMATS[name](MIXTURE)

    def changing(z, timestep):
        y = changes.network(z, timestep)
        z.zero_()
        return y

    z, logsnr = randn(4, 3), torch.tensor([-4.0, -1.0, 2.0, 6.0]).double()
    torch.testing.assert_close(
        replace(changes, network=changing)(z.clone(), logsnr), exact(z, logsnr), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["edm", "flow-0", "ddpm-epsilon"])
def test_a_network_gets_the_dtype_of_its_parameters(name, randn):
    class InFloat32(torch.nn.Linear):
        def forward(self, z, timestep):
            return super().forward(z)

    denoiser = replace(FORMATS[name](MIXTURE), network=InFloat32(3, 3))
    x_hat, eps_hat = denoiser(randn(2, 3), torch.tensor([-1.0, 2.0]).double())
    assert x_hat.dtype == eps_hat.dtype == torch.float64
