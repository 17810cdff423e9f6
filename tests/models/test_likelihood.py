"""Likelihood: each term of the bound is known."""

import math

import numpy as np
import pytest
import torch
from oracles import bimodal, gaussian, z_score
from scipy.integrate import quad

from elbos import Validator
from elbos.models.likelihood import decoder_loss, eps_loss, prior_loss

NUM_LEVELS = 6
ENDS = {"logsnr_min": -8.0, "logsnr_max": 11.0}


@pytest.mark.parametrize("logsnr_min", [-12.0, -5.0, 0.0, 3.0])
def test_prior_loss_is_a_kl_divergence(logsnr_min, randn):
    x = randn(4, 3, 4, 4)
    alpha, sigma = torch.sigmoid(torch.tensor([logsnr_min, -logsnr_min]).double()).sqrt()
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(alpha * x, sigma), torch.distributions.Normal(0.0, 1.0)
    )
    loss = prior_loss(x, logsnr_min)
    torch.testing.assert_close(loss, kl.mean(dim=(1, 2, 3)), rtol=1e-7, atol=1e-12)


def test_decoder_loss_vanishes_as_the_levels_are_resolved(generator):
    """From the ln K of pure noise to nothing."""
    x = torch.linspace(-1, 1, 17, dtype=torch.float64).repeat(100, 1)
    losses = [
        decoder_loss(x, level, 17, generator=generator).mean().item()
        for level in (-20.0, 0.0, 4.0, 6.0, 8.0, 11.0)
    ]
    assert losses[0] == pytest.approx(math.log(17), abs=1e-3)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-12


def test_decoder_of_two_levels_is_a_logistic_regression(generator):
    """-ln sigmoid(2 e^l u) at u = 1 + e^{-l/2} eps, by quadrature over eps; z < 4, n = 10,000."""
    x = torch.ones(10_000, 1, dtype=torch.float64)
    level = -0.5

    def integrand(eps):
        u = 1 + math.exp(-level / 2) * eps
        return np.logaddexp(0, -2 * math.exp(level) * u) * math.exp(-(eps**2) / 2)

    expected = quad(integrand, -12, 12)[0] / math.sqrt(2 * math.pi)
    for sign in (1, -1):
        assert z_score(decoder_loss(sign * x, level, 2, generator=generator), expected) < 4


def test_decoder_of_continuous_data_is_a_gaussian_density():
    """E[-ln N(x; x + s eps, s^2)] is the entropy of N(0, s^2), s^2 = e^{-l}."""
    loss = decoder_loss(torch.zeros(4, 3, 4, 4, dtype=torch.float64), 3.0, None)
    std = torch.full((4,), -1.5, dtype=torch.float64).exp()
    expected = torch.distributions.Normal(torch.zeros_like(std), std).entropy()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_images_in_a_batch_as_large_as_the_width_are_independent():
    """Each image's loss is that of the same image in a row of pixels, at its own level."""
    generator = torch.Generator()
    x = torch.randn(4, 3, 4, 4, generator=generator.manual_seed(0), dtype=torch.float64)
    logsnr = torch.tensor([-6.0, -1.0, 2.0, 5.0], dtype=torch.float64)
    data = gaussian(0.5, 48)

    def images(z, logsnr, *_):
        return tuple(part.reshape(z.shape) for part in data(z.flatten(1), logsnr))

    loss = eps_loss(images, x, logsnr, generator=generator.manual_seed(1))
    rows = eps_loss(data, x.flatten(1), logsnr, generator=generator.manual_seed(1))
    torch.testing.assert_close(loss, rows, rtol=1e-12, atol=0)
    bounds = [Validator(v, **ENDS)(d).bound for d, v in ((images, x), (data, x.flatten(1)))]
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-12, atol=0)


def test_the_bound_and_its_terms_have_no_graph(generator):
    """Though data and network have gradients."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = torch.randint(NUM_LEVELS, (5, 1), generator=generator).double() * 2 / (NUM_LEVELS - 1) - 1
    x.requires_grad_()
    needed = []

    def network(z, logsnr, cond=None):
        needed.append((scale * z).requires_grad)
        return bimodal()(scale * z, logsnr)

    actual = Validator(x, num_levels=NUM_LEVELS, **ENDS)(network)
    actual = [
        *(actual.decoder, actual.bound, actual.prior),
        eps_loss(network, x, torch.zeros(5, dtype=torch.float64)),
        decoder_loss(x, 11.0, NUM_LEVELS),
        decoder_loss(x, 11.0, None),
        prior_loss(x, -8.0),
    ]
    assert not any(part.requires_grad for part in actual)
    assert not any(needed)


OFF_LEVELS = {  # what people hand over for 256 levels of [-1, 1]
    "pixels in [0, 1]": torch.arange(256.0) / 255,
    "pixels to 255": torch.arange(256.0),
    "dequantized": torch.arange(256.0) / 127.5 - 1 + 0.003,
    "not a number": torch.full((1,), math.nan),
    "standardized": torch.arange(256.0) / 58 - 2,
}


@pytest.mark.parametrize("x", OFF_LEVELS.values(), ids=OFF_LEVELS)
def test_data_off_their_levels_are_refused(x):
    with pytest.raises(ValueError, match="num_levels=256"):
        decoder_loss(x[None], 13.3, 256)
    with pytest.raises(ValueError, match="num_levels is 1"):
        decoder_loss(x[None], 13.3, 1)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_levels_pass_in_every_precision_that_holds_them(num_levels, dtype):
    """The upper half alone too: data that are never below 0 are data."""
    x = (torch.arange(num_levels).double() / (num_levels - 1) * 2 - 1).to(dtype)
    for some in (x, x[num_levels // 2 :]):
        assert decoder_loss(some[None], 13.3, num_levels).isfinite().all()


@pytest.mark.filterwarnings("ignore::elbos.validation.diagnostics.InconsistentEstimatesWarning")
def test_the_bound_of_float16_images_is_that_of_the_images():
    """To float16's rounding of the levels; the decoder's is the same, as it rounds to a level."""
    levels = torch.arange(256).float() / 127.5 - 1

    def measured(x):
        return Validator(x[None], num_levels=256)(lambda z, *_: (z, 0 * z))

    half, single = measured(levels.half()), measured(levels)
    assert torch.equal(half.decoder, single.decoder)
    torch.testing.assert_close(half.bound, single.bound, rtol=1e-3, atol=0)


def test_a_network_is_no_denoiser(randn):
    """A batch of two would be unpacked into a pair."""
    x = randn(2, 1)
    for network in (lambda z, *_: z, lambda z, *_: (z, z[:1])):
        with pytest.raises(ValueError, match=r"\(2, 1\)"):
            eps_loss(network, x, torch.zeros(2, dtype=torch.float64))
