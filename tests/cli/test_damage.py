"""Damaged runs, and machines that are full, stopped or busy: one line, and nothing is lost."""

import errno
import hashlib
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from commands import TINY, TOY, Elbos, Result, assert_one_line, forked, snapshot
from filelock import FileLock
from tiny import assert_same_run, log, tensors

from elbos import cli
from elbos.cli import train as train_verb
from elbos.training.data import fashion


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


CONFIGS = {
    "cut short": lambda text: text[: len(text) // 2],
    "not UTF-8": lambda _: "\udcff",
    "wrong type": lambda text: text.replace('"seed": 0', '"seed": "0"'),
    "unknown class": lambda text: text.replace('"Sigmoid"', '"os.system"'),
    "nan": lambda text: text.replace('"k": 2.0', '"k": NaN'),
}


@pytest.mark.parametrize("change", CONFIGS)
def test_a_damaged_configuration_is_refused(elbos: Elbos, runs: Path, change: str) -> None:
    """By every verb that reads one."""
    path = runs / "digits" / "config.json"
    text = CONFIGS[change](path.read_text())
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = snapshot(runs)
    verbs = [["sample", "digits"]]
    if change == "cut short":
        verbs += [[*TINY, "--run", "digits"], ["evaluate", "digits"]]
        verbs += [["train", "--config", "digits/config.json"]]
    for words in verbs:
        assert_one_line(elbos(*words), "config.json is not a configuration", statuses=(1,))
    assert snapshot(runs) == before


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def reseal(folder: Path, group: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change tensors and make the manifest agree."""
    path = folder / f"{group}.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    seal(folder)


def seal(folder: Path) -> None:
    digests = {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.saf*")}
    edited(folder / "manifest.json", lambda manifest: {**manifest, "sha256": digests})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class Code:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def replaced(folder: Path, content: bytes) -> None:
    """Other averaged weights, with which the manifest agrees."""
    (folder / "ema.safetensors").write_bytes(content)
    seal(folder)


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda folder: cut(folder / "ema.safetensors"),
    "a bit flipped": lambda folder: flip(folder / "ema.safetensors"),
    "file missing": lambda folder: (folder / "ema.safetensors").unlink(),
    "pickled code": lambda folder: replaced(folder, pickle.dumps(Code())),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "group missing": lambda folder: edited(folder / "manifest.json", lambda m: {**m, "sha256": {}}),
    "tensor missing": lambda folder: reseal(folder, "ema", lambda ts: ts.pop(first(ts))),
}


@pytest.mark.parametrize("change", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(elbos: Elbos, runs: Path, change: str) -> None:
    """Whole files of another network are nothing to delete."""
    CHECKPOINTS[change](newest(runs / "digits"))
    before = snapshot(runs)
    is_whole = change == "tensor missing"
    needed = ["another network"] if is_whole else ["is corrupt (", "delete that folder"]
    assert_one_line(elbos("sample", "digits"), *needed, statuses=(1,))
    assert snapshot(runs) == before


def test_a_checkpoint_names_no_file_outside_it(elbos: Elbos, runs: Path) -> None:
    manifest = newest(runs / "digits") / "manifest.json"
    edited(manifest, lambda content: {**content, "sha256": {"../../../secret": "0"}})
    (runs / "secret.safetensors").write_bytes(b"")
    assert_one_line(elbos("sample", "digits"), "names a file '../../../secret'")


def test_without_the_damaged_checkpoint_a_run_goes_on(elbos: Elbos, runs: Path) -> None:
    expected = tensors(runs / "digits")
    shutil.rmtree(newest(runs / "digits"))
    for verb in ("sample", "evaluate"):
        assert_one_line(elbos(verb, "digits"), "no checkpoint yet", statuses=(1,))
    assert elbos(*TINY, "--run", "digits").status == 0
    assert all(torch.equal(t, expected[name]) for name, t in tensors(runs / "digits").items())


@pytest.mark.parametrize("data", [{"type": "Images", "path": "other/data"}, {"type": "Fashion"}])
def test_data_that_a_run_names_are_not_downloaded(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, str]
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", None)  # calling it is a TypeError
    monkeypatch.setattr(fashion, "DEBIAN", runs / "none")
    monkeypatch.setattr(urllib.request, "urlopen", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "cache"))
    edited(runs / "digits" / "config.json", lambda config: {**config, "data": data})
    result = elbos("evaluate", "digits")
    assert_one_line(result, data.get("path", "MNIST"), f"data:{data['type'].lower()}")


def test_two_trainings_in_one_directory_are_one_too_many(elbos: Elbos, runs: Path) -> None:
    with FileLock(runs / "digits" / ".lock"):
        result = elbos(*TINY, "--run", "digits")
    assert_one_line(result, "Another process is training in digits", statuses=(1,))


@pytest.mark.parametrize("name", ["00000004", "config.json"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_whole(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fsync = os.fsync

    def full(number: int) -> None:
        if name in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    words = [*TINY, "--run", "new", "--output.save-every", "16"]
    monkeypatch.setattr(os, "fsync", full)
    result = elbos(*words)
    has_begun = name != "config.json"
    needed = "No space left on device: make room"
    assert_one_line(result, needed, name, statuses=(1,), has_begun=has_begun)
    assert not list(runs.rglob("*.partial"))
    if has_begun:
        assert tensors(runs / "new")["step"] == 3
        monkeypatch.undo()
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["elbos", *words])
        cli.main()
        assert_same_run(runs / "digits", runs / "new")


@pytest.mark.usefixtures("runs")
def test_a_tracker_that_is_not_installed_is_named(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["mlflow"])
    words = [*TINY, "--run", "new", "--output.trackers"]
    assert_one_line(elbos(*words, "tensorboard"), "pip install tensorboard")
    assert_one_line(elbos(*words, "mlflow", "wandb"), "pip install wandb", "--output.trackers")
    assert not Path("new").exists()
    assert_one_line(elbos(*words, "tensorbord"), "tensorbord", statuses=(2,))


def test_out_of_memory_says_what_to_lower(elbos: Elbos, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(train_verb, "train", train)
    assert_one_line(elbos("train", "toy"), "Out of memory", statuses=(1,))


@pytest.mark.usefixtures("runs")
def test_divergence_is_one_line(elbos: Elbos) -> None:
    words = [*TOY, "--run", "new", "--optimizer.learning-rate", "1e30"]
    for _ in range(2):
        result = elbos(*words, "--output.save-every", "64")
        assert_one_line(result, "step 1 is not finite", "log-SNR", statuses=(1,), has_begun=True)


def test_a_closed_pipe_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "elbos.cli", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_a_full_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "elbos.cli", "--help"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert_one_line(Result(process.returncode, "", process.stderr), "standard output: ")


@pytest.mark.parametrize(
    "closed",
    [
        "0 1 2",
        *(pytest.param(streams, marks=pytest.mark.slow) for streams in ("0", "1", "2", "1 2")),
    ],
)
def test_closed_standard_streams_are_empty_ones(runs: Path, closed: str) -> None:
    command = [sys.executable, "-m", "elbos.cli", *TINY, "--num-images", "64", "--run", "new"]
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    line = f"{shlex.join(command)} {redirections}"
    subprocess.run(["/bin/sh", "-c", line], cwd=runs, check=True)
    assert (runs / "new" / "metrics.jsonl").exists()


def test_a_removed_folder_is_one_line(tmp_path: Path) -> None:
    line = f"rmdir {tmp_path} && {sys.executable} -m elbos.cli --version"
    command = ["/bin/sh", "-c", line]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_line(Result(process.returncode, "", process.stderr), "folder", statuses=(1,))


def test_ctrl_c_saves_and_the_same_command_goes_on(runs: Path) -> None:
    words = [*TINY, "--num-images", "16000", "--run", "new", "--output.log-every", "16"]
    process = forked(*words, out=runs / "out", err=runs / "err")
    while not (runs / "new" / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    err = (runs / "err").read_text()
    last = err.splitlines(keepends=True)[-1]
    assert_one_line(Result(process.exitcode, "", last), "the same command", statuses=(1,))
    step = tensors(runs / "new")["step"].item()
    assert log(runs / "new")[-1]["step"] == step
    assert f"Stopped at step {step} of 1000" in err


@pytest.mark.slow
def test_ctrl_c_stops_all_processes(runs: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*TINY, "--num-images", "160000", "--run", "new", "--output.log-every", "16"]
    process = subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", "-m", "--", "elbos.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (runs / "new" / "metrics.jsonl").exists():
        time.sleep(0.1)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate()
    assert err.count("elbos: Stopped at step") == 1
    assert tensors(runs / "new")["step"] == log(runs / "new")[-1]["step"]
