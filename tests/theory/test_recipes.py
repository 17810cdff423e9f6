"""Recipes by other routes: closed forms, where they rise, and the rule of the flow path."""

import re

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import logit

from elbos.theory.elbo import rising_intervals
from elbos.theory.recipes import FAMILIES, RECIPES

LOGSNR = torch.linspace(-20, 20, 1001, dtype=torch.float64)


def sech(l):
    return 1 / np.cosh(l)


def flow_time(g):
    return np.sqrt(g) / (1 + np.sqrt(g))


def ddpm(l, g):
    return g / (1 + g) / np.sqrt(0.01 + 39.8 * np.log1p(g))


def min_snr(l, g):
    return np.minimum(1, 5 * g) * sech(l / 2)


def edm(p_mean, p_std, sigma_data):
    mean, std = -2 * p_mean, 2 * p_std
    return lambda l, g: np.exp(-(((l - mean) / std) ** 2) / 2) * (g + sigma_data**2)


def edm_monotonic(l, g):
    """EDM's weighting, held at its maximum, which is at -3.308."""

    def w(l):
        return edm(-1.2, 1.2, 0.5)(l, np.exp(-l))

    peak = scipy.optimize.brentq(lambda l: w(l + 1e-5) - w(l - 1e-5), -4, -3)
    return np.where(l < peak, w(peak), w(l))


def of_logit_normal(mean, std=1.0):
    return lambda l, g: np.exp(-(((l / 2 + mean) / std) ** 2) / 2) * (1 + np.sqrt(g)) ** 2


def of_shift(shift):
    return lambda l, g: np.sqrt(g) * ((1 + np.sqrt(g)) / (1 + np.sqrt(g) / shift)) ** 2


def of_bell(shift):
    """By expm1, since the bell is a small difference at both ends."""
    return lambda l, g: of_shift(shift)(l, g) * np.expm1(2 * flow_time(g) * flow_time(1 / g))


def jit(scale):
    return lambda l, g: (
        np.exp(-(((l + 1.6 + 2 * np.log(scale)) / 1.6) ** 2) / 2)
        * g
        / np.maximum(0.05, 1 / (1 + scale / np.sqrt(g))) ** 2
    )


def sd(l, g):
    """sigmoid(-l) / beta, the root of beta from the integral of beta, ln(1 + g)."""
    first, last = np.sqrt([0.85, 12])
    root = np.cbrt(first**3 + 3 * (last - first) * np.log1p(g))
    return g / (1 + g) / root**2


def zero_terminal_v(shift):
    """For velocity p / alpha^2, with p from the derivative of SD's times, to 40 digits."""
    first, last = mpmath.sqrt("0.85"), mpmath.sqrt(12)
    end = 1 / mpmath.sqrt(1 + shift * mpmath.expm1((first**2 + first * last + last**2) / 3))

    def time(alpha):  # of the root that is moved and shifted back
        before = end + (1 - end) * alpha
        integral = mpmath.log1p((1 / before**2 - 1) / shift)
        return mpmath.cbrt(first**3 + 3 * (last - first) * integral) / (last - first)

    def weight(square):
        alpha = 1 / mpmath.sqrt(1 + mpmath.mpf(square))
        return -mpmath.diff(time, alpha) * (1 - alpha**2) / alpha  # dalpha/dl = alpha sigma^2 / 2

    def weights(l, g):
        with mpmath.workdps(40):
            return np.array([float(weight(square)) for square in g])

    return weights


