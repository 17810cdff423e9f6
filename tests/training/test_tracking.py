"""Results in the experiment trackers of anybody's loop: named numbers."""

import itertools

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from elbos import LossByLevel, Validator
from elbos.theory.oracles import GaussianMixture
from elbos.training import tracking


class Numbers(GeneralTracker):
    name, requires_logging_directory, tracker = "numbers", False, None

    def __init__(self):
        super().__init__()
        self.logged = []

    def log(self, values, step=None):
        self.logged.append((step, values))


@pytest.fixture(scope="module")
def result():
    one = torch.ones(1)
    denoiser = GaussianMixture(one, torch.zeros(1, 2), one)
    x, _ = denoiser.sample(200)
    return Validator(x)(denoiser)


def test_the_numbers_are_those_of_the_validation(result):
    """The integral over the bins is the diffusion term of the bound, but for a level at an edge."""
    found = tracking.scalars(result, name="ema")
    assert found.pop("ema/bits_per_dim") == result.bits_per_dim
    assert found.pop("ema/standard_error") == result.standard_error
    assert list(found) == sorted(found)
    edges = [key.partition("_logsnr_")[2].split("_to_") for key in found]
    assert (edges[0][0], edges[-1][1]) == ("-10.0", "13.3")
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    assert len(found) == 12
    total = sum(found.values()) * 23.3 / 12
    assert total == pytest.approx(result.diffusion.mean().item(), rel=1e-6)


def test_a_bin_without_samples_has_no_number():
    losses = LossByLevel(range(-10, 11))
    losses.update(torch.tensor([0.5]), torch.tensor([0.25]))
    tracker = Numbers()
    tracking.log(tracker, losses.result(), 3)
    assert tracker.logged == [(3, {"train/loss_by_level/10_logsnr_0.0_to_1.0": 0.25})]


def test_an_accelerator_logs_to_all_its_trackers(result, tmp_path):
    """TensorBoard, read back, and a custom tracker."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accelerator = Accelerator(
        cpu=True,
        mixed_precision="no",
        log_with=["tensorboard", custom := Numbers()],
        project_dir=tmp_path,
    )
    accelerator.init_trackers("mine")
    tracking.log(accelerator, result, 7)
    expected = tracking.scalars(result)
    for tracker in accelerator.trackers:
        tracker.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "mine")).Reload()
    assert events.Tags()["scalars"] == list(expected)
    for name, value in expected.items():
        (event,) = events.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(value, rel=1e-6))
    assert custom.logged == [(7, expected)]
