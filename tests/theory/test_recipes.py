"""Recipes by other routes: where they rise, as docs/theory.md says; the rule of the flow path."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import logit

from elbos.theory.elbo import rising_intervals
from elbos.theory.recipes import FAMILIES, RECIPES

BELOW = -np.inf
# docs/theory.md, section 4b, on [-15, 15], to the last digit that it prints.
RISES = {
    "debiased": [],
    "sd": [(BELOW, "-.45")],
    "sd-debiased": [],
    "jit": [(BELOW, "-3.83")],
    "jit-512": [(BELOW, "-5.2")],
    "meanflow": [(BELOW, "-2.20")],
    "logit-normal-shift-3": [(BELOW, "-6.01")],
    "logit-normal-shift-5": [(BELOW, "-7.11")],
    "logit-normal-shift-7": [(BELOW, "-7.81")],
    "flux-1024": [(BELOW, "-6.12")],
    "qwen-image-1024": [(BELOW, "-5.10")],
    "style-friendly": [(BELOW, "-9.97")],
    "three-densities": [(BELOW, "-9.8"), ("3.09", "5.29")],
    "mode-0.81": [],
    "mode-1.29": [("-1.31", "-.03")],
    "mode-1.75": [("-1.19", "0.00")],
    "pi0": [],
    "beta-2-2": [],
    "beta-1-2": [],
    "u-shape": [],
    "bell": [],
    "bell-shift-3": [],
    "svd": [(BELOW, "-11.6")],
    "svd-1024": [(BELOW, "-12.2")],
    "microdit": [(BELOW, "-4.5")],
    "microdit-512": [(BELOW, "-1.14")],
    "trigflow": [(BELOW, "-5.8")],
    "cosmos": [(BELOW, "-4.0")],
    "sit-likelihood": [],
    "sit-velocity": [],
    "torchtitan-flux": [],
    "lerobot-smolvla": [],
    "automodel-beta": [],
    "fastvideo-hunyuan": [],
    "physicsnemo-stormcast": [(BELOW, "-3.308")],
}


@pytest.mark.parametrize("name", RISES)
def test_a_recipe_rises_where_theory_says(name):
    found = rising_intervals(RECIPES[name].weighting, -15.0, 15.0)
    assert len(found) == len(RISES[name])
    for interval, printed in zip(found, RISES[name], strict=True):
        for end, text in zip(interval, printed, strict=True):
            if text is BELOW:
                assert end == -15
            else:
                digit = 10.0 ** -len(text.partition(".")[2])
                assert end == pytest.approx(float(text), abs=digit)


TAU = np.linspace(0.002, 0.998, 499)


def logit_normal(mean, std=1.0):
    return TAU, scipy.stats.norm(mean, std).pdf(logit(TAU)) / (TAU * (1 - TAU))


def mode(s):
    """At the times of uniform numbers: the density of a function is one over its slope."""
    u = np.linspace(0.001, 0.999, 999)
    tau = 1 - u - s * (np.cos(np.pi * u / 2) ** 2 - 1 + u)
    return tau, 1 / np.abs(-1 - s * (1 - np.pi / 2 * np.sin(np.pi * u)))


def shifted(s):
    """Uniform times t, tau = s t / (1 + (s - 1) t): the slope at t is s / (1 + (s - 1) t)^2."""
    t = np.linspace(0.01, 0.99, 99)
    return s * t / (1 + (s - 1) * t), (1 + (s - 1) * t) ** 2 / s


def bell(s):
    tau, density = shifted(s)
    return tau, density * (np.exp(-2 * (tau - 0.5) ** 2) - np.exp(-0.5))


# Flow times, and density times coefficient there.
TIMES = {
    "flow": (TAU, np.ones_like(TAU)),
    "sit-likelihood": (TAU, (1 - TAU) / TAU),
    "flow-eps": (TAU, (1 - TAU) ** 2),  # |eps error|^2 is (1 - tau)^2 that of u
    "flow-shift-3": shifted(3),
    "flow-shift-5": shifted(5),
    "logit-normal-shift-3": logit_normal(np.log(3)),
    "meanflow": logit_normal(-0.4),
    "flux-1024": logit_normal(1.15),
    "mode-0.81": mode(0.81),
    "mode-1.29": mode(1.29),
    "mode-1.75": mode(1.75),
    "beta-2-2": (TAU, scipy.stats.beta(2, 2).pdf(TAU)),
    "beta-1-2": (TAU, scipy.stats.beta(1, 2).pdf(TAU)),
    "pi0": (TAU, scipy.stats.beta(1.5, 1, 0.001, 0.999).pdf(TAU)),
    "u-shape": (TAU, np.exp(4 * TAU) + np.exp(4 - 4 * TAU)),
    "bell": bell(1),
    "bell-shift-3": bell(3),
    "sigma-sqrt": (TAU, 1 / TAU**2),
    "automodel-beta": (TAU, scipy.stats.beta(2.5, 1.5).pdf(TAU)),
    "fastvideo-wan": shifted(3),
    "fastvideo-hunyuan": shifted(7),
    "cosmap-weight": (TAU, 1 / (1 - 2 * TAU + 2 * TAU**2)),
}


@pytest.mark.parametrize("name", TIMES)
def test_the_rule_of_the_flow_path(name):
    """W is density x coefficient x tau / (1 - tau), of scipy's densities, up to a constant."""
    tau, value = TIMES[name]
    logsnr = torch.from_numpy(2 * np.log((1 - tau) / tau))
    ratio = RECIPES[name].closed_form(logsnr).numpy() / (value * tau / (1 - tau))
    np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-9)


def test_there_are_sixty_by_family():
    assert len(RECIPES) >= 60
    assert sum(map(len, FAMILIES.values())) == len(RECIPES)  # no name twice
