"""The adaptive schedule: it changes the variance of the loss, and never its expectation.

That it is a schedule (inverse, derivative, integral) is tested with all others.
"""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from oracles import gaussian, gaussian_loss, weighted_integral, z_score
from safetensors.torch import load_model, save_model
from torch import nn

from elbos.theory import schedules, weightings
from elbos.theory.adaptive import Adaptive, AdaptiveState
from elbos.theory.objective import Objective
from elbos.theory.parameterizations import Eps

STD, DIMS = 0.5, 256
WEIGHTING = weightings.Sigmoid(k=2.0)
FOLLOW = ["mean", "root-second-moment"]


def draw_losses(schedule, num, generator):
    """Noise levels from the schedule, and the losses there of the exact denoiser of the oracle."""
    objective = Objective(weighting=WEIGHTING, schedule=schedule, parameterization=Eps())
    data = gaussian(STD, DIMS)
    x, _ = data.sample(num, generator)
    eps = torch.randn(num, DIMS, generator=generator, dtype=torch.float64)
    logsnr = schedule.sample(num, generator)
    return logsnr, objective(lambda z, level, _: data(z, level)[1], x, eps, logsnr)


def test_it_is_uniform_before_its_first_update():
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    torch.testing.assert_close(Adaptive(num_bins=7).probabilities(), uniform, rtol=1e-12, atol=0)


@pytest.mark.parametrize("follow", FOLLOW)
def test_constant_observations_give_uniform_bins_at_once(follow, generator):
    """No start-up bias: whatever the constant, and whichever bins were visited."""
    schedule = Adaptive(follow=follow)
    u = torch.rand(30, generator=generator, dtype=torch.float64)  # most bins are not visited
    for factor in (1.0, 0.5):
        logsnr = schedule.logsnr(factor * u)
        schedule.update(logsnr, 37.0 / schedule.density(logsnr))
        uniform = torch.full((100,), 0.01, dtype=torch.float64)
        torch.testing.assert_close(schedule.probabilities(), uniform, rtol=1e-12, atol=0)


@pytest.mark.parametrize("follow", FOLLOW)
def test_it_converges_to_the_weighted_loss(follow, generator):
    """To p = 0.9 w E||eps_hat - eps||^2, averaged over the bin, normalized, + 0.1 uniform.

    To 5 % of it and 10 % of the uniform share, after 40,000 samples.

    With 256 dimensions the losses at one noise level are all but equal, and so are both targets.
    """
    schedule = Adaptive(follow=follow, num_bins=25, memory=20_000.0)
    for _ in range(40):
        schedule.update(*draw_losses(schedule, 1000, generator))
    logsnr = torch.linspace(-20, 20, 25 * 400 + 1, dtype=torch.float64)[:-1] + 0.002
    v = WEIGHTING(logsnr) * torch.from_numpy(gaussian_loss(logsnr.numpy(), STD))
    by_bin = v.reshape(25, 400)
    level = by_bin.mean(1) if follow == "mean" else by_bin.square().mean(1).sqrt()
    expected = 0.9 * level / level.sum() + 0.1 / 25
    torch.testing.assert_close(schedule.probabilities(), expected, rtol=0.05, atol=0.01 / 25)


def test_the_expected_loss_does_not_change_while_it_adapts(generator):
    """Batch means are uncorrelated and unbiased, z < 4 over 60 batches of 100."""
    schedule = Adaptive(memory=2000.0)
    means = []
    for _ in range(60):
        logsnr, loss = draw_losses(schedule, 100, generator)
        means.append(loss.mean())
        schedule.update(logsnr, loss)
    expected = weighted_integral(WEIGHTING, lambda level: gaussian_loss(level, STD), -20, 20)
    assert z_score(torch.stack(means), expected) < 4


@pytest.mark.parametrize("follow", FOLLOW)
def test_it_lowers_the_standard_deviation_of_the_loss(follow, generator):
    """To less than half of the cosine schedule's (n = 2,000)."""
    schedule = Adaptive(follow=follow)
    for _ in range(10):
        schedule.update(*draw_losses(schedule, 1000, generator))
    _, loss = draw_losses(schedule, 2000, generator)
    _, cosine_loss = draw_losses(schedules.Cosine(), 2000, generator)
    assert loss.std() < cosine_loss.std() / 2


def test_root_second_moment_is_the_variance_optimal_density():
    """Observations of 0 and 4 in one half, 2 in the other: equal means, root moments sqrt 2 : 1."""
    schedule = Adaptive(follow="root-second-moment", num_bins=2, floor=1e-9)
    logsnr = torch.tensor([-10.0, -10.0, 10.0, 10.0], dtype=torch.float64).repeat(5000)
    v = torch.tensor([0.0, 4.0, 2.0, 2.0], dtype=torch.float64).repeat(5000)
    schedule.update(logsnr, v / schedule.density(logsnr))
    low, high = schedule.probabilities().tolist()
    assert low / high == pytest.approx(2**0.5, rel=1e-3)


def test_memory_forgets_exponentially():
    """After one memory of new samples, an old one counts 1/e."""
    schedule = Adaptive(num_bins=2, memory=1000.0, floor=1e-9)
    both = torch.tensor([-10.0, 10.0], dtype=torch.float64).repeat(500)
    for low in (5.0, 1.0):
        v = torch.tensor([low, 1.0], dtype=torch.float64).repeat(500)
        schedule.update(both, v / schedule.density(both))
    old = np.exp(-1) * 500 / (500 + np.exp(-1) * 500)
    low, high = schedule.probabilities().tolist()
    assert low / high == pytest.approx(5 * old + 1 * (1 - old), rel=1e-3)


