"""Weightings: published recipes imply them, and they rise where docs/theory.md section 4 says."""

import math
import re

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from tables import MONOTONE, NON_MONOTONE, RISES_BELOW, WEIGHTINGS, name_of

from elbos.theory import weightings
from elbos.theory.elbo import is_monotone, rising_intervals
from elbos.theory.recipes import RECIPES
from elbos.theory.tabulated import Tabulated
from elbos.theory.weightings import EDM, Monotone, Shifted, Sigmoid, Weighting

LOGSNR = torch.linspace(-20, 20, 4001, dtype=torch.float64)


def test_every_weighting_is_in_the_table_and_every_method_in_a_recipe():
    assert {type(w) for w in WEIGHTINGS} == set(Weighting.__subclasses__())
    in_recipes = {type(recipe.closed_form) for recipe in RECIPES.values()}
    missing = set(Weighting.__subclasses__()) - in_recipes - {Shifted, Tabulated}
    assert not missing, f"add a recipe in theory/recipes with the closed form of {missing}"


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipe_implies_its_closed_form(recipe):
    """Density x coefficient x error ratio is the closed form, up to a constant, to 1e-10."""
    logsnr = LOGSNR[recipe.schedule.density(LOGSNR) > 0][1:-1]
    ratio = recipe.weighting(logsnr) / recipe.closed_form(logsnr)
    torch.testing.assert_close(ratio / ratio[0], torch.ones_like(ratio), rtol=1e-10, atol=0)
    assert re.search("https://arxiv|as set by trainers|seen in public", recipe.reference)


def flow_time(g):
    return np.sqrt(g) / (1 + np.sqrt(g))


def sd(g):
    """sigmoid(-l) / beta, the root of beta from the integral of beta, ln(1 + g)."""
    first, last = np.sqrt([0.85, 12])
    root = np.cbrt(first**3 + 3 * (last - first) * np.log1p(g))
    return g / (1 + g) / root**2


def zero_terminal_v(shift, g):
    """For velocity p / alpha^2, with p from the derivative of SD's times, to 40 digits."""
    first, last = mpmath.sqrt("0.85"), mpmath.sqrt(12)
    end = 1 / mpmath.sqrt(1 + shift * mpmath.expm1((first**2 + first * last + last**2) / 3))

    def time(alpha):  # of the root that is moved and shifted back
        before = end + (1 - end) * alpha
        integral = mpmath.log1p((1 / before**2 - 1) / shift)
        return mpmath.cbrt(first**3 + 3 * (last - first) * integral) / (last - first)

    def weight(square):
        alpha = 1 / mpmath.sqrt(1 + mpmath.mpf(square))
        return -mpmath.diff(time, alpha) * (1 - alpha**2) / alpha  # dalpha/dl = alpha sigma^2 / 2

    with mpmath.workdps(40):
        return np.array([float(weight(square)) for square in g])


