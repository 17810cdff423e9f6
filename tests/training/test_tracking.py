"""Results in the experiment trackers of anybody's loop: numbers for all, figures for some."""

import io
import itertools

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from plotly.graph_objects import Figure

from elbos import LossByLevel, Validator
from elbos.theory.oracles import GaussianMixture
from elbos.training import tracking


class Numbers(GeneralTracker):
    """A tracker of numbers alone."""

    name, requires_logging_directory, tracker = "numbers", False, None

    def __init__(self, name="numbers"):
        super().__init__()
        self.name, self.logged = name, []

    def log(self, values, step=None):
        self.logged.append((step, values))


class Pictures(Numbers):
    """One that takes pictures, too."""

    def log_images(self, values, step=None):
        self.logged.append((step, values))


@pytest.fixture(scope="module")
def result():
    one = torch.ones(1)
    denoiser = GaussianMixture(one, torch.zeros(1, 2), one)
    x, _ = denoiser.sample(200)
    return Validator(x)(denoiser)


@pytest.fixture
def drawn(monkeypatch):
    """The picture that kaleido, which tests do without, would draw."""
    pixels = np.random.default_rng(0).integers(256, size=(6, 8, 3)).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="png")
    monkeypatch.setattr(tracking, "find_spec", lambda _: object())
    monkeypatch.setattr(Figure, "to_image", lambda *_: png.getvalue())
    return pixels


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


def test_an_accelerator_logs_to_all_its_trackers(result, drawn, tmp_path):
    """TensorBoard, read back, one's own with and without pictures, and one that takes figures."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    own = [Numbers(), Pictures("pictures"), Numbers("wandb")]
    accelerator = Accelerator(
        cpu=True, mixed_precision="no", log_with=["tensorboard", *own], project_dir=tmp_path
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
    (event,) = events.Images("validation/by_level")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    np.testing.assert_array_equal(picture, drawn)

    numbers, pictures, wandb = (tracker.logged for tracker in own)
    assert numbers == [(7, expected)]
    assert pictures[0] == wandb[0] == (7, expected)
    ((step, images),) = pictures[1:]
    np.testing.assert_array_equal(images["validation/by_level"], [drawn])
    assert step == 7
    ((_, figures),) = wandb[1:]
    assert isinstance(figures["validation/by_level"], Figure)
