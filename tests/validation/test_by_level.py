"""The loss of a training by noise level: means over its batches, on one process or several."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from protocols import deciles
from scipy.stats import binned_statistic
from tables import SCHEDULES

from elbos import LossByLevel, Validator
from elbos.models.likelihood import eps_loss
from elbos.theory.oracles import GaussianMixture
from elbos.theory.schedules import Cosine, Linear
from elbos.validation import BinnedLoss, scalars

EDGES = (-6.0, -2.0, 0.5, 3.0)


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logsnr = 11 * torch.rand(5, 64, generator=generator) - 7  # some are beyond the edges
    return list(zip(logsnr, torch.rand(5, 64, generator=generator).exp(), strict=True))


def running(levels, observed):
    actual = LossByLevel(levels)
    for logsnr, loss in observed:
        actual.update(logsnr, loss)
    return actual


def test_means_and_errors_are_those_of_all_samples_at_once():
    logsnr, loss = (torch.cat(part).double().numpy() for part in zip(*batches(), strict=True))
    actual = running(EDGES, batches()).result()
    for values, statistic in ((actual.nats_per_dim, "mean"), (actual.num_samples, "count")):
        expected = binned_statistic(logsnr, loss, statistic, EDGES).statistic
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    std = binned_statistic(logsnr, loss, lambda v: np.std(v, ddof=1), EDGES).statistic
    np.testing.assert_allclose(actual.standard_error, std / np.sqrt(actual.num_samples), rtol=1e-9)
    assert 0 < 320 - sum(actual.num_samples) == ((logsnr < EDGES[0]) | (logsnr > EDGES[-1])).sum()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_bins_of_a_schedule_are_those_of_any_other_and_hold_all_that_it_draws(schedule):
    """Ends too, also in float32."""
    logsnr = schedule.logsnr(torch.linspace(0, 1, 1001, dtype=torch.float64)).float()
    actual = running(schedule, [(logsnr, torch.ones(1001))]).result()
    assert sum(actual.num_samples) == 1001
    assert {2 * round(edge / 2) for edge in actual.edges} == {*actual.edges}
    assert actual.edges[0] <= schedule.logsnr_min < actual.edges[1]
    assert actual.edges[-2] < schedule.logsnr_max <= actual.edges[-1]


def test_training_and_validation_agree_in_each_bin():
    """Of the exact denoiser; the mean squared error is twice the loss. 4 standard errors."""
    item, schedule = torch.ones(1), Cosine(logsnr_min=-10.0, logsnr_max=13.3)
    denoiser = GaussianMixture(item, torch.zeros(1, 2), item)
    generator = torch.Generator().manual_seed(0)
    x, _ = denoiser.sample(4000, generator)
    logsnr = schedule.sample(len(x), generator).float()
    observed = logsnr, eps_loss(denoiser, x, logsnr, generator=generator)
    edges = schedule.logsnr(torch.linspace(1, 0, 11, dtype=torch.float64))
    trained = running(edges, [observed]).result()
    held_out = deciles(schedule)(Validator(x, num_evaluations=4), denoiser)[::-1]
    for loss, error, other in zip(
        trained.nats_per_dim, trained.standard_error, held_out, strict=True
    ):
        assert abs(loss - other.mean / 2) < 4 * math.hypot(error, other.standard_error / 2)


def test_a_tracker_lays_training_and_validation_over_each_other():
    """Equal names, and equal numbers of an exact denoiser whose levels are drawn evenly, though the
    range begins and ends in mid-bin. 4 standard errors.
    """
    item, ends = torch.ones(1), {"logsnr_min": -9.0, "logsnr_max": 13.3}
    denoiser = GaussianMixture(item, torch.zeros(1, 2), item)
    generator = torch.Generator().manual_seed(0)
    x, _ = denoiser.sample(4000, generator)
    schedule = Linear(**ends)
    logsnr = schedule.sample(len(x), generator).float()
    trained = running(schedule, [(logsnr, eps_loss(denoiser, x, logsnr, generator=generator))])
    validated = scalars(Validator(x, **ends)(denoiser), name="train")
    expected = scalars(trained.result())
    assert [*expected] == [name for name in validated if "logsnr" in name]
    errors = trained.result().standard_error
    for (name, value), error in zip(expected.items(), errors, strict=True):
        assert abs(validated[name] - value) < 4 * math.sqrt(2) * error


def test_bins_with_few_levels_are_left_out_of_a_validation():
    item = torch.ones(1)
    denoiser = GaussianMixture(item, torch.zeros(1, 2), item)
    few = Validator(denoiser.sample(20)[0], logsnr_min=-9.0, logsnr_max=13.3, num_evaluations=4)
    assert len([name for name in scalars(few(denoiser)) if "logsnr" in name]) < 12


def test_what_is_not_finite_is_left_out_and_empty_bins_are_none():
    logsnr = torch.tensor([-3.0, -3.0, 1.0, math.nan])
    actual = running(EDGES, [(logsnr, torch.tensor([2.0, math.nan, math.inf, 1.0]))]).result()
    assert actual.num_samples == (1, 0, 0)
    assert actual.nats_per_dim == (2.0, None, None)
    assert actual.standard_error == (None, None, None)
    assert BinnedLoss.from_dict(actual.to_dict()) == actual


def test_a_restored_one_goes_on_and_a_reset_one_begins_anew():
    first = running(EDGES, batches(0))
    second = LossByLevel(EDGES)
    second.load_state_dict(first.state_dict())
    for observed in batches(1):
        first.update(*observed)
        second.update(*observed)
    assert second.result() == first.result()
    first.reset()
    assert first.result() == LossByLevel(EDGES).result() != second.result()
    with pytest.raises(ValueError, match="edges"):
        first.load_state_dict(LossByLevel(Cosine()).state_dict())
    with pytest.raises(ValueError, match="edges"):
        first.load_state_dict({**first.state_dict(), "sums": torch.zeros(3, 1)})
    edges = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert LossByLevel(edges).edges == LossByLevel(edges).edges == (-1.0, 0.0, 1.0)


def work(folder):
    """One process of a group, with batches of its own."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mine = running(EDGES, batches(rank))
    results = [mine.result(is_shared=True), mine.result(is_shared=True), mine.result()]
    torch.save([result.to_dict() for result in results], folder / f"{rank}.pt")


def test_processes_share_their_losses(tmp_path):
    """Each gets the means of all batches, as often as it asks, and keeps its own."""
    in_processes(2, work, tmp_path)
    expected = running(EDGES, batches(0) + batches(1)).result()
    for rank in range(2):
        *shared, mine = map(BinnedLoss.from_dict, torch.load(tmp_path / f"{rank}.pt"))
        assert shared[0] == shared[1]
        assert shared[0].num_samples == expected.num_samples
        np.testing.assert_allclose(shared[0].nats_per_dim, expected.nats_per_dim, rtol=1e-12)
        assert mine == running(EDGES, batches(rank)).result()
    with pytest.raises(ValueError, match=r"torch\.distributed"):
        LossByLevel(EDGES).result(is_shared=True)
