"""Directories of runs and comparisons: behind links, and damaged."""

import json
import re
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from commands import TINY, Elbos, assert_one_line, endless, hostile_modules

from elbos.base import files
from elbos.comparison.executors import Local
from elbos.comparison.job import Job
from elbos.runs.run import Run
from elbos.training.directory import RunDirectory

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


def test_a_damaged_line_of_the_log_is_no_number(runs: Path) -> None:
    run = RunDirectory(runs / "digits")
    before = (run.path / "metrics.jsonl").read_bytes()
    for step in ("1e999", "NaN", "9" * 400, "[]"):
        (run.path / "metrics.jsonl").write_bytes(before + f'{{"step": {step}}}\n'.encode())
        run.rewind_log(10**9)
        assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.usefixtures("at_once")
def test_no_file_of_a_run_or_an_export_may_be_endless(elbos: Elbos, runs: Path) -> None:
    assert elbos("export", "digits", "--to", "export").status == 0
    for folder, read in (
        (runs / "digits", Run),
        (runs / "digits", lambda folder: RunDirectory(folder).lock().__enter__()),
        (runs / "export", Run),
    ):
        for path in endless(folder):
            with pytest.raises(OSError) as caught:
                read(folder)
            assert caught.value.filename == str(path)
        assert Run(folder).step == 4


# --- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_data_file_is_named(elbos: Elbos, runs: Path, content: bytes) -> None:
    (runs / "digits" / "data.json").write_bytes(content)
    assert_one_line(elbos("sample", "digits"), "data.json", statuses=(1,))


IMPOSSIBLE = [{"shape": [-1, 8, 8]}, {"shape": [10**30, 8, 8]}, {"num_levels": 0}]


@pytest.mark.parametrize(
    "entries", [*IMPOSSIBLE, *({"num_classes": n} for n in (-1, 10**9))], ids=str
)
def test_a_data_file_that_cannot_be_is_named(runs: Path, entries: dict[str, Any]) -> None:
    file = runs / "digits" / "data.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    with pytest.raises(ValueError, match=r"data\.json"):
        Run(runs / "digits")


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


def test_documented_launches_import_nothing_of_the_current_folder() -> None:
    root = Path(__file__).parents[2]
    paths = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "src").rglob("*.py")]
    launch = re.compile(r"(PYTHONSAFEPATH=1 )?torchrun [^\n`]*-m (?:-- )?elbos")
    launches = [match for path in paths for match in launch.finditer(path.read_text())]
    assert len(launches) > 10
    assert all(match[1] for match in launches)


def test_an_escape_in_the_name_of_a_run_does_not_reach_the_terminal(
    runs: Path, elbos: Elbos
) -> None:
    name = "a\x1b[31mb"
    (runs / "digits").rename(runs / name)
    words = (
        ["sample", name, "--num", "2", "--num-steps", "2"],
        ["export", name, "--to", f"{name}-out"],
    )
    for result in (elbos(*some) for some in words):
        assert result.status == 0
        assert "a\\x1b[31mb" in result.out + result.err
        assert "\x1b[31m" not in result.out + result.err
