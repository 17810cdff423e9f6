"""The theorem on measured losses, and when more rounds help."""

import math

import pytest
import torch
from oracles import gaussian, gaussian_loss, weighted_integral, z_score

from elbos import schedules, weightings
from elbos.evaluation.likelihood import CHECKED, Measured, check_theorem, is_enough, mixed_elbos
from elbos.likelihood import (
    Estimate,
    Measurements,
    decoder_loss,
    fit,
    losses_at,
    prior_loss,
    stratified_times,
)

LINEAR = schedules.Linear(logsnr_min=-8.0, logsnr_max=11.0)


# --- rounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standard_error", "measurement_error", "target", "expected"),
    [
        (0.004, 0.003, 0.005, True),  # reached
        (0.006, 0.005, 0.005, False),  # more rounds will reach it
        (0.010, 0.001, 0.005, True),  # the images alone leave more: no round will
        (0.010, 0.005, 0.005, False),  # they do, but are not measured well yet
        (0.005001, 0.0005, 0.005, False),  # the images alone leave a little less
        (0.005001, 0.0002, 0.005, True),  # so little less that it is not worth the rounds
        (0.010, 0.005, None, True),  # no target
        (0.004, math.nan, 0.005, True),
    ],
)
def test_rounds_go_on_while_they_help(standard_error, measurement_error, target, expected):
    assert is_enough(Estimate(3.0, standard_error, measurement_error), target) is expected


# --- the theorem ---------------------------------------------------------------------------------


def measured(denoiser, x, generator):
    """As `evaluation.likelihood.measure` does it."""

    def rounds(schedule, num, num_rounds, num_times, control=None):
        logsnr = [
            schedule.logsnr(stratified_times(num, num_times, generator)) for _ in range(num_rounds)
        ]
        loss = [losses_at(denoiser, x[:num], level, generator=generator) for level in logsnr]
        return Measurements(schedule, torch.stack(logsnr, 1), torch.stack(loss, 1), control)

    pilot = rounds(LINEAR, 500, 1, 32)
    schedule, control = fit(pilot)
    decoder = torch.stack([decoder_loss(x, 11.0, None)] * 2, 1)
    return Measured(pilot, rounds(schedule, len(x), 2, 4, control), prior_loss(x, -8.0), decoder)


@pytest.mark.parametrize("weighting", CHECKED.values(), ids=CHECKED)
def test_mixed_elbos_are_the_weighted_loss(weighting, generator):
    """Against quadrature of the weighted closed-form loss, for a wrong denoiser; z < 4, n = 500."""
    x, _ = gaussian(0.5, 16).sample(500, generator)
    found = measured(gaussian(0.8, 16), x, generator)
    mixed = mixed_elbos(found.pilot, weighting, found.prior)
    expected = weighted_integral(weighting, lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, 11.0)
    assert z_score(mixed, expected) < 4


def test_both_sides_agree_on_the_oracle_and_not_for_another_loss(generator):
    """|z| < 4 for each weighting; with the rounds' losses 10 % off, some |z| > 4."""
    data = gaussian(0.5, 64)
    x, _ = data.sample(1000, generator)
    found = measured(data, x, generator)
    rows = check_theorem(found, weightings.P2())
    assert [row.name for row in rows] == [*CHECKED, "P2(gamma=1.0)"]
    assert max(abs(row.z) for row in rows) < 4
    rounds = found.rounds
    wrong = Measurements(rounds.schedule, rounds.logsnr, 1.1 * rounds.loss, rounds.control)
    rows = check_theorem(
        Measured(found.pilot, wrong, found.prior, found.decoder), weightings.ELBO()
    )
    assert max(abs(row.z) for row in rows) > 4
