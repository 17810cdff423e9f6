"""The log of a training: its speed, and experiment trackers, which get what is logged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import DIGITS, bounds, log

from elbos.models.networks import MLPConfig
from elbos.theory import schedules
from elbos.training import log as log_module
from elbos.training import loop
from elbos.training.config import Config, Output, Tracker
from elbos.training.data import Toy
from elbos.training.loop import train
from elbos.validation import BinnedLoss

TOY = replace(
    DIGITS,
    data=Toy(num_train=640),
    network=MLPConfig(num_features=8, num_blocks=1),
    schedule=schedules.Cosine(logsnr_min=-10.0, logsnr_max=10.0),
    num_images=640,
    batch_size=64,
    precision="fp32",
)


def tracked(*names: Tracker) -> Config:
    output = Output(log_every=128, validate_every=256, save_every=256, trackers=names)
    return replace(TOY, output=output)


def test_tensorboard_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tracked("tensorboard"), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "elbos")).Reload()
    lines = [line for line in log(tmp_path) if "loss" in line]
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    np.testing.assert_allclose(losses, [(line["step"], line["loss"]) for line in lines], rtol=1e-6)
    by_level = [event.value for event in events.Scalars("train/loss_by_level/logsnr_0_to_2")]
    bins = (BinnedLoss.from_dict(line["loss_by_level"]) for line in lines)
    expected = [each.nats_per_dim[each.edges.index(0.0)] for each in bins]
    np.testing.assert_allclose(by_level, expected, rtol=1e-6)
    bits = [event.value for event in events.Scalars("validation/bits_per_dim")]
    expected = bounds(tmp_path)
    np.testing.assert_allclose(bits, expected, rtol=1e-6)


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ValueError, match="wandb is not installed"):
        train(tracked("wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise RuntimeError("no API key\nlog in")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", start)
    with pytest.raises(ValueError, match=r"no API key log in.*--output\.trackers"):
        train(tracked("tensorboard"), tmp_path)


def test_the_speed_is_that_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only steps, of a second, and validations, of an hour, move on."""
    now = [0.0]

    def slow(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*arguments: Any, **how: Any) -> Any:
            now[0] += seconds
            return function(*arguments, **how)

        return slowed

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(loop, "times", slow(1.0, loop.times))
    monkeypatch.setattr(log_module, "validate", slow(3600.0, log_module.validate))
    train(tracked(), tmp_path)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["images_per_sec"] for line in lines if "loss" in line] == [64.0] * 5
