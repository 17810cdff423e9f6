"""The least loss: exact denoisers of finite sets, and floors against quadrature and entropies."""

import itertools
import math

import pytest
import torch
from oracles import bimodal, gaussian, gaussian_loss, line_loss, z_score

from elbos.models.likelihood import eps_loss
from elbos.theory import floor as floors
from elbos.theory import oracles
from elbos.theory.floor import finite_set_floor, floor_losses, mixture_floor
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


def points_mixture(points):
    """A finite set on a line, as a mixture: its floor by quadrature."""
    num = len(points)
    return GaussianMixture(torch.full((num,), 1 / num).double(), points, torch.zeros(num).double())


def exact_losses(data, logsnr):
    """The floor of a mixture, as a tensor."""
    return torch.tensor(mixture_floor(data, logsnr).loss, dtype=torch.float64)


# --- the exact denoiser --------------------------------------------------------------------------


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
    found, expected = FiniteSet(pixels, num_levels=17)(z, logsnr), FiniteSet(x)(z, logsnr)
    torch.testing.assert_close(found, expected)
    rows = [naive(x, z[i : i + 1], logsnr[i].item()) for i in range(4)]
    torch.testing.assert_close(found[0], torch.cat(rows))


def test_a_class_is_a_set_of_its_own(randn):
    x, labels = randn(30, 3), torch.arange(30) % 3
    data, z, level = FiniteSet(x, labels=labels), randn(4, 3), torch.zeros(1)
    x_hat, _ = data(z, level, torch.tensor([0, -1, 2, 1]))
    expected = [naive(x[labels == c], z, 0.0) for c in range(3)]
    torch.testing.assert_close(x_hat[0], expected[0][0])
    torch.testing.assert_close(x_hat[1], naive(x, z, 0.0)[1])
    torch.testing.assert_close(x_hat[2:], torch.stack([expected[2][2], expected[1][3]]))
    torch.testing.assert_close(data.only(2)(z, level)[0], expected[2])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: FiniteSet(torch.zeros(0, 2)), r"\(0, 2\)"),
        (lambda: FiniteSet(torch.zeros(2, 1), num_levels=256), "256"),
        (lambda: FiniteSet(torch.zeros(2, 1), labels=torch.tensor([0, 1])).only(7), "7"),
        (lambda: finite_set_floor(FiniteSet(POINTS), LEVELS, num_noised=6), "6 of 5"),
        (lambda: finite_set_floor(FiniteSet(POINTS), LEVELS, given_label=True), "no labels"),
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


# --- the floor of a set --------------------------------------------------------------------------


def test_the_floor_of_a_set_agrees_with_quadrature(generator):
    """5 points, 400 copies of each: 2,000 noise vectors; the level's own error decides."""
    data = FiniteSet(POINTS.repeat(400, 1))
    found = finite_set_floor(data, LEVELS, generator=generator)
    exact = mixture_floor(points_mixture(POINTS), LEVELS)
    for loss, error, expected in zip(found.loss, found.standard_error, exact.loss, strict=True):
        assert abs(loss - expected) < 4 * error + 1e-9
    assert (found.num_noised, found.num_points, found.bias) == (2000, 2000, "none")


def test_the_area_under_the_floor_is_the_entropy_of_the_set(generator):
    """I-MMSE: it is ln n over the dimensions. Beyond the ends there is less than 1e-6 of it."""
    x = torch.tensor([[0.0, 0.3], [1.0, -0.2], [-0.6, 0.5], [0.1, 0.9]], dtype=torch.float64)
    levels = torch.linspace(-20, 12, 129, dtype=torch.float64)
    losses = floor_losses(
        FiniteSet(x.repeat(300, 1)), torch.arange(1200), levels, generator=generator
    )
    areas = torch.trapezoid(losses, levels)
    assert z_score(areas, math.log(4) / 2) < 4
    assert areas.std() < 2 * math.log(4) / 2


def test_the_estimate_is_that_of_the_exact_denoiser_with_less_variance(generator):
    x, level = torch.rand(300, 2, generator=generator, dtype=torch.float64), LEVELS[5:6]
    data, rows = FiniteSet(x), torch.arange(300).repeat(4)
    losses = floor_losses(data, rows, level, generator=generator)[:, 0]
    direct = eps_loss(data, x[rows], level.expand(1200), generator=generator)
    error = ((losses.var() + direct.var()) / 1200).sqrt()
    assert (losses.mean() - direct.mean()).abs() < 4 * error
    assert losses.var() < direct.var()


