"""Directories of runs and comparisons: behind links, and damaged."""

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from commands import TINY, Elbos, assert_one_line, hostile_modules

from elbos.base import files
from elbos.comparison.executors import Local
from elbos.comparison.job import Job

FEW = ["--num-images", "20", "--num-pilot-images", "10", "--ode.num-images", "0"]
QUICK = [*FEW, "--num-samples", "0"]


# --- a run ---------------------------------------------------------------------------------------


def test_a_run_may_be_a_link(elbos: Elbos, runs: Path) -> None:
    """And what is above it: a disk with more room, for example."""
    (runs / "disk").mkdir()
    (runs / "digits").rename(runs / "disk" / "digits")
    (runs / "digits").symlink_to("disk/digits")
    (runs / "here").symlink_to("disk")
    for words in ([*TINY, "--run", "digits"], ["sample", "here/digits"]):
        assert elbos(*words).status == 0
    assert elbos("evaluate", "digits", *QUICK).status == 0
    assert (runs / "disk" / "digits" / "eval.json").exists()


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_data_file_is_named(elbos: Elbos, runs: Path, content: bytes) -> None:
    (runs / "digits" / "data.json").write_bytes(content)
    assert_one_line(elbos("sample", "digits"), "data.json", statuses=(1,))


# --- comparisons ---------------------------------------------------------------------------------


@pytest.fixture
def one(small: Any) -> Any:
    """A comparison of one objective."""
    return replace(small, objectives=small.objectives[:1])


def test_no_module_of_the_current_folder_is_imported(
    one: Any, folder: Path, monkeypatch: Any
) -> None:
    """Whoever runs elbos in a folder that others write to runs none of their code."""
    was_run = hostile_modules(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(files.__file__).parents[2]))
    config, scoring = one.run_config(one.objectives[0], 0), one.scoring
    path, weightings = folder / "run", one.weightings
    job = Job(path=path, config=config, scoring=scoring, weightings=weightings)
    assert Local(2).do(job, Event()) is None  # of one thread
    assert (folder / "run" / "scores.json").exists()
    assert not was_run.exists()
