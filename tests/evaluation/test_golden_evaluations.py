"""Whole evaluations at fixed seeds, pinned: every number of them, but versions and places.

`python tests/evaluation/test_golden_evaluations.py` writes the pinned numbers anew.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.features import Module
from elbos.models.samplers import Ancestral, Heun
from elbos.runs.run import Run
from elbos.training.data import InMemory
from elbos.training.sampling import Sampling

GOLDEN = Path(__file__).parent / "golden"
FEATURES = """
def features(images):
    x = images.float() / 255
    return x.flatten(1)[:, ::24], x[:, 0].mean(2) * 9
"""
FEW = EvaluationConfig(
    num_images=20, num_pilot_images=10, ode=OdeConfig(num_images=3), num_samples=40
)
CASES = {
    "digits": ("digits", FEW, Sampling(num_steps=3)),
    "guided": (
        "digits",
        EvaluationConfig(
            split="val",
            num_images=12,
            num_pilot_images=12,
            target_se=1.0,
            seed=5,
            ode=OdeConfig(num_images=2, dequantization="uniform"),
            num_samples=40,
        ),
        Sampling(sampler=Heun(churn=4.0), num_steps=4, guidance=2.0),
    ),
    "toy": (
        "toy",
        replace(FEW, ode=OdeConfig(num_images=4, trace="exact")),
        Sampling(sampler=Ancestral(), num_steps=3),
    ),
}
"""Name of the run, what is measured, and how samples are made."""


def fixed(run: Run) -> Run:
    """The run in float32, with random weights that are the same everywhere, and 24 test images."""
    generator = torch.Generator().manual_seed(0)
    network = run.denoiser.network
    assert isinstance(network, nn.Module)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.5 / math.sqrt(max(parameter[0].numel(), 1))
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    test = run.dataset.test
    labels = None if test.labels is None else test.labels[:24]
    run.trained, run.precision = replace(run.trained, precision="fp32"), "fp32"
    run.dataset = replace(run.dataset, test=replace(test, x=InMemory(test.x[:24]), labels=labels))
    return run


def measured(name: str) -> dict[str, Any]:
    """The evaluation of a case, flat, without what depends on the machine."""
    run, config, sampling = CASES[name]
    Path("mine.py").write_text(FEATURES)
    config = replace(config, extractor=Module(path="mine.py:features"))
    result = evaluate(fixed(Run(Path(run))), config, sampling).to_dict()
    del result["protocol"]["versions"], result["protocol"]["device"]
    return dict(flat(json.loads(json.dumps(result))))


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its place; lists of numbers are one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        is_numbers = isinstance(item, list) and all(isinstance(v, int | float) for v in item)
        here = f"{place}.{key}".lstrip(".")
        if isinstance(item, dict | list) and not is_numbers:
            yield from flat(item, here)
        else:
            yield here, item


@pytest.mark.parametrize("name", CASES)
def test_evaluations_are_the_golden_ones(
    name: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 0.1 %, and z scores to 0.002: float32 on another CPU moves less. The steps of an ODE
    solver, which may reject one where another CPU accepts it, to 15 %.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "cache"))
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    found = measured(name)
    assert expected.keys() <= found.keys()
    for place, value in expected.items():
        tolerance = {"rel": 0.15 if place.endswith("ode.num_evaluations") else 1e-3}
        tolerance["abs"] = 2e-3 if place.endswith(".z") else 1e-7
        is_number = not isinstance(value, str | bool | None)
        assert found[place] == (pytest.approx(value, **tolerance) if is_number else value), place


if __name__ == "__main__":  # `conftest` is not there: its runs are made here
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from commands import make_runs

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(folder) / "cache"))
        os.chdir(folder)
        make_runs()
        GOLDEN.mkdir(exist_ok=True)
        for name in CASES:
            numbers = json.loads(
                json.dumps(measured(name)), parse_float=lambda x: float(f"{float(x):.7g}")
            )
            lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in numbers.items())
            (GOLDEN / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        os.chdir("/")
