"""Commands as the tests run them, and trained runs to run them on."""

import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from elbos import cli
from elbos.training import loop

TINY = [
    *("train", "digits", "--network.channels", "16", "32", "--network.embedding-dim", "32"),
    *("--batch-size", "16", "--num-images", "64", "--sampling.num-steps", "2"),
]
PROBING = ["--shape", 2, 4, 4, "--num-samples", 400]
TOY = ["train", "toy", "--num-images", "1024", "--batch-size", "64", "--sampling.num-steps", "2"]


class Result(NamedTuple):
    status: int
    out: str
    err: str


Elbos = Callable[..., Result]


@pytest.fixture
def elbos(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Elbos:
    """Run a command in this process."""

    def run(*words: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["elbos", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            status: Any = 0
        except SystemExit as stop:
            status = stop.code or 0
        return Result(status, *capsys.readouterr())

    return run


AtStep = Callable[[int, Callable[[], None]], None]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> AtStep:
    """Make something happen at the start of a step of any training."""
    times = loop.times

    def at_step(step: int, action: Callable[[], None]) -> None:
        def patched(seed: int, number: int, batch_size: int) -> Any:
            if number == step:
                action()
            return times(seed, number, batch_size)

        monkeypatch.setattr(loop, "times", patched)

    return at_step


def forked(
    *words: Any, out: Path, err: Path, before: Callable[[], Any] = lambda: None
) -> BaseProcess:
    """Start a command in a process forked from this one, which has torch; what it says is in files.

    `before` is called first, there.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_command, args=(words, out, err, before))
    process.start()
    return process


def _command(words: tuple[Any, ...], out: Path, err: Path, before: Callable[[], Any]) -> None:
    sys.stdout, sys.stderr = (path.open("w", buffering=1) for path in (out, err))
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.argv = ["elbos", *map(str, words)]
    torch.set_num_threads(torch.get_num_threads())  # two threads at once fail at it after a fork
    status: Any = 0
    try:
        before()
        cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 3
    finally:
        os._exit(status)


def make_runs() -> None:
    """Train `digits`, and `toy` without labels, in the current directory."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for words in ([*TINY, "--run", "digits"], [*TOY, "--run", "toy", "--no-use-labels"]):
            monkeypatch.setattr(sys, "argv", ["elbos", *words])
            cli.main()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on digits, `digits`, and one on toy data without labels, `toy`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        make_runs()
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` to spoil, as the current directory."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def assert_one_line(
    result: Result, *needed: str, statuses: tuple[int, ...] = (1, 2), has_begun: bool = False
) -> None:
    """One line on stderr, that says what is needed, and nothing else; after the line that a
    training begins with and one on a long warm-up, if it has begun.
    """
    assert result.status in statuses, result
    if has_begun:
        beginning, *notes, end = result.err.splitlines(keepends=True)
        assert " parameters, " in beginning
        assert all("warm-up" in note for note in notes)
        result = result._replace(err=end)
    assert result.out == ""
    assert result.err.startswith("elbos: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err
    for word in needed:
        assert word in result.err, result.err


@pytest.fixture
def at_once() -> Iterator[None]:
    """Fail where a call waits for what never comes."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it never ends"))
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def hostile_modules(folder: Path) -> Path:
    """Make modules with the names of all that are imported; returns the file that they write."""
    was_run = folder / "was-run"
    packages = ["elbos", "numpy", "PIL", "safetensors", "sitecustomize", "torch", "usercustomize"]
    for name in [*sys.stdlib_module_names, *packages, "filelock", "jaxtyping", "tyro"]:
        (folder / f"{name}.py").write_text(f"open({str(was_run)!r}, 'a').write(__name__)")
    return was_run


def snapshot(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def flow(*lines: str, before: str = "") -> str:
    """A file with the start of a loss, rectified flow's, that goes on with these lines."""
    return "\n    ".join(
        [
            f"import torch\nimport torch.nn.functional as F\n{before}\ndef loss(network, x):",
            "t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)",
            "z, u = (1 - t) * x + t * eps, eps - x",
            *lines,
        ]
    )


GOOD = flow("return F.mse_loss(network(z, t), u)")
LINE = 7  # of the first line that a loss goes on with


def content(result: Result) -> Any:
    assert result.status == 0, result.err
    return json.loads(result.out)


@contextmanager
def few_files(num: int) -> Iterator[None]:
    """Let this process open `num` more files at once."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = (number for number in itertools.count() if number not in is_open)
    limit = next(itertools.islice(free, num, None))  # files have the lowest numbers that are free
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
