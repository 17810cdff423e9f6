"""Pinning a weighting in a test: four planted bugs, and losses that are the same objective."""

import math
from functools import cache, partial

import pytest
import torch
from audited import flow_loss

from elbos import audit
from elbos.audit.result import log_ratio_of
from elbos.audit.testing import Difference, assert_weighting, expected_audit, write_golden

NUM = 2000
probe, assert_weighting = (partial(f, num_samples=NUM) for f in (audit.probe, assert_weighting))
X = 2 * torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
ALPHA_BAR = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)


def flow_by_eps(network, x):
    """That of flow matching, with another target: ||v - v_hat|| = ||eps - eps_hat|| / (1 - t)."""
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    error = (network((1 - t) * x + t * eps, t.flatten()) - eps) / (1 - t)
    return error.square().mean()


def min_snr(network, x, bug=None):
    t, eps = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
    alpha_bar = ALPHA_BAR[t].view(-1, 1, 1, 1)
    z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps
    snr = (alpha_bar / (1 - alpha_bar)).flatten()
    weight = (snr.clamp(min=5) if bug == "clamp" else snr.clamp(max=5)) / snr
    error = (network(z, t) - eps).square().mean((1, 2, 3))
    return (weight[:, None] * error[None] if bug == "broadcast" else weight * error).mean()


@cache
def expected():
    """The audit of Min-SNR without a bug."""
    return probe(min_snr, X)


def test_failures_show_the_line_of_the_test_alone(pytester):
    """Of our own files no line: an AssertionError, and a golden file that is not there."""
    pytester.makepyfile("""
        import torch
        from elbos.audit.testing import assert_weighting

        def loss(network, x):
            t, eps = torch.rand(len(x), 1), torch.randn_like(x)
            return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

        def test_other():
            assert_weighting(loss, torch.rand(64, 16), like="edm", num_samples=500)

        def test_missing():
            assert_weighting(loss, torch.rand(64, 16), like="golden.json", num_samples=500)
    """)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=2)
    assert "src/elbos" not in result.stdout.str()
    errors = [line for line in result.outlines if line.startswith("E  ")]
    assert sum("golden.json does not exist" in line for line in errors) == 1


def test_a_loss_is_like_its_recipe():
    actual = assert_weighting(flow_loss(), X, like="flow")
    assert actual.recipe == "flow"
    for within in (math.nan, math.inf, -0.1):
        with pytest.raises(ValueError, match="within"):
            assert_weighting(flow_loss(), X, like="flow", within=within)


def test_another_target_of_the_same_weighting_is_the_same_objective():
    actual = assert_weighting(flow_by_eps, X, like=flow_loss())
    assert actual.parameterization == "eps"
    with pytest.raises(AssertionError, match="weighting: "):
        assert_weighting(flow_by_eps, X, like=jump_of_weight)


@pytest.mark.parametrize("bug", ["broadcast", "clamp"])
def test_a_planted_bug_fails(bug):
    def loss(network, x):
        return min_snr(network, x, bug)

    with pytest.raises(AssertionError, match="loss is not weighted like min_snr"):
        assert_weighting(loss, X, like=expected())


def test_the_distance_of_two_recipes_is_that_of_their_formulas():
    first, second = audit.from_recipe("flow"), audit.from_recipe("sd3")
    distance = first.distance(second)
    levels, log_ratio, p = log_ratio_of(first, second)
    mean = (p * log_ratio).sum()
    assert mean == pytest.approx(0, abs=1e-12)
    assert p.sum() == pytest.approx(1)
    # SD3's weighting is flow's times the logit-normal density over the uniform one, on t
    t = torch.sigmoid(torch.from_numpy(-levels / 2))
    logit = t.logit()
    log_density = -(logit**2) / 2 - t.log() - (1 - t).log()
    expected = -(log_density - (torch.from_numpy(p) * log_density).sum()).numpy()
    assert log_ratio == pytest.approx(expected, abs=1e-3)
    assert distance.value == pytest.approx(float((p * expected**2).sum() ** 0.5), rel=1e-3)
    assert distance.error == 0


def test_the_distance_by_another_seed_is_within_its_error():
    first, second = expected(), probe(min_snr, X, seed=1)
    distance = first.distance(second)
    assert 0 < distance.value < 4 * distance.error < 0.1


def test_losses_of_no_common_level_have_no_distance():
    clean = flow_loss(lambda num: 0.4 * torch.rand(num))
    noisy = flow_loss(lambda num: 0.6 + 0.4 * torch.rand(num))
    first, second = probe(clean, X), probe(noisy, X)
    assert first.distance(second) is None
    with pytest.raises(AssertionError):
        assert_weighting(clean, X, like=second)


def test_levels_left_out_are_another_weighting():
    """Uniform times of [0.02, 0.98]: 4 % of the expected levels are never drawn."""
    truncated = flow_loss(lambda num: 0.02 + 0.96 * torch.rand(num))
    actual = Difference(probe(truncated, X), audit.from_recipe("flow"))
    assert actual.outside == pytest.approx(0.04, abs=0.002)
    assert actual.has_other_weighting
    assert str(actual).startswith("noise levels: 4") and "weighting" not in str(actual)


def test_a_stored_audit_is_read_back(tmp_path):
    actual = expected()
    write_golden(actual, tmp_path / "tests" / "loss.json")
    stored = expected_audit(tmp_path / "tests" / "loss.json")
    assert str(Difference(actual, stored)) == ""
    assert torch.equal(stored.logsnr, actual.logsnr)
    assert actual.distance(stored).value < 1e-4
    assert math.isclose(stored.weight[0], actual.weight[0], rel_tol=1e-4)


def jump_of_weight(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    error = network((1 - t) * x + t * eps, t.flatten()) - (eps - x)
    return (torch.where(t < 0.4, 10.0, 1.0) * error.square()).mean()


def test_an_unchanged_loss_with_a_jump_passes(tmp_path):
    write_golden(probe(jump_of_weight, X), tmp_path / "loss.json")
    again = probe(jump_of_weight, X)
    assert str(Difference(again, expected_audit(tmp_path / "loss.json"))) == ""


def test_a_file_without_an_audit_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text('{"title": 1}')
    with pytest.raises(ValueError, match=r"x\.json"):
        expected_audit(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"edmm.*edm"):
        expected_audit("edmm")
