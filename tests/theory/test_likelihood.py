"""Likelihood: the bound is tight for the exact denoiser, and each of its terms is known."""

import math

import numpy as np
import pytest
import torch
from oracles import ByClass, bimodal, gaussian, gaussian_loss, quantized, z_score
from scipy.integrate import quad

from elbos import schedules
from elbos.likelihood import (
    decoder_loss,
    eps_loss,
    losses_at,
    prior_loss,
    variational_bound,
)

NUM_LEVELS = 6
NUM_IMAGES = 3000
SCHEDULES = [
    schedules.Cosine(logsnr_min=-8.0, logsnr_max=11.0),
    schedules.Linear(logsnr_min=-8.0, logsnr_max=11.0),
    schedules.Flow(logsnr_min=-8.0, logsnr_max=11.0, shift=0.5),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_bound_on_quantized_data_is_their_log_probability(schedule, generator):
    """Exact denoiser, 3 standard errors, n = 3,000; the decoder resolves 6 levels at 11."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(NUM_IMAGES, generator)
    bound = variational_bound(data, x, schedule, num_levels=NUM_LEVELS, generator=generator)
    exact = -data.weights.log()[atom] / 2  # nats per dimension
    assert z_score(bound.total - exact, 0.0) < 3
    entropy = -(data.weights * data.weights.log2()).sum().item() / 2
    assert abs(bound.bits_per_dim - entropy) < 3 * bound.standard_error
    assert bound.standard_error < 0.03 * entropy


def test_bound_given_the_class_is_the_conditional_log_probability(generator):
    """3 standard errors, n = 3,000; and the wrong class costs."""
    classes = [quantized(NUM_LEVELS, 0.5, 0.4), quantized(NUM_LEVELS, -0.3, 0.8)]
    label = torch.arange(NUM_IMAGES) % 2
    drawn = [data.sample(NUM_IMAGES, generator) for data in classes]
    x = torch.where(label[:, None] == 0, drawn[0][0], drawn[1][0])
    log_p = [data.weights.log()[atom] for data, (_, atom) in zip(classes, drawn, strict=True)]
    exact = -torch.where(label == 0, *log_p) / 2

    def bound(cond):
        return variational_bound(
            ByClass(classes), x, SCHEDULES[0], num_levels=NUM_LEVELS, cond=cond, generator=generator
        ).total

    assert z_score(bound(label) - exact, 0.0) < 3
    assert bound(1 - label).mean() > exact.mean() + 0.1


def test_bound_on_continuous_data_is_their_log_density(generator):
    """3 standard errors, n = 3,000; at 11 the decoder is far narrower than the data."""
    data = bimodal()
    x, _ = data.sample(NUM_IMAGES, generator)
    bound = variational_bound(data, x, SCHEDULES[0], num_levels=None, generator=generator)
    assert z_score(bound.total + data.log_prob(x), 0.0) < 3


def test_a_wrong_denoiser_pays_its_loss(generator):
    """Its diffusion term is the integral of the closed-form loss, z < 4, n = 3,000."""
    x, _ = gaussian(0.5).sample(NUM_IMAGES, generator)
    bound = variational_bound(gaussian(0.9), x, SCHEDULES[0], num_levels=None, generator=generator)
    expected = quad(lambda level: gaussian_loss(level, 0.5, 0.9), -8, 11)[0]
    assert z_score(bound.diffusion, expected) < 4


@pytest.mark.parametrize("num_times", [1, 8])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_diffusion_term_depends_on_no_schedule(schedule, num_times, generator):
    """Information of N(0, s^2) between the ends, z < 4, n = 3,000."""
    x, _ = gaussian(0.5).sample(NUM_IMAGES, generator)
    bound = variational_bound(
        gaussian(0.5), x, schedule, num_levels=None, num_times=num_times, generator=generator
    )
    ends = np.array([-8.0, 11.0]) + 2 * math.log(0.5)
    information = np.diff(np.logaddexp(0, ends)).item() / 2
    assert z_score(bound.diffusion, information) < 4


def test_more_times_lower_the_variance(generator):
    """Stratified: 8 times, less than an eighth of the variance of one, n = 2,000 images of 48."""
    x = torch.ones(2000, 48, dtype=torch.float64)
    variances = [
        variational_bound(
            gaussian(1.0, 48), x, SCHEDULES[0], num_levels=None, num_times=m, generator=generator
        ).diffusion.var()
        for m in (1, 8)
    ]
    assert variances[1] < variances[0] / 8


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
    terms = [
        variational_bound(d, v, SCHEDULES[0], num_levels=None, generator=generator.manual_seed(2))
        for d, v in ((images, x), (data, x.flatten(1)))
    ]
    torch.testing.assert_close(terms[0].total, terms[1].total, rtol=1e-12, atol=0)


def test_the_bound_and_its_terms_have_no_graph(generator):
    """Though data and network have gradients."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = torch.randint(NUM_LEVELS, (5, 1), generator=generator).double() * 2 / (NUM_LEVELS - 1) - 1
    x.requires_grad_()
    needed = []

    def network(z, logsnr, cond=None):
        needed.append((scale * z).requires_grad)
        return bimodal()(scale * z, logsnr)

    bound = variational_bound(network, x, SCHEDULES[0], num_levels=NUM_LEVELS)
    levels = torch.zeros(5, 2, dtype=torch.float64)
    found = [
        *(bound.decoder, bound.diffusion, bound.prior),
        eps_loss(network, x, levels[:, 0]),
        losses_at(network, x, levels),
        decoder_loss(x, 11.0, NUM_LEVELS),
        decoder_loss(x, 11.0, None),
        prior_loss(x, -8.0),
    ]
    assert not any(part.requires_grad for part in found)
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


def test_a_single_pixel_value_and_no_noise_levels_are_refused(randn):
    with pytest.raises(ValueError, match="num_levels is 1"):
        decoder_loss(torch.ones(2, 3), 13.3, 1)
    with pytest.raises(ValueError, match="num_times is 0"):
        variational_bound(bimodal(), randn(2, 2), SCHEDULES[0], num_levels=None, num_times=0)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_levels_pass_in_every_precision_that_holds_them(num_levels, dtype):
    """The upper half alone too: data that are never below 0 are data."""
    x = (torch.arange(num_levels).double() / (num_levels - 1) * 2 - 1).to(dtype)
    for some in (x, x[num_levels // 2 :]):
        assert decoder_loss(some[None], 13.3, num_levels).isfinite().all()


def test_the_bound_of_float16_images_is_that_of_the_images():
    """To float16's rounding of the levels; the decoder's is the same, as it rounds to a level."""
    levels = torch.arange(256).float() / 127.5 - 1
    schedule = schedules.Linear(logsnr_min=-10.0, logsnr_max=13.3)

    def bound(x):
        seed = torch.Generator().manual_seed(0)
        return variational_bound(
            lambda z, *_: (z, 0 * z), x[None], schedule, num_levels=256, generator=seed
        )

    half, single = bound(levels.half()), bound(levels)
    assert half.total.dtype == torch.float32
    assert torch.equal(half.decoder, single.decoder)
    torch.testing.assert_close(half.total, single.total, rtol=1e-3, atol=0)


def test_a_network_is_no_denoiser(randn):
    """A batch of two would be unpacked into a pair."""
    x = randn(2, 1)
    for network in (lambda z, *_: z, lambda z, *_: (z, z[:1])):
        with pytest.raises(ValueError, match=r"\(2, 1\)"):
            eps_loss(network, x, torch.zeros(2, dtype=torch.float64))