def test_no_denoiser_is_below_the_floor(generator):
    """Such as the best linear one, or the exact one of other data."""
    x = bimodal().sample(500, generator)[0]
    floor = finite_set_floor(FiniteSet(x), LEVELS, generator=generator)
    for denoiser in (bimodal(), gaussian(x.std().item()), FiniteSet(x[:100])):
        for i, level in enumerate(LEVELS):
            loss = eps_loss(denoiser, x, level.expand(500), generator=generator)
            error = math.hypot(loss.std().item() / 500**0.5, floor.standard_error[i])
            assert loss.mean() > floor.loss[i] - 4 * error


def test_blocks_and_order_of_levels_do_not_matter(randn, monkeypatch):
    data, rows = FiniteSet(randn(40, 2, 3)), torch.arange(40)

    def losses(levels):
        return floor_losses(data, rows, levels, generator=torch.Generator().manual_seed(0))

    whole = losses(LEVELS)
    monkeypatch.setattr(floors, "NUM_ROWS", 16)
    monkeypatch.setattr(floors, "NUM_COLUMNS", 7)
    torch.testing.assert_close(losses(LEVELS.flip(0)).flip(1), whole, atol=1e-9, rtol=1e-5)


def test_given_the_label_the_floor_is_that_of_the_classes(randn):
    x, labels = randn(60, 2), torch.arange(60) % 2
    rows = torch.randperm(60)
    g = torch.Generator().manual_seed(0)
    found = floor_losses(FiniteSet(x, labels=labels), rows, LEVELS, given_label=True, generator=g)
    eps = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, row in enumerate(rows.tolist()):
        own = x[labels == labels[row]]
        d = x[row] - own
        for j, level in enumerate(LEVELS.tolist()):
            s = math.exp(level / 2)
            p = (-s * (d @ eps[i]) - s**2 * d.square().sum(1) / 2).softmax(0)
            expected = (p * d.square().sum(1)).sum().item() * s**2 / 8
            assert found[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_random_subset_has_a_lower_floor_on_average(size):
    """Over all subsets of five points, by quadrature; the larger the subset, the higher."""

    def mean_floor(num):
        subsets = itertools.combinations(POINTS, num)
        mixtures = [points_mixture(torch.stack(subset)) for subset in subsets]
        return torch.stack([exact_losses(data, LEVELS[2:7]) for data in mixtures]).mean(0)

    assert (mean_floor(size) < mean_floor(size + 1) + 1e-9).all()


def test_of_a_subset_the_floor_says_that_it_is_a_lower_bound():
    floor = finite_set_floor(FiniteSet(POINTS), LEVELS, num_noised=3, is_subset=True)
    assert (floor.bias, floor.num_noised, floor.num_points) == ("lower bound", 3, 5)


# --- the floor of a mixture ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [bimodal(), gaussian(0.3), points_mixture(POINTS)], ids=["two", "one", "points"]
)
def test_the_floor_of_a_mixture_agrees_with_another_quadrature(data):
    """A grid over z, with the score by autograd; points are resolved by it up to log-SNR 2."""
    levels = LEVELS[:6] if (data.stds == 0).any() else LEVELS
    found = exact_losses(data, levels)
    torch.testing.assert_close(found, line_loss(data, levels), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("std", [0.2, 1.0])
def test_the_floor_of_a_gaussian_is_known(std):
    for dims in (1, 2):
        found = exact_losses(gaussian(std, dims), LEVELS)
        torch.testing.assert_close(
            found, torch.from_numpy(gaussian_loss(LEVELS.numpy(), std)), atol=1e-9, rtol=1e-9
        )


def test_in_the_plane_independent_coordinates_have_the_mean_of_their_floors():
    """Also where points and a wide component are together, at every noise level."""
    lines = [points_mixture(POINTS[:2]), points_mixture(POINTS[2:])]
    plane = GaussianMixture(
        torch.full((6,), 1 / 6).double(),
        torch.cartesian_prod(POINTS[:2, 0], POINTS[2:, 0]),
        torch.zeros(6).double(),
    )
    found = exact_losses(plane, LEVELS)
    expected = torch.stack([exact_losses(line, LEVELS) for line in lines]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-6)
