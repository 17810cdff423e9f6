"""Files of runs and comparisons: regular ones, of the directory itself, whole or not there."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, Elbos, assert_one_line, snapshot
from comparing import Here

from elbos import files
from elbos.comparison import budget
from elbos.comparison.compare import compare
from elbos.comparison.job import Job
from elbos.comparison.processes import close, start_process
from elbos.runs.codec import digest
from elbos.runs.directory import RunDirectory

SECONDS = 60  # a verb that waits for the other end of a pipe would take for ever
FEW = ["--num-images", "20", "--num-pilot-images", "10", "--ode.num-images", "0"]
QUICK = [*FEW, "--num-samples", "0"]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def stop(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def as_dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nowhere"))


def as_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def as_socket(path: Path, outside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's path is short
        one.bind(path.name)


def as_device(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = [as_link, as_dangling_link, as_pipe, as_socket, as_device]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the user's own, elsewhere."""
    path = tmp_path / "outside"
    path.write_text("mine")
    return path


# --- one file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read_and_written(
    tmp_path: Path, outside: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    kind(path, outside)
    before = path.lstat()
    with at_most(SECONDS):
        for attempt in (
            lambda: files.read(path),
            lambda: files.write(path, b"theirs"),
            lambda: files.require_writable(path),
            lambda: files.append(path, b"theirs"),
            lambda: files.lock(path),
            lambda: files.require_plain(tmp_path),
        ):
            with pytest.raises(OSError, match=r"it is (a link|no regular file)") as caught:
                attempt()
            assert caught.value.filename == str(path)
    assert path.lstat() == before
    assert outside.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "outside"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_after_the_look_is_noticed(
    tmp_path: Path, outside: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor is looked at again, and no link is followed."""
    monkeypatch.chdir(tmp_path)
    path, status = tmp_path / "file", outside.stat()
    kind(path, outside)
    monkeypatch.setattr(Path, "lstat", lambda _: status)
    for attempt in (lambda: files.read(path), lambda: files.append(path, b"theirs")):
        with at_most(SECONDS), pytest.raises(OSError, match="file"):
            attempt()
    assert outside.read_text() == "mine"


def test_a_file_with_another_name_is_replaced_but_not_appended_to(
    tmp_path: Path, outside: Path
) -> None:
    path = tmp_path / "file"
    path.hardlink_to(outside)
    for attempt in (lambda: files.append(path, b"theirs"), lambda: files.lock(path)):
        with pytest.raises(OSError, match="hard links"):
            attempt()
    assert files.read(path) == b"mine"
    files.write(path, b"theirs")
    assert outside.read_text() == "mine"
    files.append(path, b", too")
    assert files.read(path) == b"theirs, too"


def test_a_user_names_files_through_links(tmp_path: Path, outside: Path) -> None:
    link, folder, pipe = tmp_path / "link", tmp_path / "folder", tmp_path / "pipe"
    link.symlink_to(outside)
    folder.symlink_to(tmp_path)
    os.mkfifo(pipe)
    assert files.read(link, through_links=True) == b"mine"
    assert files.read(folder / "outside") == b"mine"
    files.write(folder / "new", b"new")
    assert files.read(tmp_path / "new") == b"new"
    with at_most(SECONDS), pytest.raises(OSError, match="no regular file"):
        files.read(pipe, through_links=True)


def test_what_is_half_written_is_never_that_of_another(tmp_path: Path, outside: Path) -> None:
    """A link in the place of the file that is going to be renamed is deleted, not written to."""
    path = tmp_path / "file"
    files.partial(path).symlink_to(outside)
    files.write(path, b"theirs")
    assert (outside.read_text(), path.read_text()) == ("mine", "theirs")
    files.partial(path).symlink_to(tmp_path)
    files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "outside"]


# --- a run ---------------------------------------------------------------------------------------


def every_name(run: Path) -> list[Path]:
    return sorted(path for path in [*run.rglob("*"), run / ".lock"] if path.name != "digits")


@pytest.mark.parametrize("kind", [as_link, as_pipe])
def test_a_run_with_something_else_than_files_is_refused(
    elbos: Elbos, runs: Path, kind: Any
) -> None:
    """At every name in it, folders included; nothing outside of it changes."""
    run, elsewhere = runs / "digits", runs / "elsewhere"
    assert elbos("evaluate", "digits", *QUICK).status == 0
    shutil.copytree(run, elsewhere)
    names = [*every_name(run), run / "evaluation" / "new.safetensors", run / "eval.html.png"]
    before = snapshot(elsewhere)
    for path in names:
        target = elsewhere / path.relative_to(run)
        if path.exists():
            path.rename(runs / "kept")
        kind(path, target if target.exists() else elsewhere / "config.json")
        verbs = [[*TINY, "--run", "digits"], ["sample", "digits"], ["evaluate", "digits", *QUICK]]
        for words in verbs[:1] if path.name == ".lock" else verbs:
            with at_most(SECONDS):
                result = elbos(*words)
            assert_one_line(result, path.name, statuses=(1, 2))
        path.unlink()
        if (runs / "kept").exists():
            (runs / "kept").rename(path)
    assert snapshot(elsewhere) == before
    assert elbos("evaluate", "digits", *QUICK).status == 0


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


def test_samples_are_not_written_through_a_link(elbos: Elbos, runs: Path) -> None:
    (runs / "mine").write_text("mine")
    for ending in ("png", "npz"):
        (runs / f"out.{ending}").symlink_to("mine")
        result = elbos("sample", "digits", "--num", "2", "--out", "out")
        assert_one_line(result, f"out.{ending}", statuses=(1,))
        (runs / f"out.{ending}").unlink()
    assert (runs / "mine").read_text() == "mine"


def test_a_damaged_line_of_the_log_is_no_number(runs: Path) -> None:
    run = RunDirectory(runs / "digits")
    before = (run.path / "metrics.jsonl").read_bytes()
    for step in ("1e999", "NaN", "9" * 400, "[]"):
        (run.path / "metrics.jsonl").write_bytes(before + f'{{"step": {step}}}\n'.encode())
        run.rewind_log(10**9)
        assert (run.path / "metrics.jsonl").read_bytes() == before


# --- data ----------------------------------------------------------------------------------------


def earlier(run: Path) -> None:
    """Let a run be one of an earlier version."""
    dataset = RunDirectory(run).config().data.load()
    (run / "data.json").write_text(json.dumps(dataset.sampled_fingerprint()))


def test_runs_of_earlier_versions_are_checked_as_those_did(elbos: Elbos, runs: Path) -> None:
    run = runs / "digits"
    now = json.loads((run / "data.json").read_text())
    earlier(run)
    assert "version" not in json.loads((run / "data.json").read_text())
    assert elbos("sample", "digits").status == 0
    assert elbos(*TINY, "--run", "digits").status == 0
    assert json.loads((run / "data.json").read_text()) == now
    earlier(run)
    other = json.loads((run / "data.json").read_text()) | {"sha256": "0" * 64}
    (run / "data.json").write_text(json.dumps(other))
    for words in ([*TINY, "--run", "digits"], ["sample", "digits"]):
        assert_one_line(elbos(*words), "data.json", statuses=(1,))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_data_file_is_named(elbos: Elbos, runs: Path, content: bytes) -> None:
    (runs / "digits" / "data.json").write_bytes(content)
    assert_one_line(elbos("sample", "digits"), "data.json is damaged", statuses=(1,))


# --- comparisons ---------------------------------------------------------------------------------


@pytest.fixture
def one(small: Any) -> Any:
    """A comparison of one objective."""
    return replace(small, rows=small.rows[:1])


def test_a_comparison_of_an_earlier_version_goes_on(one: Any, folder: Path) -> None:
    compare(one, Path("c"), Here())
    path = Path("c/compare.json")
    now = path.read_text()
    data = one.config.data.load()
    content = json.loads(now)
    content["data"] = digest(data.sampled_fingerprint())
    path.write_text(json.dumps(content))
    engine = Here()
    compare(one, Path("c"), engine)
    assert engine.made == []
    assert path.read_text() == now


@pytest.mark.parametrize("kind", [as_link, as_pipe])
def test_a_comparison_with_something_else_than_files_is_refused(
    one: Any, folder: Path, outside: Path, kind: Any
) -> None:
    compare(one, Path("c"), Here())
    for path in [*sorted(Path("c").rglob("*")), Path("c/new")]:
        if path.exists():
            path.rename("kept")
        kind(path, Path("kept").absolute() if Path("kept").exists() else outside)
        with at_most(SECONDS), pytest.raises((OSError, ValueError), match=path.name):
            compare(one, Path("c"), Here())
        path.unlink()
        if Path("kept").exists():
            Path("kept").rename(path)
    assert outside.read_text() == "mine"
    engine = Here()
    compare(one, Path("c"), engine)
    assert engine.made == []


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "-1", "2", "", "x", "[]"])
def test_a_malformed_progress_is_none(one: Any, folder: Path, text: str) -> None:
    job = Job.of(one, folder / "run", one.rows[0], 0)
    job.path.mkdir()
    (job.path / ".progress").write_text(text)
    assert job.progress() == 0
    (job.path / ".progress").write_text("0.25")
    assert job.progress() == 0.25


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_a_malformed_failure_is_none(one: Any, folder: Path, content: bytes) -> None:
    job = Job.of(one, folder / "run", one.rows[0], 0)
    job.path.mkdir()
    (job.path / ".failure.json").write_bytes(content)
    assert job.failure() is None


def test_no_module_of_the_current_folder_is_imported(
    one: Any, folder: Path, monkeypatch: Any
) -> None:
    """Whoever runs elbos in a folder that others write to runs none of their code."""
    hostile = f"import pathlib; pathlib.Path({str(folder / 'was-run')!r}).touch()"
    for name in ("secrets", "random", "json", "numpy", "torch", "elbos", "sitecustomize"):
        (folder / f"{name}.py").write_text(hostile)
    monkeypatch.setenv("PYTHONPATH", str(Path(files.__file__).parents[1]))
    process = start_process(Job.of(one, folder / "run", one.rows[0], 0), {})
    process.wait()
    close(process)
    assert (folder / "run" / "scores.json").exists()
    assert not (folder / "was-run").exists()


def test_a_budget_needs_no_temporary_folder(one: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(budget, "_BUDGET_SECONDS", 0.1)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(folder / "nowhere"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder / "nowhere"))
    before = snapshot(folder)
    found = budget.settled(one.config, minutes=0.01, num_threads=1)
    assert found.num_images > 0
    assert snapshot(folder) == before


def test_a_directory_whose_name_is_no_text_gets_its_report(one: Any, folder: Path) -> None:
    path = Path(os.fsdecode(b"runs/\xff\n"))
    report = compare(one, path, Here(), command=f"elbos compare toy --out {path}")
    assert json.loads((path / "report.json").read_text()) == report
    for name in ("report.md", "report.html"):
        assert r"runs/\udcff" in (path / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_directory_whose_name_is_no_text_on_the_command_line(folder: Path) -> None:
    words = ["compare", "toy", "--rows", "iddpm", "--seeds", "0", "--num-images", "512"]
    command = [sys.executable, "-P", "-m", "elbos.cli", *words, "--scoring.num-images", "20"]
    result = subprocess.run(
        [*command, "--out", b"runs/\xff"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"report.html" in result.stdout
    for name in ("json", "md", "html"):
        (folder / os.fsdecode(b"runs/\xff") / f"report.{name}").read_text(encoding="utf-8")
