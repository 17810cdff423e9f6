"""Experiment trackers get what is logged, once, also of a run that was killed and resumed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from commands import AtStep
from tiny import DIGITS, log

from elbos.models.networks import MLPConfig
from elbos.runs.fit import train
from elbos.theory import schedules
from elbos.training.config import Config, Output, Tracker
from elbos.training.data import Toy
from elbos.training.trainer import Trainer

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


class Server:
    """A service with runs by identifiers, each with what was logged to it."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.settings: list[dict[str, Any]] = []
        self.num_finished = 0
        self.fails_at: int | None = None

    def tracker(self) -> type[GeneralTracker]:
        server = self

        class Remote(GeneralTracker):
            name, requires_logging_directory, main_process_only = "wandb", False, False

            def __init__(self, project: str, *, name: str, id: str = "", resume: str = "") -> None:  # noqa: A002
                super().__init__()
                assert bool(id) == (resume == "allow")
                self.id = id or f"{project}/{name}/{len(server.runs)}"

            @property
            def tracker(self) -> "Remote":
                return self

            def start(self) -> None:
                server.runs.setdefault(self.id, [])

            def store_init_configuration(self, values: dict[str, Any]) -> None:
                server.settings.append(values)

            def log(self, values: dict[str, Any], step: int | None = None) -> None:
                assert step is not None
                if step == server.fails_at:
                    raise ConnectionError("503")
                server.runs[self.id].append((step, values))

            def log_images(self, values: dict[str, Any], step: int | None = None) -> None:
                self.log(values, step)

            def finish(self) -> None:
                server.num_finished += 1

        return Remote


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", found.tracker())
    monkeypatch.setattr(
        "accelerate.tracking.get_available_trackers", lambda: ["tensorboard", "wandb"]
    )
    return found


def kill() -> None:
    """End the training without a checkpoint."""
    raise KeyboardInterrupt


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in log(run) if "loss" in line]


def test_tensorboard_has_each_step_once_of_a_run_that_was_killed(
    tmp_path: Path, at_step: AtStep
) -> None:
    """Killed at step 7, after the line of step 6, it resumes from step 4."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    at_step(7, kill)
    with pytest.raises(KeyboardInterrupt):
        train(tracked("tensorboard"), tmp_path)
    assert [step for step, _ in losses(tmp_path)] == [2, 4, 6]
    at_step(7, lambda: None)
    train(tracked("tensorboard"), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in found] == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(found, losses(tmp_path), rtol=1e-6)
    lines = [line["loss_by_level"] for line in log(tmp_path) if "loss" in line]
    (last,) = (tag for tag in events.Tags()["scalars"] if "train/loss_by_level/9" in tag)
    by_level = [event.value for event in events.Scalars(last)]
    np.testing.assert_allclose(by_level, [line["nats_per_dim"][9] for line in lines], rtol=1e-6)
    bits = [event.value for event in events.Scalars("validation/bits_per_dim")]
    nats = [line["val_nats"] for line in log(tmp_path) if "val_nats" in line]
    np.testing.assert_allclose(bits, np.array(nats) / np.log(2), rtol=1e-6)
    assert [event.step for event in events.Images("samples")] == [4, 8, 10]


def test_a_resumed_run_is_the_same_run_for_a_service(
    tmp_path: Path, server: Server, at_step: AtStep
) -> None:
    """What comes again is what came before; settings are stored once."""
    at_step(7, kill)
    with pytest.raises(KeyboardInterrupt):
        train(tracked("wandb"), tmp_path / "mine")
    at_step(7, lambda: None)
    train(tracked("wandb", "wandb"), tmp_path / "mine")
    assert server.num_finished == 2
    ((identifier, logged),) = server.runs.items()
    assert identifier == "elbos/mine/0"
    lines = [(step, values) for step, values in logged if "loss" in values]
    assert [step for step, _ in lines] == [2, 4, 6, 6, 8, 10]
    for _, values in lines:
        del values["images_per_sec"], values["data_wait"]
    assert lines[2] == lines[3]
    assert [values["loss"] for _, values in (*lines[:2], *lines[3:])] == [
        loss for _, loss in losses(tmp_path / "mine")
    ]
    (settings,) = server.settings
    assert settings["weighting"] == "Sigmoid()"
    assert settings["batch_size"] == 64
    assert json.loads((tmp_path / "mine" / "trackers.json").read_text()) == {"wandb": identifier}


def test_a_service_gets_grids_of_samples(tmp_path: Path, server: Server) -> None:
    train(tracked("wandb"), tmp_path)
    ((_, logged),) = server.runs.items()
    samples = [values["samples"] for _, values in logged if "samples" in values]
    assert len(samples) == 3
    assert samples[0][0].shape == (512, 512, 3)


def test_a_service_that_is_down_ends_no_training(tmp_path: Path, server: Server) -> None:
    server.fails_at = 6
    with pytest.warns(UserWarning, match=r"wandb .*503") as caught:
        train(tracked("wandb"), tmp_path)
    assert len(caught) == 1
    assert [step for step, _ in losses(tmp_path)] == [2, 4, 6, 8, 10]
    ((_, logged),) = server.runs.items()
    assert max(step for step, _ in logged) == 4


def test_a_service_that_does_not_start_is_one_line(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: GeneralTracker) -> None:
        raise RuntimeError("no API key\nlog in")

    monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["wandb"], "start", start)
    with pytest.raises(ValueError, match=r"wandb .*no API key log in.*--output\.trackers"):
        train(tracked("wandb"), tmp_path)


def test_the_speed_is_that_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only batches, of a second, and validations, of an hour, move on."""
    now, batch, validate = [0.0], Trainer.batch, Trainer.validate

    def slow(seconds: float, function: Callable[[Trainer], Any]) -> Callable[[Trainer], Any]:
        def slowed(self: Trainer) -> Any:
            now[0] += seconds
            return function(self)

        return slowed

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Trainer, "batch", slow(1.0, batch))
    monkeypatch.setattr(Trainer, "validate", slow(3600.0, validate))
    train(tracked(), tmp_path)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["images_per_sec"] for line in lines if "loss" in line] == [64.0] * 5