# docs/theory.md section 4, in numpy; l is the log-SNR, g the VE noise level squared
CLOSED_FORMS = {
    weightings.ELBO(): lambda l, g: np.ones_like(l),
    weightings.Sigmoid(k=2.0): lambda l, g: 1 / (1 + np.exp(l - 2)),
    weightings.Exponential(): lambda l, g: np.sqrt(g),
    weightings.IDDPM(): lambda l, g: 1 / np.cosh(l / 2),
    weightings.DDPM(): lambda l, g: g / (1 + g) / np.sqrt(0.01 + 39.8 * np.log1p(g)),
    weightings.EDM(): lambda l, g: np.exp(-(((l - 2.4) / 2.4) ** 2) / 2) * (g + 0.25),
    weightings.EDM2(): lambda l, g: np.exp(-(((l - 0.8) / 2) ** 2) / 2) * (g + 0.25),
    weightings.P2(gamma=0.5): lambda l, g: 1 / np.cosh(l / 2) / np.sqrt(1 + 1 / g),
    weightings.MinSNR(): lambda l, g: np.minimum(1, 5 * g) / np.cosh(l / 2),
    weightings.SoftMinSNR(): lambda l, g: 4 * g / (1 + 4 * g) / np.cosh(l / 2),
    weightings.TruncatedSNR(): lambda l, g: np.maximum(1, g) / np.cosh(l / 2),
    weightings.InDI(): lambda l, g: g / np.cosh(l / 4) ** 2,
    weightings.LogitNormalFlow(mean=0.5, std=0.6): lambda l, g: (
        np.exp(-(((l + 1) / 1.2) ** 2) / 2) * (1 + np.sqrt(g)) ** 2
    ),
    weightings.CosMap(): lambda l, g: (1 + np.sqrt(g)) ** 2 / np.cosh(l / 2),
    weightings.ShiftedFlow(shift=3.0): lambda l, g: (
        np.sqrt(g) * ((1 + np.sqrt(g)) / (1 + np.sqrt(g) / 3)) ** 2
    ),
    weightings.Laplace(): lambda l, g: np.exp(-2 * np.abs(l)) * (1 + g),
    weightings.NormalMixtureFlow(): lambda l, g: (
        (1 + np.sqrt(g)) ** 2
        * sum(
            share * scipy.stats.norm(mean, std).pdf(l)
            for share, mean, std in [(0.79, -2.3, 2), (0.11, -6, 2), (0.1, 5.36, 1)]
        )
    ),
    weightings.BetaFlow(): lambda l, g: flow_time(g) ** 1.5 / (1 - flow_time(g)),
    weightings.UShapeFlow(): lambda l, g: (
        np.sqrt(g) * (np.exp(4 * flow_time(g)) + np.exp(4 - 4 * flow_time(g)))
    ),
    weightings.JiT(noise_scale=2.0): lambda l, g: (
        np.exp(-(((l + 1.6 + np.log(4)) / 1.6) ** 2) / 2)
        * g
        / np.maximum(0.05, 1 / (1 + 2 / np.sqrt(g))) ** 2
    ),
    weightings.StableDiffusion(): lambda l, g: sd(g),
    weightings.StableDiffusionV(): lambda l, g: (1 + g) * sd(g),
    weightings.ZeroTerminalV(): lambda l, g: zero_terminal_v(1, g),
    weightings.ZeroTerminalV(snr_shift=3.0): lambda l, g: zero_terminal_v(3, g),
    weightings.StableDiffusionMinSNR(): lambda l, g: np.minimum(1, 5 * g) * sd(g),
    weightings.StableDiffusionDebiased(): lambda l, g: np.sqrt(g) * sd(g),
}


