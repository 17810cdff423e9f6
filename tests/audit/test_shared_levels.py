"""Levels that some samples share more often than others, and steps beside those of pure noise."""

import numpy as np
import pytest
import scipy
import torch
from audited import X, flow_loss, kinds

from elbos import audit

SMALL = X[:, :, :4, :4]


def sorted_times(num):
    """Of 1,000 sorted uniform times, new for each batch, the last ones are taken most often."""
    table = torch.rand(1000).sort(descending=True).values
    return table[((1 - torch.rand(num) ** 8) * 1000).long().clamp(0, 999)]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 8))]
)
def test_a_level_counts_as_often_as_samples_share_it(seed):
    """Number i of 1,000 sorted times is a Beta variable: w = p(t) t/(1 - t) rises twofold."""
    logsnr = np.linspace(-6, 15, 1500)
    t, i = scipy.special.expit(-logsnr / 2), np.arange(1000)
    share = np.diff((np.arange(1001) / 1000) ** (1 / 8))[::-1]
    p = scipy.stats.beta.pdf(t[:, None], 1000 - i, i + 1) @ share
    log_w = np.log(p * t / (1 - t))
    start, end = 8.0, logsnr[logsnr > 10][log_w[logsnr > 10].argmax()]
    assert np.interp(end, logsnr, log_w) > log_w[logsnr < end].min() + np.log(2)

    result = audit.probe(flow_loss(sorted_times), SMALL, 5000, seed=seed)
    assert kinds(result) == ["shared-levels"]
    assert result.verdict != "monotone"
    assert all(start < low and high < end + 1.5 for low, high in result.rising)


def from_noise(num):
    """30 steps, of which the noisiest, which is pure noise, is drawn with a third."""
    return 1 - (torch.rand(num) ** 3 * 30).floor().clamp(max=29) / 30


def from_data(num):
    """30 steps, of which the last, in one of a hundred samples, is clean data."""
    return 1 - ((torch.rand(num) ** 3 * 30).floor().clamp(max=29) + 1) / 30


CUBED = np.diff((np.arange(31) / 30) ** (1 / 3))
PROBABILITIES = {
    from_noise: (np.arange(1, 30), CUBED[1:]),
    from_data: (np.arange(1, 30), CUBED[:-1]),
}


@pytest.mark.parametrize("times", PROBABILITIES, ids=lambda times: times.__name__)
def test_the_step_beside_pure_noise_or_clean_data_does_not_count_for_it(times):
    """The density is the probability of a step over the spacing of the steps."""
    step, probability = PROBABILITIES[times]
    logsnr = -2 * scipy.special.logit(1 - step / 30)
    result = audit.probe(flow_loss(times), SMALL, 5000)
    measured = np.interp(logsnr, result.logsnr.numpy(), result.density.log().numpy())
    off = measured - np.log(probability / np.gradient(logsnr))
    assert np.abs(off - np.median(off)).max() < 0.03


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 9))]
)
def test_where_numbers_near_1_are_rounded_the_weighting_neither_rises_nor_falls(seed):
    """Times .05 + .9 Beta(1.5, 1), whose w = (t - .05)^.5 t/(1 - t) is monotone up to its end."""
    beta = torch.distributions.Beta(1.5, 1.0)
    result = audit.probe(flow_loss(lambda num: 0.05 + 0.9 * beta.sample((num,))), X, seed=seed)
    t = scipy.special.expit(-result.logsnr.numpy() / 2)[:50]
    off = result.weight.log().numpy()[:50] - np.log((t - 0.05) ** 0.5 * t / (1 - t))
    assert result.verdict == "monotone"
    assert np.abs(off - np.median(off)).max() < 0.05
