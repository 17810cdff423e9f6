"""What commands do and print, to be read by programs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Elbos, assert_one_line, snapshot
from PIL import Image

from elbos import cli
from elbos.base.codec import decode
from elbos.cli import train as train_verb
from elbos.cli import weightings as weightings_verb
from elbos.runs import samples
from elbos.theory.recipes import RECIPES
from elbos.training.config import Config
from elbos.training.presets import PRESETS


def test_help_and_version(elbos: Elbos) -> None:
    assert all(verb in elbos("--help").out for verb in cli.VERBS)
    assert elbos().out == elbos("-h").out == elbos("--help").out
    assert elbos("--version").out.startswith("elbos ")
    pages = (elbos("train", *preset, "--help").out for preset in ([], ["digits"]))
    every, digits = (re.findall(r"^ +(--[\w.-]+)", page, re.MULTILINE) for page in pages)
    assert every == digits


@pytest.mark.parametrize("preset", PRESETS)
def test_dry_run_prints_the_preset(elbos: Elbos, preset: str) -> None:
    result = elbos("train", preset, "--dry-run")
    assert decode(Config, json.loads(result.out)) == PRESETS[preset]


ROUND_TRIPS = [
    "digits",
    "toy weighting:monotone weighting.inner:own --weighting.inner.function my.py:w",
    "toy sampling.sampler:heun --sampling.sampler.churn 3 sampling.grid:cosine",
    "digits data:images --data.path . network:mlp",
]


@pytest.mark.parametrize("words", ROUND_TRIPS)
def test_what_a_dry_run_prints_is_taken_as_it_is(elbos: Elbos, folder: Path, words: str) -> None:
    (folder / "my.py").write_text("def w(logsnr): return logsnr.sigmoid()")
    first = elbos("train", *words.split(), "--dry-run")
    assert first.status == 0, first.err
    (folder / "f.json").write_text(first.out)
    assert elbos("train", "--config", "f.json", "--dry-run") == first


def test_a_run_is_named_after_what_a_file_says(elbos: Elbos, runs: Path) -> None:
    """And a file of a run's own is that run, which goes on."""
    content = json.loads(Path("digits/config.json").read_text()) | {"num_images": 32}
    Path("f.json").write_text(json.dumps(content))
    result = elbos("train", "--config", "f.json")
    assert result.status == 0, result.err
    (run,) = (runs / "runs").iterdir()
    assert run.name.startswith("digits-")
    assert json.loads((run / "config.json").read_text()) == content
    before = snapshot(runs / "digits")
    assert elbos("train", "--config", "digits/config.json", "--run", "digits").status == 0
    assert snapshot(runs / "digits") == before


TOUR = {  # a part of the name of the run's directory
    "digits": "runs/digits",
    "digits weighting:elbo": "runs/digits-",
    "fashion parameterization:eps schedule:normal": "runs/fashion-",
    "fashion": "runs/fashion",
    "fashion_small": "runs/fashion-small",  # either way
    "digits --run toy": "toy",
    "fashion --output.log-every 3": "runs/fashion",
}


def test_runs_that_differ_have_directories_of_their_own(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Config, Path]] = []
    monkeypatch.setattr(train_verb, "train", lambda *arguments: trained.append(arguments))
    for words in TOUR:
        result = elbos("train", *words.split())
        assert result.status == 0, result.err
    paths = [str(path) for _, path in trained]
    for path, name in zip(paths, TOUR.values(), strict=True):
        assert path == name or (name.endswith("-") and re.fullmatch(f"{name}[0-9a-f]{{8}}", path))
    assert len(set(paths)) == len(TOUR) - 1  # the output is no part of a run's identity


def test_weightings_are_the_recipes(elbos: Elbos, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(elbos("weightings", "--json").out)
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["is_monotone"] == (not row["rising"]) for row in rows)
    numbers = {part.partition("/abs/")[2] for row in rows for part in row["reference"].split()}
    monkeypatch.setattr(weightings_verb, "rising_intervals", lambda *_: [(0.0, 1.0)])  # in no time
    table = elbos("weightings").out
    assert all(f"arXiv:{number}" in table for number in numbers if number)


@pytest.mark.usefixtures("runs")
def test_samples_are_a_picture_and_an_archive(elbos: Elbos) -> None:
    paths = json.loads(elbos("sample", "digits", "--num", 30, "--json").out)
    with np.load(paths["npz"]) as archive:
        x, labels = archive["x"], archive["labels"]
    assert (x.shape, x.dtype, x.max() <= 16) == ((30, 1, 8, 8), np.uint8, True)
    assert labels.tolist() == 3 * list(range(10))
    with Image.open(paths["png"]) as image:
        assert image.width == 10 * (8 * 6 + 2) + 2
    paths = json.loads(elbos("sample", "toy", "--num", 30, "--json", "--out", "a/b.c").out)
    assert paths == {"png": "a/b.c.png", "npz": "a/b.c.npz"}
    again = json.loads(elbos("sample", "toy", "--num", 3, "--json", "--out", "a/d.png").out)
    assert again == {"png": "a/d.png", "npz": "a/d.npz"}
    with np.load(paths["npz"]) as archive:
        assert list(archive) == ["x", "sampling"]
        assert json.loads(archive["sampling"].item())["sampler"]["type"] == "DPMSolver"
        assert (archive["x"].shape, archive["x"].dtype) == ((30, 2), np.float32)


def test_samples_that_are_not_finite_are_not_written(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(runs)
    bad = torch.full((5, 1, 8, 8), math.nan)
    monkeypatch.setattr(samples, "sample_batches", lambda *_, **__: [bad])
    result = elbos("sample", "digits", "--num", 5, "--out", "x")
    assert_one_line(result, "5 of 5 samples hold NaN", statuses=(1,))
    assert_one_line(elbos("sample", "digits", "--seed", 10**20, "--out", "x"), "seed is 1000")
    assert snapshot(runs) == before
