"""Exact denoisers of finite sets, against the posterior mean formed all at once."""

import math

import pytest
import torch

from elbos.theory import oracles
from elbos.theory.oracles import FiniteSet, GaussianMixture
from elbos.theory.process import alpha_sigma, diffuse

LEVELS = torch.linspace(-8, 8, 9, dtype=torch.float64)
POINTS = torch.tensor([[-0.9], [-0.35], [-0.3], [0.2], [1.0]], dtype=torch.float64)


def naive(x, z, logsnr):
    """The posterior mean from differences in float64, all at once."""
    x, z = x.double(), z.double()
    alpha, sigma = alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))
    distance = (z[:, None] - alpha * x).flatten(2).square().sum(2)
    p = (-distance / (2 * sigma**2)).softmax(1)
    return torch.einsum("bj,j...->b...", p, x)


@pytest.mark.parametrize("logsnr", [-15.0, -5.0, 0.0, 5.0, 10.0, 15.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_posterior_mean_is_exact_at_every_noise_level(logsnr, dtype, randn, monkeypatch):
    """Pairs of points are as near as the noise is large, where the posterior is divided."""
    monkeypatch.setattr(oracles, "CHUNK", 7 * 16)  # 7 points at a time
    x = randn(20, 1, 4, 4).to(dtype).repeat(2, 1, 1, 1)
    x[20:] += (0.3 * math.exp(-logsnr / 2) * randn(20, 1, 4, 4)).to(dtype)
    level = torch.tensor([logsnr], dtype=torch.float64)
    z = diffuse(x, randn(40, 1, 4, 4).to(dtype), level)
    x_hat, eps_hat = FiniteSet(x)(z, level)
    assert x_hat.dtype == eps_hat.dtype == dtype
    torch.testing.assert_close(x_hat.double(), naive(x, z, logsnr), atol=1e-6, rtol=1e-6)
    alpha, sigma = alpha_sigma(level)
    exact = FiniteSet(x)(z.double(), level)
    torch.testing.assert_close(alpha * exact[0] + sigma * exact[1], z.double())


def test_pixel_values_stand_for_numbers_in_the_interval(randn):
    """One noise level a sample; batch size, channels and width are equal."""
    pixels = torch.randint(0, 17, (50, 4, 4, 4), dtype=torch.uint8)
    x = 2 * pixels.double() / 16 - 1
    z, logsnr = x[:4] + randn(4, 4, 4, 4), torch.tensor([-3.0, 0.0, 1.0, 9.0])
    actual, expected = FiniteSet(pixels, num_levels=17)(z, logsnr), FiniteSet(x)(z, logsnr)
    torch.testing.assert_close(actual, expected)
    rows = [naive(x, z[i : i + 1], logsnr[i].item()) for i in range(4)]
    torch.testing.assert_close(actual[0], torch.cat(rows))


HALVES, MEANS, STDS = torch.tensor([0.5, 0.5]), torch.zeros(2, 3), torch.ones(2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GaussianMixture(4 * HALVES, MEANS, STDS), "sum 4"),
        (lambda: GaussianMixture(torch.tensor([1.5, -0.5]), MEANS, STDS), "-0.5"),
        (lambda: GaussianMixture(HALVES, MEANS, -STDS), "-1"),
        (lambda: GaussianMixture(HALVES, MEANS[:1], STDS), r"\(1, 3\)"),
        (lambda: FiniteSet(MEANS, labels=torch.zeros(3, dtype=torch.int64)), r"\[2\]"),
    ],
)
def test_no_distribution_is_refused(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_a_class_is_a_set_of_its_own(randn):
    x, labels = randn(30, 3), torch.arange(30) % 3
    data, z, level = FiniteSet(x, labels=labels), randn(4, 3), torch.zeros(1)
    x_hat, _ = data(z, level, torch.tensor([0, -1, 2, 1]))
    expected = [naive(x[labels == c], z, 0.0) for c in range(3)]
    torch.testing.assert_close(x_hat[0], expected[0][0])
    torch.testing.assert_close(x_hat[1], naive(x, z, 0.0)[1])
    torch.testing.assert_close(x_hat[2:], torch.stack([expected[2][2], expected[1][3]]))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: FiniteSet(torch.zeros(0, 2)), r"\(0, 2\)"),
        (lambda: FiniteSet(torch.zeros(2, 1), num_levels=256), "256"),
        (lambda: FiniteSet(POINTS)(POINTS, LEVELS[:1], torch.zeros(5).long()), "no labels"),
        (
            lambda: FiniteSet(POINTS, labels=torch.arange(5))(
                POINTS, LEVELS[:1], torch.full((5,), 9)
            ),
            "no point",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, names):
    with pytest.raises(ValueError, match=names):
        make()
