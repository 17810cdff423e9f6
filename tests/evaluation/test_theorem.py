"""The theorem on measured losses."""

from dataclasses import replace

import pytest
from oracles import gaussian, gaussian_loss, weighted_integral, z_score

from elbos import Validator
from elbos.evaluation.likelihood import CHECKED, check_theorem, mixed_elbos
from elbos.theory import weightings


def measured(denoiser, x):
    """As `evaluation.likelihood.measure` does it."""
    validator = Validator(x, logsnr_min=-8.0, logsnr_max=11.0)
    pilot = validator.pilot(denoiser, batch_size=1000)
    return pilot, validator.tuned(pilot)(denoiser, batch_size=1000)


@pytest.mark.parametrize("weighting", CHECKED.values(), ids=CHECKED)
def test_mixed_elbos_are_the_weighted_loss(weighting, generator):
    """Against quadrature of the weighted closed-form loss, for a wrong denoiser; z < 4, n = 500."""
    x, _ = gaussian(0.5, 16).sample(500, generator)
    pilot, rounds = measured(gaussian(0.8, 16), x)
    mixed = mixed_elbos(pilot, weighting, rounds.prior)
    expected = weighted_integral(weighting, lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, 11.0)
    assert z_score(mixed, expected) < 4


def test_both_sides_agree_on_the_oracle_and_not_for_another_loss(generator):
    """|z| < 4 for each weighting; with the rounds' losses 10 % off, some |z| > 4."""
    data = gaussian(0.5, 64)
    x, _ = data.sample(1000, generator)
    pilot, rounds = measured(data, x)
    rows = check_theorem(pilot, rounds, weightings.P2())
    assert [row.name for row in rows] == [*CHECKED, "P2(gamma=1.0)"]
    assert max(abs(row.z) for row in rows) < 4
    losses = rounds.measurements
    wrong = replace(rounds, measurements=replace(losses, loss=1.1 * losses.loss))
    rows = check_theorem(pilot, wrong, weightings.ELBO())
    assert max(abs(row.z) for row in rows) > 4
