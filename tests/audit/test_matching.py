"""What a loss is near: a likelihood objective, by a factor; and its names."""

import math

import numpy as np
import pytest
import torch
from audit_errors import central
from audited import SEEDS, X, flow_loss

from elbos import audit
from elbos.audit.declare import DeclaredLoss, from_loss
from elbos.audit.names.matching import (
    MIN_GAIN,
    SAME,
    Prediction,
    coefficient_name,
    nearest_weightings,
    prediction_of,
)
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.recipes import RECIPES


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_coefficient_may_be_0_at_some_levels_and_nowhere_below(sign):
    """Levels without weight, as of a loss on a part of the noise levels."""
    loss = DeclaredLoss(
        title="half",
        schedule=schedules.Cosine(),
        parameterization=parameterizations.V(),
        coefficient=lambda logsnr: torch.where(logsnr > 0, 1.0, sign),
    )
    if sign:
        with pytest.raises(ValueError, match="below 0"):
            from_loss(loss)
        return
    audit = from_loss(loss)
    assert audit.weight.isfinite().all()
    assert audit.rising[0][1] == pytest.approx(0.0, abs=0.1)
    assert audit.closest


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_target_without_data_is_eps_up_to_its_sign(sign):
    """And not EDM's of data of infinite standard deviation, whose limit it is."""
    logsnr = torch.linspace(-9, 9, 50, dtype=torch.float64)
    zero = torch.zeros_like(logsnr)
    for a in (zero, -zero):
        prediction = prediction_of(logsnr, a, torch.full_like(logsnr, sign), rtol=1e-6)
        assert prediction == Prediction.from_target(parameterizations.Eps(), sign)


def test_no_factor_lifts_levels_that_have_no_weight():
    def loss(network, x):
        t, eps = torch.rand(len(x)), torch.randn_like(x)
        u = t[:, None, None, None]
        error = (network((1 - u) * x + u * eps, t) - (eps - x)).square().flatten(1).mean(1)
        return error * (t < 0.9)

    result = audit.probe(loss, X, 2000)
    assert result.closest[0].name == "Exponential()"  # of the levels that count
    assert result.coefficient_name == "1"
    [(_, end)] = result.rising
    assert abs(end - 2 * math.log(0.1 / 0.9)) < 0.2
    assert result.monotone_code is None
    with pytest.raises(ValueError, match="factor"):
        result.monotone_factor(result.logsnr)


def run(python):
    names: dict[str, object] = {}
    exec(python, names)
    return names["monotone_factor"]


def weighted(loss_per_sample, factor, logsnr_of):
    """A loss whose samples are multiplied by a factor, as the verdict advises."""

    def loss(network, x):
        levels = []

        def spy(z, t):
            levels.append(logsnr_of(t))
            return network(z, t)

        error = loss_per_sample(spy, x)
        return error * factor(levels[0])

    return loss


def bumpy_per_sample(network, x):
    """No named weighting: rises twice."""
    sigma = torch.exp(1.5 * torch.randn(len(x)))
    z = x + sigma[:, None, None, None] * torch.randn_like(x)
    error = (network(z, sigma) - x).square().flatten(1).mean(1)
    return error / sigma**2 * (1.5 + torch.sin(2 * torch.log(sigma)))


def test_the_code_of_the_verdict_makes_it_a_likelihood_objective():
    before = audit.probe(bumpy_per_sample, X, 2000)
    assert not before.is_monotone
    mended = weighted(bumpy_per_sample, run(before.monotone_code), lambda sigma: -2 * sigma.log())
    after = audit.probe(mended, X, 2000)
    assert after.is_monotone
    assert after.monotone_code is None
    remaining = central(after)
    ratio = (after.weight / before.monotone_weight).log()[remaining]
    assert (ratio - ratio.median()).abs().max() < 0.02
    assert (after.monotone_weight >= after.weight).all()


# --- names ---------------------------------------------------------------------------------------

LEVELS = np.linspace(-9, 9, 400)
NORMAL = np.exp(-(LEVELS**2) / 18) / np.exp(-(LEVELS**2) / 18).sum()


def log_of(weighting):
    return weighting(torch.from_numpy(LEVELS)).log().numpy()


