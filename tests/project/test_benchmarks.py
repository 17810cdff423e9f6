"""Every benchmark runs, at a size that says nothing about speed."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from elbos.training import checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED = {  # what benchmarks import
    *("foreign", "framework_cases", "networks", "public_losses", "roofline", "timing"),
    *("trainer_cases", "trainings"),
}
FOREIGN = {
    "conventions",
    "loops",
    "time_to_quality",
    "trainers",
}  # others' code, or processes
NAMES = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - SHARED - FOREIGN)
LONG = {"audit", "coverage", "mixture", "startup", "step"}
ARGUMENTS = {  # RUN is a trained one
    "audit": [
        *("--tiny", "--seeds", "0", "--rounds", "1", "--drawn", "1"),
        *("--kinds", "latents", "drawn", "recipe", "held-out", "time"),  # levels are as drawn ones
    ],
    "counts": ["--presets", "digits", "--steps", "2"],
    "coverage": ["--num-tables", "2"],
    "data": ["--nums", "20", "40", "--folder", "data", "--jobs", "1", "--num-steps", "3"],
    "evaluation": ["RUN", "--tiny", "--rounds", "1"],
    "gpu": ["--presets", "digits", "--tiny", "--batch-size", "2", "--steps", "1", "--rounds", "1"],
    "mixture": [],
    "samplers": ["--num", "10", "--num-fine", "30", "--nfe", "4", "8"],
    "startup": ["--tiny"],
    "schedules": [
        *("--out", "scores.jsonl", "--workers", "1", "--schedules", "InfoNoise", "--rates", "2e-3"),
        *("--pilot-seeds", "0", "--seeds", "--num-images", "256", "--num-samples", "20"),
    ],
    "step_cost": ["--presets", "toy"],
    "step": ["--tiny", "--rounds", "1", "--sizes"],
    "validation": ["errors", "RUN", "--num-images", "9", "--num-seeds", "2"],
    "variance": ["RUN", "--num-losses", "256", "--num-gradients", "128"],
}


@pytest.fixture(scope="module")
def twice_saved(trained, tmp_path_factory):
    """The run on digits with a later checkpoint, of other weights."""
    path = tmp_path_factory.mktemp("twice-saved") / "digits"
    shutil.copytree(trained / "digits", path)
    folder = path / "checkpoints"
    step, groups = checkpoint.read(checkpoint.latest(folder))
    groups["ema"] = {name: 1.01 * value for name, value in groups["ema"].items()}
    checkpoint.save(folder, step + 1, groups, num_kept=2)
    return path


def run(name, path, monkeypatch):
    words = [str(path) if word == "RUN" else word for word in ARGUMENTS[name]]
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


@pytest.mark.filterwarnings("ignore::elbos.validation.diagnostics.TimeIgnoredWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else []) for name in NAMES]
)
def test_runs(name, twice_saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(name, twice_saved, monkeypatch)
    assert "nan" not in capsys.readouterr().out
