"""Losses of kinds that were once taken for others: their weighting, or why there is none."""

import pytest
import torch
from audit_errors import relative_errors
from audited import SEEDS, X, kinds, sampled
from held_out_losses import HELD_OUT, cosine, elucidated
from test_level_losses import require_true_verdict

from elbos import audit


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sampled([*HELD_OUT], 3))
def test_held_out_losses_have_their_true_weighting_or_none(name, seed):
    case = HELD_OUT[name]
    x = torch.rand(64, *case.shape, generator=torch.Generator().manual_seed(1))
    result = audit.probe(case.loss, case.low + (1 - case.low) * x, 1000, seed=seed)
    assert case.kind is None or case.kind in kinds(result)
    assert result.is_weighted_elbo is (case.weighting is not None)
    if case.weighting is None:
        assert result.verdict == "no weighting"
        return
    assert relative_errors(result, case.weighting).abs().median() < 0.02
    assert case.parameterization in (None, result.parameterization)
    require_true_verdict(case, result)


@pytest.mark.parametrize(
    ("loss", "scale", "sigma_data"),
    [
        (elucidated(lambda x: 2 * x - 1), 2.0, 0.5),
        (elucidated(lambda x: 2 * x, lambda sigma: sigma), 2.0, 0.5),
        (cosine(lambda x: 3 * x - 1), 3.0, None),
    ],
    ids=["c_noise", "sigma", "no level"],
)
def test_the_level_that_the_network_is_given_tells_the_scale(loss, scale, sigma_data):
    result = audit.probe(loss, (X[:64] + 1) / 2, 500)
    assert result.data_scale == pytest.approx(scale, rel=2e-3)
    assert result.sigma_data == (sigma_data and pytest.approx(sigma_data, rel=2e-3))