@pytest.mark.parametrize("weighting", CLOSED_FORMS, ids=repr)
def test_weighting_is_theorys_closed_form(weighting):
    logsnr = LOGSNR[::40]
    expected = torch.from_numpy(CLOSED_FORMS[weighting](logsnr.numpy(), np.exp(-logsnr.numpy())))
    ratio = weighting(logsnr) / expected
    torch.testing.assert_close(ratio / ratio[0], torch.ones_like(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", MONOTONE, ids=repr)
def test_monotone_weightings_never_rise(weighting):
    assert is_monotone(weighting, -20.0, 20.0)
    w = weighting(LOGSNR)
    assert (w.diff() <= 1e-12 * w[:-1]).all()


@pytest.mark.parametrize("weighting", NON_MONOTONE, ids=repr)
def test_unimodal_weightings_rise_below_their_peak(weighting):
    """To a unit of the last digit that docs/theory.md prints; above the peak they are monotone."""
    printed = RISES_BELOW[weighting]
    last_digit = 10.0 ** -len(printed.split(".")[1])
    [(start, end)] = rising_intervals(weighting, -20.0, 20.0)
    assert start == -20.0
    assert end == pytest.approx(float(printed), abs=last_digit)
    assert is_monotone(weighting, end, 20.0)
    assert not is_monotone(weighting, end - 0.1, 20.0)


@pytest.mark.parametrize("shift", [0.05, 0.110, 0.112, 0.5, 3.0])
def test_shifted_flow_is_monotone_iff_the_shift_is_at_least_a_ninth(shift):
    assert is_monotone(weightings.ShiftedFlow(shift=shift), -20.0, 20.0) == (shift >= 1 / 9)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_weighting_is_finite_and_nonnegative_in_float32(weighting):
    w = weighting(LOGSNR.float())
    assert w.dtype == torch.float32
    assert w.isfinite().all()
    assert (w >= 0).all()
    expected = weighting(LOGSNR)
    torch.testing.assert_close(w.double(), expected, rtol=1e-4, atol=1e-37)
    assert expected.shape == weighting(LOGSNR.reshape(-1, 1)).squeeze(1).shape


def bumps(logsnr):
    """Several maxima, of which the largest is not the first and the last is small."""
    heights = [(-9, 1.0), (-4, 3.0), (0, 0.5), (3, 2.0), (11, 0.1)]
    return sum(h * torch.exp(-((logsnr - m) ** 2)) for m, h in heights) + 0.01


INNER = [*NON_MONOTONE, bumps]


@pytest.mark.parametrize("inner", INNER, ids=name_of)
def test_monotone_is_the_least_monotone_majorant(inner):
    """The running maximum from the right, by brute force on a fine grid."""
    logsnr = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    brute = inner(logsnr).flip(0).cummax(0).values.flip(0)
    w = Monotone(inner)(logsnr)
    torch.testing.assert_close(w, brute, rtol=1e-7, atol=1e-300)
    assert (w >= inner(logsnr)).all()
    assert (w.diff() <= 1e-13 * w[:-1]).all()


@pytest.mark.parametrize("inner", INNER, ids=name_of)
def test_monotone_is_idempotent(inner):
    once = Monotone(inner)
    torch.testing.assert_close(Monotone(once)(LOGSNR), once(LOGSNR), rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighting", MONOTONE, ids=repr)
def test_monotone_of_a_monotone_weighting_is_itself(weighting):
    torch.testing.assert_close(Monotone(weighting)(LOGSNR), weighting(LOGSNR), rtol=1e-12, atol=0)


def test_edm_monotonic_is_edm_held_at_its_peak():
    w, edm = Monotone(EDM())(LOGSNR), EDM()(LOGSNR)
    is_below = LOGSNR < -3.308
    torch.testing.assert_close(
        w[is_below], edm.max().expand(int(is_below.sum())), rtol=1e-6, atol=0
    )
    assert torch.equal(w[~is_below], edm[~is_below])


def test_shifted_moves_a_weighting_by_twice_the_shift():
    """At 32x32, s = ln 2: half as many pixels across, four times the SNR for the same picture."""
    shifted = Shifted(Sigmoid(k=2.0), math.log(2))
    torch.testing.assert_close(
        shifted(LOGSNR), Sigmoid(k=2 + math.log(4))(LOGSNR), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_is_off_by_an_eighth_of_the_curvature(dtype):
    """Of linear interpolation: h^2 / 8 max |w''|, here 0.02^2 / 8 / (6 sqrt 3) of a sigmoid."""
    logsnr = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 40 - 20
    error = (Tabulated.from_function(Sigmoid())(logsnr) - Sigmoid()(logsnr)).abs().max().item()
    bound = 0.02**2 / 8 / (6 * math.sqrt(3))
    rounding = 16 * torch.finfo(dtype).eps + 1e-9  # of the place in the table, at 20
    assert 0.9 * bound < error < bound + rounding


def test_a_table_meets_a_function_at_its_levels_and_is_constant_outside():
    table = Tabulated.from_function(EDM())
    levels = torch.arange(-1000, 1001, dtype=torch.float64) / 50
    torch.testing.assert_close(table(levels), EDM()(levels), rtol=1e-8, atol=0)
    outside = torch.tensor([-1e9, 1e9], dtype=torch.float64)
    torch.testing.assert_close(table(outside), EDM()(outside.clamp(-20, 20)), rtol=1e-8, atol=0)


@pytest.mark.parametrize("weighting", [*NON_MONOTONE, *MONOTONE], ids=repr)
def test_a_table_is_monotone_where_the_weighting_is(weighting):
    expected = rising_intervals(weighting, -20.0, 20.0)
    found = rising_intervals(Tabulated.from_function(weighting), -20.0, 20.0)
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_a_table_of_nan_is_nan():
    table = Tabulated.from_function(Sigmoid())
    assert table(torch.tensor([math.nan, 2.0])).isnan().tolist() == [True, False]


tabulated = Tabulated.from_function
REFUSED = [
    (lambda: tabulated(lambda logsnr: logsnr.tolist(), "f"), "f returns list"),
    (lambda: tabulated(lambda logsnr: logsnr * 1j, "f"), "f returns torch.complex128"),
    (lambda: Tabulated(name="f", weights=(1.0, 0.0), logsnr_max=math.inf), "inf"),
    (lambda: tabulated(torch.log), "log is nan at log-SNR -20"),
    (lambda: Tabulated(name="f", weights=(1.0,)), "1 weights"),
    (lambda: Tabulated(name="f", weights=(1.0, -1.0)), "is -1.0 at log-SNR 20"),
    (lambda: tabulated(torch.zeros_like, "f"), "f is 0 at all noise levels"),
    (lambda: weightings.EDM(std=0.0), "std is 0.0"),
    (lambda: weightings.MinSNR(gamma=0.0), "gamma is 0.0"),
    (lambda: weightings.ShiftedFlow(shift=0.0), "shift is 0.0"),
    (lambda: Monotone(torch.log)(LOGSNR), "log-SNR -50"),
]


@pytest.mark.parametrize(("use", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_no_weighting_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
