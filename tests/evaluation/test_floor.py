"""The floor of a run's training images, kept for all runs on the same data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from elbos.base.progress import silent
from elbos.evaluation import OdeConfig, floor
from elbos.evaluation.config import EvaluationConfig
from elbos.runs.run import Run
from elbos.theory.floor import Floor, mixture_floor
from elbos.theory.oracles import FiniteSet
from elbos.training.data import InMemory

LEVELS = (-8.0, -4.0, -1.0, 12.0)


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("is called")


@pytest.fixture(autouse=True)
def cache(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "floor-cache"))


def measured(run: Run, condition: str, num: int | None = None) -> Floor:
    """The floor of one condition."""
    config = EvaluationConfig(floor_images=num)
    return floor.measure_floors(run, config, {condition: LEVELS}, silent)[condition]


def test_the_floor_is_the_loss_of_the_exact_denoiser_on_the_training_images() -> None:
    """Told the label, of all 1,350; with other noise."""
    run = Run("digits")
    found, train = measured(run, "given_label"), run.dataset.train
    assert (found.num_noised, found.num_points, found.bias) == (1350, 1350, "none")
    data = FiniteSet(train.x[:], 17, train.labels)
    x, level = data.points(torch.arange(1350)), torch.tensor([LEVELS[1]], dtype=torch.float64)
    z = level.sigmoid().sqrt() * x + (-level).sigmoid().sqrt() * torch.randn_like(x)
    x_hat, _ = data(z.view(1350, 1, 8, 8), level, train.labels)
    losses = (x_hat.flatten(1) - x).square().mean(1) * level.exp() / 2
    error = losses.std().item() / 1350**0.5
    assert abs(losses.mean().item() - found.loss[1]) < 4 * 2**0.5 * error


def test_the_floor_of_a_tenth_is_lower_but_in_much_noise() -> None:
    """Of 135 images: the same to a few per cent at -8, a fraction at -1."""
    found = measured(Run("digits"), "unconditional")
    assert found.tenth is not None and 1 <= found.num_resolved < 3
    assert abs(found.tenth[0] / found.loss[0] - 1) < 0.05
    assert found.tenth[2] < 0.8 * found.loss[2]


def test_what_was_computed_is_read_by_all_runs_on_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(Run("digits"), "unconditional")
    monkeypatch.setattr(floor, "floor_losses", fail)
    assert measured(Run("digits"), "unconditional") == found
    with pytest.raises(AssertionError, match="is called"):
        measured(Run("digits"), "unconditional", 100)


def test_few_points_have_a_floor_below_that_of_their_distribution() -> None:
    """200 points in the plane: near it in much noise, nothing in little."""
    run = Run("toy")
    train = run.dataset.train
    run.dataset = replace(run.dataset, train=replace(train, x=InMemory(train.x[:200]), labels=None))
    found, exact = (
        measured(run, "unconditional"),
        mixture_floor(run.config.data.mixture, torch.tensor(LEVELS)),
    )
    ratios = torch.tensor(found.loss) / torch.tensor(exact.loss)
    assert (ratios < 1.25).all() and ratios[0] > 0.8 and ratios[-1] < 0.3


def test_an_evaluation_has_it_at_the_levels_of_its_loss() -> None:
    result = Run("toy").evaluate(
        floor=True,
        floor_images=2,
        num_images=20,
        num_pilot_images=10,
        num_samples=0,
        ode=OdeConfig(num_images=0),
    )
    assert result.floors is not None and result.floors.keys() == result.results.keys()
    for name, one in result.results.items():
        assert result.floors[name].logsnr == one.curve.logsnr