@pytest.mark.parametrize(
    "weighting",
    [
        weightings.EDM(mean=-1.0, std=3.0, sigma_data=2.0),
        weightings.Implied(schedules.Normal(mean=-0.4, std=2.2), parameterizations.Flow()),
        weightings.Shifted(RECIPES["ddpm"].weighting, 0.3),
        weightings.Monotone(weightings.P2()),
    ],
    ids=repr,
)
def test_the_nearest_is_the_first_of_the_list(weighting):
    """Whatever is published; the list has one order."""
    distances = [item.distance for item in nearest_weightings(LEVELS, log_of(weighting), NORMAL)]
    assert distances == sorted(distances)


def test_of_those_that_are_the_same_the_published_is_first():
    """Its k off by .01, a fitted sigmoid would be nearer."""
    [first, *_] = nearest_weightings(LEVELS, log_of(weightings.Sigmoid(k=2.01)), NORMAL)
    assert first.name == "Sigmoid()"
    assert MIN_GAIN / 4 < first.distance < SAME


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("1/sqrt(snr)", lambda snr, tau: snr**-0.5),
        ("1/max(t, 0.05)**2, t = 1/(1 + sqrt(snr))", lambda snr, tau: np.maximum(tau, 0.05) ** -2),
        (
            "1/(1 - 2*t + 2*t**2), t = 1/(1 + sqrt(snr))",
            lambda snr, tau: 2 / np.pi / (1 - 2 * tau + 2 * tau**2),
        ),
        (
            "exp(-2*(t - 1/2)**2) - exp(-1/2), t = 1/(1 + sqrt(snr))",
            lambda snr, tau: np.exp(-2 * (tau - 0.5) ** 2) - np.exp(-0.5),
        ),
    ],
)
def test_a_coefficient_has_its_formula(formula, value):
    snr = np.exp(LEVELS)
    coefficient = 3 * value(snr, 1 / (1 + np.sqrt(snr)))
    assert coefficient_name(LEVELS, np.log(coefficient), NORMAL) == formula


ALPHA_BAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def on_stable_diffusions_table(predicts_v, coefficient):
    def loss(network, x):
        alpha_bar = ALPHA_BAR[torch.randint(0, 1000, (len(x),))]
        alpha, sigma = (v.sqrt()[:, None, None, None] for v in (alpha_bar, 1 - alpha_bar))
        eps = torch.randn_like(x)
        y = alpha * eps - sigma * x if predicts_v else eps
        error = (network(alpha * x + sigma * eps, alpha_bar) - y).square().flatten(1).mean(1)
        return error * coefficient(alpha_bar / (1 - alpha_bar))

    return loss


@pytest.mark.parametrize(
    ("predicts_v", "coefficient", "name"),
    [
        (False, torch.ones_like, "sd"),
        (
            True,
            lambda snr: snr.clamp(max=3) / (snr + 1),
            "Implied(StableDiffusion(), Eps(), coefficient='min(snr, 3.0",
        ),
        (False, lambda snr: snr**-0.5, "sd-debiased"),
    ],
)
def test_stable_diffusions_table_has_its_name(predicts_v, coefficient, name):
    result = audit.probe(on_stable_diffusions_table(predicts_v, coefficient), X[:, :, :4, :4], 2000)
    assert (result.schedule, result.density_kind) == ("StableDiffusion()", "table")
    assert result.closest[0].name.startswith(name)
    assert result.closest[0].distance < 0.03  # the steps are not yet the limit of many


def three_densities(num):
    which, normal = torch.rand(num), torch.randn(num)
    logsnr = torch.where(which < 0.9, 2 * normal - 6, normal + 5.36)
    logsnr = torch.where(which < 0.79, 2 * normal - 2.3, logsnr)
    return torch.sigmoid(-logsnr / 2)


TIMES = {
    "FlowTimes(inner=Beta(), time_min=0.001)": lambda num: (
        0.001 + 0.999 * torch.distributions.Beta(1.5, 1.0).sample((num,))
    ),
    "Beta(a=2.0, b=2.0)": lambda num: torch.distributions.Beta(2.0, 2.0).sample((num,)),
    "Mixture(schedules=(Normal(mean=-2.3, std=2.0), Normal(mean=-6.0, std=2.0), "
    "Normal(mean=5.36, std=1.0)), shares=(0.79, 0.11, 0.1))": three_densities,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TIMES)
def test_times_that_no_single_draw_decides_have_the_published_name(name, seed):
    assert audit.probe(flow_loss(TIMES[name]), X, 4000, seed=seed).schedule == name
