"""Runs whose training data are elsewhere, or that are evaluated on others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Elbos, assert_one_line, content, snapshot
from PIL import Image

from elbos.evaluation import Evaluation

FEW = [
    *("--num-images", 20, "--num-pilot-images", 10),
    *("--num-samples", 0, "--ode.num-images", 0),
]
SIZE = ["--data.size", 8]


def draw_pictures(folder: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 20, 8, 8, 3), dtype=np.uint8)
    for split, pictures in zip(("train", "test"), pixels, strict=True):
        (folder / split).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / split / f"{i:03d}.png")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elbos: Elbos) -> Path:
    """A run on a folder of pictures that has been moved to `moved` since."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw_pictures(tmp_path / "pictures", seed=0)
    small = ["--network.channels", 32, "--network.embedding-dim", 32, "--sampling.num-steps", 2]
    length = ["--batch-size", 16, "--num-images", 32]
    data = ["data:images", "--data.path", "pictures", *SIZE]
    trained = elbos("train", "fashion", *small, *length, *data, "--run", "run")
    assert trained.status == 0, trained.err
    shutil.move("pictures", "moved")
    return tmp_path / "run"


def test_data_elsewhere(run: Path, elbos: Elbos) -> None:
    assert elbos("sample", "run", "--num", 2).status == 0
    before = snapshot(run)
    assert_one_line(elbos("evaluate", "run", *FEW), "pictures", "data:TYPE")
    assert snapshot(run) == before
    moved = ["data:images", "--data.path", "moved", *SIZE]
    first = content(elbos("evaluate", "run", *FEW, *moved, "--json"))
    assert Evaluation.load(run / "eval.json").to_dict() == first

    draw_pictures(Path("others"), seed=1)
    rest = ["data:images", "--data.path", "others"]
    before = snapshot(run)
    second = content(elbos("evaluate", "run", *FEW, *rest, "--json"))
    assert second["protocol"]["data_sha256"] != first["protocol"]["data_sha256"]
    assert Evaluation.load("runs/evaluate-run/eval.json").to_dict() == second
    assert {name: text for name, text in snapshot(run).items() if name in before} == before
    result = elbos("evaluate", "run", *FEW, *rest, "--data.size", 16)
    *_, last = result.err.splitlines(keepends=True)  # after its progress, on a slow machine
    assert_one_line(result._replace(err=last), "3x8x8", "3x16x16")
    assert_one_line(elbos("evaluate", "run", *FEW, *rest, "--out", "moved"), "moved")
    shutil.copytree("run", "copies/run")
    shutil.rmtree("runs")
    assert_one_line(elbos("evaluate", "run", "copies/run", *FEW, *rest), "one name")
