"""Default names of runs: short, safe, and never one for two configurations."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from elbos.models.networks import MLPConfig
from elbos.models.samplers import Heun
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.tabulated import Tabulated
from elbos.training.config import Averaging, Config, Optimizer, Output
from elbos.training.data import Folder, Toy
from elbos.training.name import default_name, nearest_preset
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling

NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("digits", {}),
    "fashion-eps-normal": (
        "fashion",
        {"parameterization": parameterizations.Eps(), "schedule": schedules.Normal()},
    ),
    "fashion-monotone-edm": ("fashion", {"weighting": weightings.Monotone(weightings.EDM())}),
    "digits-elbo": ("digits", {"weighting": weightings.ELBO()}),
    "digits-weighting.k-3": ("digits", {"weighting": weightings.Sigmoid(k=3.0)}),
    "digits-weighting-edm": ("digits", {"weighting": weightings.EDM()}),
    "toy-num-images-1024": ("toy", {"num_images": 1024}),
    "toy-no-use-labels": ("toy", {"use_labels": False}),
    "digits-lr-0.5": (
        "digits",
        {"optimizer": replace(PRESETS["digits"].optimizer, learning_rate=0.5)},
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_differs_from_the_preset(name: str) -> None:
    preset, changes = NAMES[name]
    assert default_name(replace(PRESETS[preset], **changes), preset) == name


def test_what_is_logged_has_no_part_in_it() -> None:
    output = Output(log_every=1, trackers=("tensorboard",))
    assert default_name(replace(PRESETS["toy"], output=output), "toy") == "toy"


@cache
def variants(preset: str) -> list[Config]:
    return [*_variants(preset)]


def _variants(preset: str) -> Iterator[Config]:
    """Many configurations: every type of every part in pairs, and settings of theirs."""
    names = ("a", "A", "my file.py:w", "x" * 200)
    own = [Tabulated.from_function(torch.sigmoid, name) for name in names]
    weights = [
        *(weightings.Sigmoid(k=k) for k in (2.0, 3.0, -3.0)),
        *(weightings.ELBO(), weightings.EDM(), weightings.EDM(sigma_data=0.6), weightings.P2()),
        *(weightings.DDPM(), weightings.Laplace(), weightings.IDDPM(), *own),
        weightings.Monotone(weightings.EDM()),
        weightings.Monotone(weightings.Shifted(weightings.P2(), 1.0)),
        weightings.Shifted(weightings.Monotone(weightings.P2()), 1.0),
        weightings.Shifted(weightings.Sigmoid(k=3.0), 0.5),
        weightings.Shifted(weightings.Sigmoid(), 0.5),
    ]
    levels: list[schedules.Schedule] = [
        *(schedules.Cosine(), schedules.Normal(), schedules.Flow(), schedules.DDPM()),
        *(schedules.Laplace(), schedules.Linear(logsnr_min=-10.0, logsnr_max=10.0)),
        *(schedules.EDMSampling(), Adaptive(memory=5.0), Adaptive(logsnr_min=-9.0)),
    ]
    predictions = [getattr(parameterizations, n)() for n in ("Eps", "V", "Flow", "EDM", "X")]
    base = PRESETS[preset]
    changes: list[dict[str, Any]] = [
        *({"weighting": w} for w in weights),
        *({"schedule": s, "weighting": w} for s in levels for w in weights[:4]),
        *({"parameterization": p, "schedule": s} for p in predictions for s in levels),
        *({"data": Toy(kind=k, num_train=n)} for n in (10, 9) for k in ("ring", "grid")),
        *({"data": Folder(root=Path(root))} for root in ("/a/b", "/c/b", "/c/B", "/d/" + 99 * "b")),
        *({"network": MLPConfig(num_blocks=n, num_features=m)} for n in (1, 2) for m in (8, 16)),
        *({"seed": s, "num_images": n} for s in (1, 3) for n in (1024, 2048)),
        *({"optimizer": Optimizer(learning_rate=r)} for r in (1e-5, 1e-4, 0.1, math.pi, 1e20)),
        {"optimizer": Optimizer(betas=(0.8, 0.9))},
        {"averaging": Averaging(relative_width=0.1)},
        *({"init": Path(path)} for path in ("/a/b", "/c/b")),
        *({"sampling": Sampling(sampler=Heun(churn=c))} for c in (0.0, 3.0)),
        *({"precision": p} for p in ("bf16", "fp32")),
        {"label_dropout": 0.5, "use_labels": False, "batch_size": 64},
    ]
    for change in changes:
        try:
            yield replace(base, **change)
        except ValueError:  # its loss cannot be trained
            continue


def test_names_are_what_they_were() -> None:
    """Of every change of a preset, as data: the same command finds its run again."""
    expected = json.loads(Path(__file__).with_name("run_names.json").read_text())
    for preset, names in expected.items():
        assert [default_name(config, preset) for config in variants(preset)] == names


def test_configurations_never_share_a_name() -> None:
    """Of two presets, of which one's name begins with the other's."""
    found: dict[str, Any] = {}
    presets = ("fashion", "fashion-small")
    for preset, config in itertools.chain.from_iterable(
        ((preset, config) for config in [PRESETS[preset], *variants(preset)]) for preset in presets
    ):
        name, content = default_name(config, preset), config.identity()
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,59}", name), name
        assert not name.endswith(".")
        assert found.setdefault(name, content) == content, name
    assert len(found) > 200


@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_is_known_for_a_change_of_its_preset(preset: str) -> None:
    config = replace(PRESETS[preset], num_images=4096, seed=7)
    assert nearest_preset(config) == preset
    assert default_name(config, preset) == f"{preset}-num-images-4096-seed-7"
