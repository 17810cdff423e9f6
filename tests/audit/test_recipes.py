"""Recipes are recovered, mistakes found, and what a weighting does not show is diagnosed."""

import pytest
import torch
from audit_errors import central, relative_errors
from audited import X, audited, audited_oddity, edm_per_sample, kinds, sampled, within
from mistaken_losses import MISTAKES, ODDITIES
from training_losses import CASES, cosine_with_offset

from elbos import audit
from elbos.audit.diagnostics import KINDS
from elbos.audit.words import views
from elbos.base.codec import parse
from elbos.theory import elbo as analysis
from elbos.theory import weightings
from elbos.theory.recipes import RECIPES
from elbos.theory.weightings import Weighting


def truth_of(case, result):
    """What a case weighs; its recipe's closed form, but for the offset that cosine steps have."""
    closed_form = RECIPES[case.recipe].weighting
    if (result.density_kind, result.schedule) != ("table", "Cosine()"):
        return closed_form
    iddpm = weightings.IDDPM()
    return lambda logsnr: closed_form(logsnr) * cosine_with_offset(logsnr) / iddpm(logsnr)


def is_named(result, weighting):
    """Whether the first name means this weighting, up to a factor; names have four digits."""
    ratio = parse(Weighting, result.closest[0].name)(result.logsnr) / weighting(result.logsnr)
    return (ratio / ratio[len(ratio) // 2] - 1)[central(result)].abs().max() < 3e-3


@pytest.mark.parametrize("case", sampled(CASES, 4), ids=lambda case: case.loss.__name__)
def test_a_recipe_is_recovered(case):
    result = audited(case.loss, 5000)
    closed_form = RECIPES[case.recipe].weighting
    for truth in (closed_form, truth_of(case, result)):
        errors = relative_errors(result, truth).abs()
        assert errors.median() < 0.03
        assert errors.quantile(0.95) < 0.08
    is_table = result.density_kind == "table"  # whose steps are not yet the limit of many
    assert errors.quantile(0.95) < (0.015 if is_table else 0.003)
    assert warnings(result) == []
    assert result.parameterization == case.parameterization
    assert is_named(result, closed_form)
    ends = result.logsnr[[0, -1]].tolist()
    assert result.is_monotone == analysis.is_monotone(closed_form, *ends)
    remaining = result.logsnr[central(result)]
    low, high = remaining[0].item(), remaining[-1].item()
    expected = within(analysis.rising_intervals(closed_form, -50, 50), low, high)
    actual = within(result.rising, low, high)
    torch.testing.assert_close(actual, expected, atol=0.15, rtol=0)  # where the slope is 0


def has(**values):
    """Whether attributes of an audit are these."""
    return lambda result: all(getattr(result, name) == value for name, value in values.items())


# What the audit of the mistaken loss finds and that of the right one does not.
FOUND = {
    "max_for_min": has(coefficient_name="max(snr, 5)"),
    "snr_is_a_root": has(coefficient_name="min(sqrt(snr), 5)/sqrt(snr)"),
    "eps_weight_on_v": has(coefficient_name="min(snr, 5)/snr"),
    "one_plus_min_snr": has(coefficient_name="min(snr, 5)/snr + 1"),
    "one_at_zero_snr": lambda result: abs(result.weight_pure_noise - 3.93) < 0.05,
    "p2_exponent_sign": has(coefficient_name="snr + 1"),
    "sqrt_twice": has(
        process="variance preserving but for the square roots of ᾱ and 1 - ᾱ taken twice"
    ),
    "broadcast": lambda result: kinds(result) == ["batch-mean"],
    "p_mean_sign": has(schedule="Normal(mean=-2.4)"),
    "p_mean_p_std_swapped": has(schedule="Normal(mean=-3.2, std=1.6)"),
    "sigma_data_not_squared": has(coefficient_name="snr + 2"),
    "shifted_twice": has(schedule="Flow(shift=9.0)"),
    "time_not_squared": has(coefficient_name="1/t, t = 1/(1 + sqrt(snr))"),
}


NOTHING_LIKE = {"one_at_zero_snr"}  # the loss has no slip of a published one's formula


def warnings(result):
    """The kinds of notes that ask a reader to look at the code."""
    return [note.kind for note in views([result])[0].notes if note.kind in ("slip", "error")]


@pytest.mark.parametrize("mistake", sampled(MISTAKES, 3), ids=lambda mistake: mistake.name)
def test_a_mistake_is_found(mistake):
    is_found = FOUND[mistake.name]
    right, wrong = audited(mistake.right, 2000), audited(mistake.wrong, 4000)
    assert is_found(wrong)
    assert not is_found(right)
    assert warnings(right) == []
    assert len(warnings(wrong)) == (mistake.name not in NOTHING_LIKE)


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda oddity: oddity.name)
def test_what_a_weighting_does_not_show_is_diagnosed(oddity):
    result = audited_oddity(oddity)
    assert kinds(result) == ([] if oddity.kind is None else [oddity.kind])
    assert result.is_weighted_elbo == (oddity.kind is None or not KINDS[oddity.kind].is_fatal)


def test_zero_terminal_snr_is_reported_and_no_number_is_lost():
    loss = next(oddity.loss for oddity in ODDITIES if oddity.name == "zero_terminal_snr")
    result = audit.probe(loss, X, 2000)
    assert abs(result.share_pure_noise - 0.001) < 4 * (0.001 / 2000) ** 0.5
    assert result.logsnr.isfinite().all()


def test_a_constant_factor_changes_nothing():
    first = audit.probe(edm_per_sample, X, 1000)
    second = audit.probe(lambda network, x: 7 * edm_per_sample(network, x).sum(), X, 1000)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-5, atol=0)


def test_the_masses_are_those_of_the_theory():
    # theory: for EDM's weight from log-SNR -2 ln 80 on, the negative mass is 92 % of the positive
    result = audit.from_recipe("edm")
    mixture = analysis.elbo_mixture(
        weightings.EDM(), result.logsnr[0].item(), result.logsnr[-1].item()
    )
    assert abs(result.negative_mass / mixture.negative_mass - 1) < 1e-3
    assert abs(result.mass_at_max - mixture.mass_at_max) < 1e-9
    density = result.mixture_density
    torch.testing.assert_close(
        density, mixture.density(result.logsnr), atol=2e-3 * density.abs().max().item(), rtol=0
    )
    total = torch.trapezoid(density, result.logsnr) + result.mass_at_max
    assert abs(total.item() - 1) < 1e-3


@pytest.mark.parametrize("name", RECIPES)
def test_a_declared_recipe_is_exact(name):
    result = audit.from_recipe(name)
    recipe = RECIPES[name]
    assert relative_errors(result, recipe.weighting).abs().max() < 1e-9
    low, high = result.logsnr[0].item(), result.logsnr[-1].item()
    expected = analysis.rising_intervals(recipe.weighting, low, high)
    torch.testing.assert_close(result.rising, expected, atol=1e-5, rtol=0)
    assert is_named(result, recipe.weighting)
    assert result.closest[0].distance == pytest.approx(0, abs=1e-9)
