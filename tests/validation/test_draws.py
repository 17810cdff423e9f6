"""Noise and noise levels belong to a sample, and are what they have to be."""

import pytest
import torch
from oracles import z_score
from scipy.stats import kstest

from elbos.validation.draws import Draws


@pytest.mark.parametrize(("num", "num_times"), [(1, 1), (1, 8), (5, 3), (250, 4)])
@pytest.mark.parametrize("number", [0, 1])
def test_times_are_a_lattice_for_all_and_for_each(num, num_times, number):
    times = Draws(0, num).times(torch.arange(num), number, num_times)
    assert times.min() >= 0
    assert times.max() < 1
    together = times.flatten().sort().values.diff()
    torch.testing.assert_close(together, torch.full_like(together, 1 / (num * num_times)))
    each = times.diff(dim=1)
    torch.testing.assert_close(each, torch.full_like(each, 1 / num_times))


def test_a_time_is_uniform_over_seeds():
    """Kolmogorov and Smirnov's test of a sample's second time, stretched, n = 250 seeds."""
    row = torch.tensor([1])
    times = torch.cat([Draws(seed, 3).times(row, 0, 2)[0, 1:] for seed in range(250)])
    assert kstest(2 * times.numpy() - 1, "uniform").pvalue > 1e-3


def test_rounds_are_independent():
    """No correlation of a sample's offsets in two rounds, over 250 seeds; nor of its noise."""
    row, shape = torch.tensor([1]), (1, 40)
    first, second = (
        torch.cat([Draws(seed, 5).times(row, number, 1)[:, 0] for seed in range(250)]) - 0.5
        for number in (0, 1)
    )
    assert z_score(first * second, 0.0) < 4
    rows = torch.arange(500)
    eps = [Draws(0, 500).noise(rows, number, shape).flatten() for number in (0, 1)]
    assert z_score(eps[0] * eps[1], 0.0) < 4


def test_noise_is_normal_and_that_of_another_sample_is_another():
    """N = 40,000; neighbouring samples and seeds are uncorrelated."""
    rows, shape = torch.arange(1000), (2, 20)
    eps = Draws(0, 1000).noise(rows, 0, shape)
    assert kstest(eps.flatten().numpy(), "norm").pvalue > 1e-3
    assert z_score((eps[1:] * eps[:-1]).flatten(), 0.0) < 4
    assert z_score((eps * Draws(1, 1000).noise(rows, 0, shape)).flatten(), 0.0) < 4


def test_what_a_sample_gets_depends_on_no_other():
    draws, shape = Draws(3, 10), (3, 2, 5)
    rows = torch.tensor([7, 2, 9])
    alone = [draws.noise(row[None], 1, shape)[0] for row in rows]
    assert torch.equal(draws.noise(rows, 1, shape), torch.stack(alone))
    times = [draws.times(row[None], 1, 4)[0] for row in rows]
    assert torch.equal(draws.times(rows, 1, 4), torch.stack(times))


def test_no_two_samples_share_their_noise():
    """Of 200,000 in a round, of which seeds of 32 bits would make 5 pairs alike, in the mean."""
    eps = Draws(0, 200_000).noise(torch.arange(200_000), 0, (4,))
    assert len(eps.unique(dim=0)) == len(eps)
