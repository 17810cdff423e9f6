"""Levels that are drawn in every way: the weighting, and no verdict that is false."""

import numpy as np
import pytest
import torch
from audit_errors import central, relative_errors
from audited import SEEDS, X
from level_losses import CASES, drawn_case
from training_losses import elbo

from elbos import audit
from elbos.theory.extrema import rises

FAST = ["table-sigma2", "three-by-where", "dirichlet"]


def require_true_verdict(case, result):
    """A weighting that is called monotone rises by at most 5 % on the inner 99 % of the samples;
    where one is said to rise, however little, it does.
    """
    log_w = case.weighting(result.logsnr).log().numpy()
    inner = central(result, 0.99).numpy()
    if result.verdict == "monotone":
        assert not rises(log_w[inner], lambda i, others: np.array(0.05))
    for start, end in result.rising:
        low, high = np.interp([start, end], result.logsnr, log_w)
        assert high > low


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in CASES]
)
def test_the_weighting_is_right_and_so_is_the_verdict(name, seed):
    case = CASES[name]
    result = audit.probe(case.loss, X[:, :, :4, :4], 20_000, seed)
    errors = relative_errors(result, case.weighting).abs()
    assert errors.median() < 0.01
    assert errors.quantile(0.95) < 0.05
    require_true_verdict(case, result)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(64))
def test_no_verdict_on_a_mixture_drawn_at_random_is_false(seed):
    case = drawn_case(seed)
    result = audit.probe(case.loss, X, 20_000, seed)
    require_true_verdict(case, result)


@pytest.mark.parametrize("seed", SEEDS)
def test_where_float32_leaves_a_level_no_digits_nothing_rises(seed):
    """The plain ELBO down to a log-SNR of -16, where 1 - sigma^2 is two units in its last place:
    levels that differ become one, with the weights of all.
    """
    assert not audit.probe(elbo, X, 1000, seed).rising


def test_a_loss_that_is_not_decided_says_by_what_factor_it_may_rise():
    """A flat weight, 1 / p times p, of levels that no single number decides."""

    def loss(network, x):
        logsnr = torch.randn(len(x)) + torch.randn(len(x))
        p = torch.exp(-(logsnr**2) / 4)
        t = torch.sigmoid(-logsnr / 2)[:, None, None, None]
        eps = torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - eps).square().mean((1, 2, 3))
        return (error / p).mean()

    result = audit.probe(loss, X[:64, :, :4, :4], 1000)
    assert result.verdict == "undecided"
    assert result.is_monotone is False
    assert all(item.start < item.end and item.factor > 1.05 for item in result.undecided)
    assert audit.Audit.from_dict(result.to_dict()).undecided == result.undecided
