"""Every benchmark runs, at a size that says nothing about speed."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NETWORK = ["--network.channels", "16", "32", "--network.embedding-dim", "32"]
TRAINING = [*NETWORK, "--num-images", "32", "--batch-size", "16", "--sampling.num-steps", "2"]
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "timing")
ARGUMENTS = {  # RUN is a trained one
    "audit": ["--tiny", "--seeds", "0", "--rounds", "1"],
    "coverage": ["--num-tables", "1"],
    "digits": ["--tiny", "--runs", "runs", "--", *TRAINING],
    "evaluation": ["RUN", "--tiny", "--rounds", "1"],
    "likelihood": ["RUN", "--num-images", "150", "--num-repeats", "2"],
    "samplers": ["--num", "10", "--num-fine", "30", "--nfe", "4", "8"],
    "startup": ["--tiny"],
    "step": ["--tiny", "--rounds", "1"],
    "variance": ["RUN", "--num-losses", "256", "--num-gradients", "128"],
}


def run(name, trained, monkeypatch):
    words = [str(trained / "digits") if word == "RUN" else word for word in ARGUMENTS[name]]
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.syspath_prepend(BENCHMARKS)
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", NAMES)
def test_runs(name, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(name, trained, monkeypatch)
    assert "nan" not in capsys.readouterr().out


def test_a_peak_is_the_fastest_round_of_any_matrix_product(monkeypatch):
    """No median of the products themselves is above it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    timing = runpy.run_path(str(BENCHMARKS / "timing.py"))
    matmuls = timing["peaks"](is_tiny=True)
    assert {work.name.split()[0] for work in matmuls} == {"bfloat16", "float32"}
    times = timing["measure"](matmuls, 3)
    assert timing["peak"](times).fastest_rate >= max(timed.rate for timed in times)
