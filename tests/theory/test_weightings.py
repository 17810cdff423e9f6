"""Weightings rise where docs/theory.md section 4 says; their majorants; tables."""

import math

import numpy as np
import pytest
import torch
from tables import MONOTONE, NON_MONOTONE, RISES_BELOW, WEIGHTINGS, name_of

from elbos.theory import parameterizations, weightings
from elbos.theory.elbo import is_monotone, rising_intervals
from elbos.theory.objective import Objective
from elbos.theory.parameterizations import V
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Cosine, Flow
from elbos.theory.weightings import EDM, Implied, Monotone, Shifted, Sigmoid, Tabulated, Weighting

LOGSNR = torch.linspace(-20, 20, 4001, dtype=torch.float64)


def test_every_weighting_is_in_the_table():
    assert {type(w) for w in WEIGHTINGS} == set(Weighting.__subclasses__())


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
    assert is_monotone(Implied(Flow(shift=shift), parameterizations.Flow()), -20.0, 20.0) == (
        shift >= 1 / 9
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_weighting_is_finite_and_nonnegative_in_float32(weighting):
    w = weighting(LOGSNR.float())
    assert w.dtype == torch.float32
    assert w.isfinite().all()
    assert (w >= 0).all()
    expected = weighting(LOGSNR)
    torch.testing.assert_close(w.double(), expected, rtol=1e-4, atol=1e-37)
    assert expected.shape == weighting(LOGSNR.reshape(-1, 1)).squeeze(1).shape


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_weighting_is_finite_far_beyond_the_ends_in_float32(name):
    """Where the density alone or the error ratio alone leaves the range of float32."""
    logsnr = torch.tensor([-80.0, -50.0, 50.0, 80.0, 100.0])
    w, expected = RECIPES[name].weighting(logsnr), RECIPES[name].weighting(logsnr.double())
    torch.testing.assert_close(w.double(), expected, rtol=1e-4, atol=1e-37)


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
    actual = rising_intervals(Tabulated.from_function(weighting), -20.0, 20.0)
    np.testing.assert_allclose(actual, expected, atol=0.03)


def test_a_table_of_nan_is_nan():
    table = Tabulated.from_function(Sigmoid())
    assert table(torch.tensor([math.nan, 2.0])).isnan().tolist() == [True, False]


tabulated = Tabulated.from_function


def objective(weighting):
    return Objective(weighting=weighting, schedule=Cosine(), parameterization=V())


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
    (lambda: Implied(Cosine(), V(), "min(snr"), "min.snr"),
    (lambda: Implied(Cosine(), V(), "snr.real"), "snr.real"),
    (lambda: Implied(Cosine(), V(), "__import__('os')"), "__import__"),
    (lambda: Implied(Cosine(), V(), "9**9**9**9"), "9"),
    (lambda: Implied(Cosine(), V(), "-" * 5000 + "1"), "---"),
    (lambda: Implied(Cosine(), V(), "min"), "min"),
    (lambda: Monotone(torch.log)(LOGSNR), "log-SNR -50"),
    (lambda: objective(lambda logsnr: logsnr[:, None]), r"\[1000, 1\]"),
    (lambda: objective(lambda logsnr: 1.0), "float"),
    (lambda: objective(lambda logsnr: -torch.ones_like(logsnr)), "-1 at log-SNR"),
]


@pytest.mark.parametrize(("use", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_no_weighting_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