def test_state_makes_a_round_trip(generator):
    schedule, other = Adaptive(), Adaptive()
    schedule.update(*draw_losses(schedule, 500, generator))
    state = schedule.state_dict()
    other.load_state_dict(state)
    assert torch.equal(schedule.probabilities(), other.probabilities())
    schedule.update(*draw_losses(schedule, 500, generator))  # the state is a copy
    assert torch.equal(other.state_dict()["total"], state["total"])
    with pytest.raises(ValueError, match="7"):
        Adaptive(num_bins=7).load_state_dict(state)


BAD_STATES = {
    "empty": ({}, "total"),
    "no count": ({"total": torch.ones(100)}, "count"),
    "not a number": ({"total": torch.full((100,), math.nan), "count": torch.ones(100)}, "total"),
    "negative": ({"total": torch.ones(100), "count": -torch.ones(100)}, "count"),
    "other ends": (Adaptive(logsnr_min=-10.0, logsnr_max=10.0).state_dict(), r"-10\.0, 10\.0"),
}


@pytest.mark.parametrize(("state", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_state_that_is_not_its_own_is_refused_and_changes_nothing(state, message):
    schedule = Adaptive()
    with pytest.raises(ValueError, match=message):
        schedule.load_state_dict(state)
    assert not schedule.state_dict()["count"].any()


REFUSED = [
    ({"num_bins": 0}, "num_bins"),
    ({"memory": 0.0}, "memory"),
    ({"floor": 0.0}, "floor"),
    ({"follow": "second-moment"}, "second-moment"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("arguments", "name"), REFUSED, ids=str)
def test_what_cannot_adapt_is_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        Adaptive(**arguments)


# --- in a loop of one's own ----------------------------------------------------------------------


def test_a_loss_whose_levels_nobody_knows_warns_in_training_alone():
    """The schedule cannot be updated with it. A fixed schedule learns nothing anyway."""
    x, weight = torch.ones(4, 2), torch.zeros((), requires_grad=True)
    adaptive, linear = (
        Objective(weighting=WEIGHTING, schedule=schedule, parameterization=Eps())
        for schedule in (Adaptive(), schedules.Linear())
    )
    with pytest.warns(UserWarning, match=r"schedule\.update") as caught:
        adaptive.loss(lambda z, *_: weight * z, x)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adaptive.loss(lambda z, *_: z, x)
        adaptive.loss(lambda z, *_: weight * z, x, logsnr=adaptive.schedule.sample(4))
        linear.loss(lambda z, *_: weight * z, x)


def test_a_models_state_holds_the_schedules(tmp_path, generator):
    """Through state_dict and safetensors; no change of device or dtype reaches it."""

    def new():
        model = nn.Linear(2, 2)
        model.schedule_state = AdaptiveState(Adaptive())
        return model

    model, other, third = new(), new(), new()
    schedule = model.schedule_state.schedule
    schedule.update(*draw_losses(schedule, 500, generator))
    model.to(torch.bfloat16).to("meta")
    assert not list(model.schedule_state.parameters())
    other.load_state_dict(
        new().state_dict() | model.schedule_state.state_dict(prefix="schedule_state.")
    )
    expected = schedule.probabilities()
    assert torch.equal(other.schedule_state.schedule.probabilities(), expected)
    save_model(other, str(tmp_path / "model.safetensors"))
    load_model(third, str(tmp_path / "model.safetensors"))
    assert torch.equal(third.schedule_state.schedule.probabilities(), expected)
    average = copy.deepcopy(third).schedule_state.schedule
    third.schedule_state.schedule.update(*draw_losses(schedule, 500, generator))
    assert torch.equal(average.probabilities(), expected)


# --- losses that teach nothing -------------------------------------------------------------------


@pytest.mark.parametrize("follow", FOLLOW)
def test_it_stays_uniform_while_all_losses_are_zero(follow, generator):
    """And what it learns afterwards is what it would have learned; nothing is divided by 0."""
    schedule, logsnr = Adaptive(follow=follow, num_bins=7), torch.tensor([-1.0, 3.0]).double()
    schedule.update(logsnr, torch.zeros(2))
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    torch.testing.assert_close(schedule.probabilities(), uniform, rtol=1e-12, atol=0)
    schedule.update(*draw_losses(schedule, 500, generator))
    assert schedule.probabilities().std() > 0
    assert schedule.logsnr(torch.rand(9, generator=generator)).isfinite().all()


@pytest.mark.parametrize("follow", FOLLOW)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200, -1.0])
def test_losses_that_are_no_weighted_error_never_enter(follow, bad, generator):
    """Nor those whose square is not. The others of the batch do, as if they came alone."""
    schedule, alone = Adaptive(follow=follow), Adaptive(follow=follow)
    logsnr, loss = draw_losses(schedule, 100, generator)
    poisoned = torch.where(torch.arange(100) < 40, bad, loss)
    schedule.update(logsnr, poisoned)
    if bad != 1e200 or follow == "root-second-moment":
        alone.update(logsnr[40:], loss[40:])
        assert torch.equal(schedule.probabilities(), alone.probabilities())
    assert all(part.isfinite().all() for part in schedule.state_dict().values())
    assert schedule.logsnr(torch.rand(9, generator=generator)).isfinite().all()