# docs/theory.md, sections 4 and 4b, in numpy; l is the log-SNR, g the VE noise level squared.
CLOSED_FORMS = {
    **dict.fromkeys(
        ("elbo", "elbo-ve", "elbo-linear", "score-sde-likelihood", "sit-likelihood"),
        lambda l, g: np.ones_like(l),
    ),
    **dict.fromkeys(("iddpm", "lerobot-diffusion"), lambda l, g: sech(l / 2)),
    **dict.fromkeys(("ddpm", "score-sde"), ddpm),
    **dict.fromkeys(
        ("v-cosine", "snr-plus-1", "flow", "sit-velocity", "torchtitan-flux"),
        lambda l, g: np.sqrt(g),
    ),
    "truncated-snr": lambda l, g: np.maximum(1, g) * sech(l / 2),
    "p2-0.5": lambda l, g: sech(l / 2) / np.sqrt(1 + 1 / g),
    "p2-1": lambda l, g: sech(l / 2) / (1 + 1 / g),
    **dict.fromkeys(("min-snr-5", "min-snr-5-eps", "min-snr-5-v"), min_snr),
    "soft-min-snr-4": lambda l, g: 4 * g / (1 + 4 * g) * sech(l / 2),
    "debiased": lambda l, g: g / (1 + g),
    "laplace": lambda l, g: np.exp(-2 * np.abs(l)) * (1 + g),
    "sigmoid-2": lambda l, g: 1 / (1 + np.exp(l - 2)),
    "sigmoid-2-slip": lambda l, g: sech(l / 2) / (1 + np.exp(l - 2)),
    "sd": sd,
    "sd-v": lambda l, g: (1 + g) * sd(l, g),
    **dict.fromkeys(
        ("sd-min-snr-5", "sd-min-snr-5-v"), lambda l, g: np.minimum(1, 5 * g) * sd(l, g)
    ),
    "sd-min-snr-1": lambda l, g: np.minimum(1, g) * sd(l, g),
    "sd-debiased": lambda l, g: np.sqrt(g) * sd(l, g),
    "cogvideox-2b": zero_terminal_v(3),
    "cogvideox-5b": zero_terminal_v(1),
    "edm": edm(-1.2, 1.2, 0.5),
    "edm2": edm(-0.4, 1.0, 0.5),
    "edm2-imagenet64": edm(-0.8, 1.6, 0.5),
    "edm-monotonic": edm_monotonic,
    "svd": edm(0.7, 1.6, 1.0),
    "svd-1024": edm(1.0, 1.6, 1.0),
    "cosmos": edm(0.0, 1.0, 0.5),
    "trigflow": edm(-1.0, 1.4, 0.5),
    "microdit": edm(-0.6, 1.2, 0.9),
    "microdit-512": edm(0.0, 0.6, 0.9),
    "physicsnemo-stormcast": edm(-1.2, 1.2, 0.5),
    "physicsnemo-corrdiff": edm(0.0, 1.2, 0.5),
    "flow-eps": lambda l, g: flow_time(g) / (1 + np.sqrt(g)),
    "indi": lambda l, g: g * sech(l / 4) ** 2,
    **{f"flow-shift-{shift}": of_shift(shift) for shift in (3, 5, 7)},
    "fastvideo-hunyuan": of_shift(7),
    "fastvideo-wan": of_shift(3),
    "sd3": of_logit_normal(0),
    "sd3-logit-normal-0.5-0.6": of_logit_normal(0.5, 0.6),
    **{f"logit-normal-shift-{shift}": of_logit_normal(np.log(shift)) for shift in (3, 5, 7)},
    "flux-1024": of_logit_normal(1.15),
    "qwen-image-1024": of_logit_normal(0.694),
    "meanflow": of_logit_normal(-0.4),
    "style-friendly": of_logit_normal(3),
    "three-densities": lambda l, g: (
        (1 + np.sqrt(g)) ** 2
        * sum(
            share * scipy.stats.norm(mean, std).pdf(l)
            for share, mean, std in [(0.79, -2.3, 2), (0.11, -6, 2), (0.1, 5.36, 1)]
        )
    ),
    **dict.fromkeys(
        ("sd3-cosmap", "cosmap-weight"), lambda l, g: (1 + np.sqrt(g)) ** 2 * sech(l / 2)
    ),
    "sigma-sqrt": lambda l, g: 1 / (flow_time(g) * flow_time(1 / g)),
    **dict.fromkeys(
        ("pi0", "lerobot-smolvla"),
        lambda l, g: np.maximum(0, flow_time(g) - 0.001) ** 0.5 * flow_time(g) / flow_time(1 / g),
    ),
    "beta-2-2": lambda l, g: flow_time(g) ** 2,
    "beta-1-2": lambda l, g: flow_time(g),
    "automodel-beta": lambda l, g: flow_time(g) ** 2.5 / flow_time(1 / g) ** 0.5,
    "u-shape": lambda l, g: np.sqrt(g) * (np.exp(4 * flow_time(g)) + np.exp(4 - 4 * flow_time(g))),
    "bell": of_bell(1),
    "bell-shift-3": of_bell(3),
    "bell-shift-5": of_bell(5),
    "jit": jit(1),
    "jit-512": jit(2),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_recipe_implies_its_closed_form(name):
    """Density x coefficient x error ratio, in the loss and as `weighting`, up to a constant."""
    recipe = RECIPES[name]
    step = 10 if name.startswith("cogvideox") else 1
    logsnr = LOGSNR[recipe.schedule.density(LOGSNR) > 0][1:-1:step]
    expected = torch.from_numpy(CLOSED_FORMS[name](logsnr.numpy(), np.exp(-logsnr.numpy())))
    p_per_error = recipe.schedule.density(logsnr) / recipe.parameterization.eps_error_per_error(
        logsnr
    )
    for w in (recipe.weighting(logsnr), recipe.coefficient_at(logsnr) * p_per_error):
        ratio = w / expected
        torch.testing.assert_close(ratio / ratio[0], torch.ones_like(ratio), rtol=1e-9, atol=0)


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
    actual = rising_intervals(RECIPES[name].weighting, -15.0, 15.0)
    assert len(actual) == len(RISES[name])
    for interval, printed in zip(actual, RISES[name], strict=True):
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


# Flow times, and density times coefficient there, of recipes whose density has no simple formula.
TIMES = {
    "flow-shift-3": shifted(3),
    "logit-normal-shift-3": logit_normal(np.log(3)),
    "mode-0.81": mode(0.81),
    "mode-1.29": mode(1.29),
    "mode-1.75": mode(1.75),
    "beta-2-2": (TAU, scipy.stats.beta(2, 2).pdf(TAU)),
    "pi0": (TAU, scipy.stats.beta(1.5, 1, 0.001, 0.999).pdf(TAU)),
    "bell-shift-3": bell(3),
    "automodel-beta": (TAU, scipy.stats.beta(2.5, 1.5).pdf(TAU)),
    "cosmap-weight": (TAU, 1 / (1 - 2 * TAU + 2 * TAU**2)),
}


@pytest.mark.parametrize("name", TIMES)
def test_the_rule_of_the_flow_path(name):
    """W is density x coefficient x tau / (1 - tau), of scipy's densities, up to a constant."""
    tau, value = TIMES[name]
    logsnr = torch.from_numpy(2 * np.log((1 - tau) / tau))
    ratio = RECIPES[name].weighting(logsnr).numpy() / (value * tau / (1 - tau))
    np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-9)


def test_every_recipe_has_a_closed_form_and_a_reference():
    assert set(CLOSED_FORMS) | set(TIMES) == set(RECIPES)
    assert sum(map(len, FAMILIES.values())) == len(RECIPES)  # no name twice
    for recipe in RECIPES.values():
        assert re.search("https://|as set by trainers|seen in public", recipe.reference)
