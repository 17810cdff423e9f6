"""How samples are made: what they cost, and that any number of processes makes the same ones."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Elbos, assert_one_line
from oracles import gaussian
from PIL import Image
from tiny import DIGITS

from elbos.models.samplers import SAMPLERS, Heun
from elbos.runs.run import Run
from elbos.theory import schedules
from elbos.training.data.dataset import DataSpec
from elbos.training.loop import train
from elbos.training.sampling import Sampling, sample

TRAINED = schedules.Linear(logsnr_min=-8.0, logsnr_max=7.8)
NUM_STEPS = 9
GUIDANCE = {"none": {}, "everywhere": {"guidance": 2.0}}


def levels_looked_at(sampler, logsnrs):
    """Each level but the last; Heun's method looks at inner levels twice."""
    inner = logsnrs[1:-1] if isinstance(sampler, Heun) else logsnrs[:0]
    return torch.cat([logsnrs[:-1], inner])


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE)
@pytest.mark.parametrize("sampler", [cls() for cls in SAMPLERS], ids=repr)
def test_evaluations_are_counted(sampler, guidance):
    """In samples that the network sees per sample; guidance doubles those in its interval."""
    seen = 0

    def network(z, logsnr, cond=None):
        nonlocal seen
        seen += len(z)
        return gaussian(0.5)(z, logsnr)

    sampling = Sampling(sampler=sampler, num_steps=NUM_STEPS, **guidance)
    actual = sampling.num_evaluations
    assert sampler.num_evaluations(NUM_STEPS) == len(
        levels_looked_at(sampler, sampling.logsnrs(TRAINED))
    )
    kind = {"num": 3, "shape": (1,), "seed": 0, "device": torch.device("cpu")}
    list(sample(network, sampling, TRAINED, cond=torch.zeros(3, dtype=torch.int64), **kind))
    assert seen == 3 * actual
    levels = levels_looked_at(sampler, sampling.logsnrs(TRAINED))
    assert actual == len(levels) * (1 if sampling.guidance == 1 else 2)


def test_batches_do_not_depend_on_each_other():
    sampling = Sampling(num_steps=4)
    kind = {"num": 600, "shape": (2,), "seed": 3, "device": torch.device("cpu")}

    def samples(**batches):
        return list(sample(lambda z, *_: (z, z), sampling, TRAINED, **kind, **batches))

    whole = samples()
    assert [len(x) for x in whole] == [250, 250, 100]
    for batch in (2, 0):
        (x,) = samples(batches=[batch])
        torch.testing.assert_close(x, whole[batch], rtol=0, atol=0)


def launch(*words: str, num: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*torchrun, "--nproc-per-node", str(num), "-m", "--", "elbos.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    """The main one, in writing: it says one line; the other may say that another one has failed."""
    train(replace(DIGITS, num_images=64), tmp_path / "run")
    (tmp_path / "file").touch()
    done = launch("sample", "run", "--num", "300", "--out", "file/x", num=2, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if line.startswith("elbos: ")]
    assert done.returncode != 0
    assert ["file: " in line for line in said if "Another process" not in line] == [True]
    assert "rank0]: Traceback" not in done.stderr
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("words", [("compare", "digits"), ("audit", "edm")], ids=" ".join)
def test_other_verbs_run_in_one_process(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """The main process says so; the others exit, or the launcher would kill it."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert_one_line(elbos(*words), f"elbos {words[0]}", "torchrun", statuses=(2,))
    monkeypatch.setenv("RANK", "1")
    assert elbos(*words) == (0, "", "")


@pytest.fixture
def shared(elbos: Elbos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on a folder of pictures in two classes, as the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(40):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (6 * i, 0, 0)).save(path)
    ends = ["schedule:cosine", "--schedule.logsnr-max", "13.3"]  # which resolve 256 levels
    data = ["data:images", "--data.path", "pictures", "--data.size", "8", *ends]
    assert elbos(*TINY, "--run", "run", *data).status == 0
    return tmp_path


def lose_one(folder: Path) -> None:
    (folder / "pictures" / "a" / "0.png").unlink()


def lose_all(folder: Path) -> None:
    shutil.rmtree(folder / "pictures")
    shutil.rmtree(folder / "cache")


@pytest.mark.parametrize("lose", [lose_one, lose_all])
def test_a_run_is_sampled_without_its_data(
    elbos: Elbos, shared: Path, lose: Callable[[Path], None]
) -> None:
    def drawn() -> dict[str, np.ndarray]:
        paths = json.loads(elbos("sample", "run", "--num", 6, "--json").out)
        with np.load(paths["npz"]) as archive:
            return dict(archive)

    before = drawn()
    lose(shared)
    after = drawn()
    assert before["x"].shape == (6, 3, 8, 8)
    assert before["labels"].tolist() == 3 * [0, 1]
    assert all((before[name] == after[name]).all() for name in before)
    assert Run(shared / "run").data == DataSpec("pictures", (3, 8, 8), 256, 2)
    assert_one_line(
        elbos("evaluate", "run"), "run", "pictures" if lose is lose_all else "data.json"
    )
