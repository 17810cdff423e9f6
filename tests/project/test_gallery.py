"""The gallery's showcases: what is measured is the ratio of weightings that their formulas have."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta, norm

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 2000


@pytest.fixture(scope="module")
def showcases():
    """Every showcase, with few samples, when it is asked for."""
    return {
        one.file: one
        for one in runpy.run_path(str(ROOT / "docs/gallery/showcases.py"))["SHOWCASES"]
    }


def ratio_density(t):
    """Of X / (X + Y) for X = U**(1/1.5), Y = V, over that of Beta(1.5, 1)."""
    return np.maximum(t, 1 - t) ** -2.5 / 2.5


def three(logsnr):
    """Three normal densities over the first."""
    first = norm.pdf(logsnr, -2.3, 2)
    return 0.79 + (0.11 * norm.pdf(logsnr, -6, 2) + 0.1 * norm.pdf(logsnr, 5.36, 1)) / first


# of each loss: its weighting over that of the first, up to a constant; and the error allowed
RATIOS = {
    "diffusers_v_prediction.py": {
        "plus_one": (lambda snr: (snr + 1) * (1 / snr + 1 / np.minimum(snr, 5)), 0.02),
        "snr_plus_one": (lambda snr: np.minimum(snr + 1, 5) / np.minimum(snr, 5), 0.02),
        "eps_weight": (lambda snr: (snr + 1) / snr, 0.02),
    },
    "debiased.py": {
        "inverse": (lambda snr: (snr + 1) / (snr.clip(max=1000) + 1) / np.sqrt(snr), 0.02),
        "root": (lambda snr: (snr + 1) / np.sqrt(snr * (snr.clip(max=1000) + 1)), 0.02),
    },
    "beta_times.py": {"ratio": (lambda snr: ratio_density(expit(-np.log(snr) / 2)), 0.2)},
    "p2.py": {
        "snr_twice": (lambda snr: snr, 0.02),
        "one_twice": (lambda snr: (1 + snr) ** 2 / (snr * (2 + snr)), 0.02),
    },
    "flipped_mean.py": {"flipped": (lambda snr: snr ** (-4.8 / 2.4**2), 0.02)},
    "three_densities.py": {"three": (lambda snr: three(np.log(snr)), 0.2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("file", RATIOS)
def test_losses_differ_as_their_formulas_do(showcases, file):
    first, *others = showcases[file].measured(NUM_SAMPLES).cards
    found = {card.name: card.audit for card in others}
    assert set(found) == set(RATIOS[file])
    for name, audit in found.items():
        formula, tolerance = RATIOS[file][name]
        low, high = first.audit.logsnr[[0, -1]]
        levels = audit.logsnr[(low <= audit.logsnr) & (audit.logsnr <= high)]
        p = np.interp(levels, audit.logsnr, audit.density)
        log_ratio = (audit.weighting(levels) / first.audit.weighting(levels)).log().numpy()
        error = log_ratio - np.log(formula(np.exp(levels.numpy())))
        mean = np.average(error, weights=p)
        assert np.sqrt(np.average((error - mean) ** 2, weights=p)) < tolerance, name


def test_the_text_tells_the_density_of_the_ratio(showcases):
    """By quadrature of the joint density of U and V, at t = 0.5 and at the ends."""
    generator = np.random.default_rng(0)
    u, v = generator.random(10**6) ** (1 / 1.5), generator.random(10**6)
    t = u / (u + v)
    for place, width in ((0.5, 0.01), (0.995, 0.01)):
        inside = np.abs(t - place) < width / 2
        expected = beta.cdf(place + width / 2, 1.5, 1) - beta.cdf(place - width / 2, 1.5, 1)
        share = inside.mean()
        assert (
            abs(share / expected - ratio_density(place))
            < 4 * np.sqrt(share / 10**6) / expected + 0.03
        )
    assert f"{ratio_density(0.5):.2f}" in showcases["beta_times.py"].text
    assert f"{ratio_density(1.0):.2f}" in showcases["beta_times.py"].text
