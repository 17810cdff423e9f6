"""The command line: every mistake is one line and a status; results can be read by programs."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import TINY, TOY, Elbos, Result, assert_one_line, snapshot
from filelock import FileLock
from PIL import Image
from tiny import log, tensors

from elbos import cli, files, weightings
from elbos.cli import compare as compare_verb
from elbos.cli import train as train_verb
from elbos.evaluation import samples
from elbos.recipes import RECIPES
from elbos.runs.codec import decode
from elbos.training import trainer
from elbos.training.choices import command_name
from elbos.training.config import Config
from elbos.training.data import Digits, Fashion
from elbos.training.presets import PRESETS

# --- wrong words ---------------------------------------------------------------------------------

WRONG_USAGE = {
    "nope": "no verb 'nope'",
    "train": "toy",
    "train nope": "nope",
    "train toy --nope 3": "--nope",
    "train toy --batch-size": "--batch-size",
    "train toy --batch-size x": "--batch-size",
    "train toy --batch-size 1.5": "--batch-size",
    "train toy --batch-size 0": "batch_size is 0",
    "train toy --batch-size -8": "batch_size is -8",
    "train toy --batch-size 20": "not a multiple of num_shards",
    "train toy --num-shards 0": "num_shards is 0",
    "train toy --num-images 0": "num_images is 0",
    "train toy --label-dropout 2": "label_dropout is 2.0",
    "train toy --label-dropout nan": "label_dropout is nan",
    "train toy --seed -1": "seed is -1",
    "train toy --precision fp16": "--precision",
    "train toy --optimizer.learning-rate 0": "learning_rate is 0.0",
    "train toy --optimizer.learning-rate nan": "learning_rate is nan",
    "train toy --optimizer.learning-rate inf": "optimizer.learning_rate is inf",
    "train toy --optimizer.betas 0.9 1": "betas",
    "train toy --optimizer.betas 0.9": "--optimizer.betas",
    "train toy --optimizer.weight-decay -1": "weight_decay",
    "train toy --optimizer.weight-decay nan": "optimizer.weight_decay is nan",
    "train toy --averaging.relative-width 0": "relative_width is 0.0",
    "train toy --averaging.relative-width nan": "relative_width is nan",
    "train toy --averaging.relative-width 0.29": "relative_width is 0.29",
    "train toy --output.save-every 0": "save_every is 0",
    "train toy weighting:nope": "weighting:nope",
    "train toy weighting:min-snr --weighting.gamma -1": "gamma is -1.0",
    "train toy weighting:sigmoid --weighting.k nan": "weighting.k is nan",
    "train toy weighting:exponential --weighting.rate 1000": "multiplied with inf",
    "train toy schedule:cosine --schedule.logsnr-min 5 --schedule.logsnr-max -5": "logsnr_min=5.0",
    "train toy schedule:cosine --schedule.logsnr-min nan": "logsnr_min=nan",
    "train toy schedule:cosine --schedule.shift inf": "Cosine",
    "train toy schedule:adaptive --schedule.memory 0": "memory is 0",
    "train toy schedule:adaptive --schedule.floor 0": "floor is 0.0",
    "train toy schedule:adaptive --schedule.num-bins 0": "num_bins is 0",
    "train toy parameterization:edm --parameterization.sigma-data 0": "sigma_data is 0.0",
    "train toy --sampling.num-steps 1": "num_steps is 1",
    "train toy --sampling.guidance nan": "guidance is nan",
    "train toy --sampling.guidance 2 --no-use-labels": "guidance is 2.0",
    "train toy sampling.sampler:ddim --sampling.sampler.eta 2": "eta is 2.0",
    "train toy sampling.sampler:heun --sampling.sampler.churn -1": "churn",
    "sample": "The run directory",
    "sample --num 5 digits": "The run directory comes first",
    "sample digits --num 0": "num is 0",
    "sample digits --num 100000000000000000000": "num is 100000000000000000000",
    "sample digits --num-steps 1": "num_steps is 1",
    "sample digits --seed -1": "seed is -1",
    "sample digits --out sub/..": "out is",
    "evaluate": "The run directory",
    "evaluate digits --num-images 1": "num_images is 1",
    "evaluate digits --num-images -5": "num_images is -5",
    "evaluate digits --num-rounds 1": "num_rounds is 1",
    "evaluate digits --num-pilot-images 1": "num_pilot_images is 1",
    "evaluate digits --target-se 0": "target_se is 0",
    "evaluate digits --target-se inf": "target_se is inf",
    "evaluate digits --ode.tolerance inf": "ode.tolerance is inf",
    "evaluate digits --num-samples 19": "num_samples is 19: give at least 20",
    "evaluate digits --num-samples 0 --sweep": "num_samples is 0",
    "evaluate digits --sweep-samples 19": "at least 20 samples",
    "evaluate digits --num-sets 0": "num_sets is 0",
    "evaluate digits --sweep-evaluations 3": "4 evaluations",
    "evaluate digits --ode.num-images 1": "ode.num_images is 1",
    "evaluate digits --ode.tolerance -1": "tolerance is -1",
    "evaluate digits --ode.trace nope": "--ode.trace",
    "evaluate --json digits": "The run directory comes first",
    "evaluate digits extractor:lite0 --extractor.size 8": "size is 8",
    "evaluate digits --split nope": "--split",
    "evaluate digits --seed -1": "seed is -1",
    "weightings --nope": "--nope",
}


@pytest.mark.parametrize("words", WRONG_USAGE)
def test_wrong_usage_is_one_line_and_status_2(elbos: Elbos, runs: Path, words: str) -> None:
    before = snapshot(runs)
    assert_one_line(elbos(*words.split()), WRONG_USAGE[words], statuses=(2,))
    assert snapshot(runs) == before


FAILS = {
    "train toy network:unet": "UNet takes images",
    "train digits network:mlp": "MLP takes vectors",
    "train digits --network.channels 24": "multiples of 16",
    "train digits --network.channels": "channels is empty",
    "train digits --network.patch-size 3": "patch_size 3",
    "train digits --network.dropout 1": "dropout is 1.0",
    "train toy --data.num-train 0": "num_train is 0",
    "train digits data:folder --data.root nowhere": "there is no folder",
    "train digits data:folder --data.root empty": "empty",
    "train digits data:folder --data.root corrupt": "cannot be used",
    "train digits data:folder --data.root corrupt --data.size 0": "size is 0",
    "train fashion --data.root empty": "no Fashion-MNIST",
    "train toy --run digits": "holds a run with",
    "train toy --init nowhere": "not a run directory",
    "train toy --init digits": "digits has network = UNetConfig, not MLPConfig",
    "train toy --init toy": "other channels or classes",
    "train toy --run other": "it holds notes.txt",
    "train toy --run digits/config.json": "is a file",
    "train toy --run digits/config.json/below": "Not a directory",
    "sample nowhere": "not a run directory",
    "sample other": "not a run directory",
    "sample toy --label 3": "knows no classes",
    "sample digits --label 10": "label is 10",
    "sample digits --label -1": "label is -1",
    "sample toy --guidance 2": "guidance is 2.0",
    "sample digits grid:linear --grid.logsnr-min 15": "finite ends",
    "sample digits --num 1000000000000": "memory",
    "evaluate nowhere": "not a run directory",
    "evaluate toy --guidance 2": "guidance is 2.0",
    "evaluate digits --num-images 298": "has 297 images",
    "evaluate digits --split val --num-images 151": "has 150 images",
}


@pytest.mark.parametrize("words", FAILS)
def test_a_failure_is_one_line_and_status_1(elbos: Elbos, runs: Path, words: str) -> None:
    for folder in ("empty", "corrupt", "other"):
        (runs / folder).mkdir()
    (runs / "other" / "notes.txt").touch()
    for i in range(3):
        (runs / "corrupt" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = snapshot(runs)
    result = elbos(*words.split())
    assert_one_line(result, FAILS[words], statuses=(1,))
    assert snapshot(runs) == before  # above all, no run directory is claimed


# --- damage --------------------------------------------------------------------------------------


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


CONFIGS = {
    "cut short": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "not UTF-8": lambda _: "\udcff",
    "a list": lambda _: "[]",
    "unknown class": lambda text: text.replace('"Sigmoid"', '"os.system"'),
    "class of another place": lambda text: text.replace('"Sigmoid"', '"Cosine"'),
    "class is a list": lambda text: text.replace('"Sigmoid"', "[1]"),
    "wrong type": lambda text: text.replace('"seed": 0', '"seed": "0"'),
    "unknown entry": lambda text: text.replace('"seed": 0', '"seed": 0, "sead": 0'),
    "missing entry": lambda text: text.replace(',\n  "seed": 0', ""),
    "nan": lambda text: text.replace('"k": 2.0', '"k": NaN'),
    "too large": lambda text: text.replace('"k": 2.0', f'"k": 1{400 * "0"}'),
    "out of range": lambda text: text.replace('"batch_size": 16', '"batch_size": 0'),
}


@pytest.mark.parametrize("verb", ["train", "sample", "evaluate"])
@pytest.mark.parametrize("change", CONFIGS)
def test_a_damaged_configuration_is_refused(
    elbos: Elbos, runs: Path, change: str, verb: str
) -> None:
    path = runs / "digits" / "config.json"
    text = CONFIGS[change](path.read_text())
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = snapshot(runs)
    words = [*TINY, "--run", "digits"] if verb == "train" else [verb, "digits"]
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


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda folder: cut(folder / "ema.safetensors"),
    "a bit flipped": lambda folder: flip(folder / "ema.safetensors"),
    "file missing": lambda folder: (folder / "ema.safetensors").unlink(),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut short": lambda folder: cut(folder / "manifest.json"),
    "manifest empty": lambda folder: edited(folder / "manifest.json", lambda _: {}),
    "manifest a list": lambda folder: edited(folder / "manifest.json", lambda _: []),
    "manifest null": lambda folder: edited(folder / "manifest.json", lambda _: None),
    "step a word": lambda folder: edited(folder / "manifest.json", lambda m: {**m, "step": "4"}),
    "step of another": lambda folder: edited(folder / "manifest.json", lambda m: {**m, "step": 3}),
    "digests a list": lambda folder: edited(
        folder / "manifest.json", lambda m: {**m, "sha256": []}
    ),
    "digest a number": lambda folder: edited(
        folder / "manifest.json", lambda m: {**m, "sha256": {"ema": 1}}
    ),
    "group missing": lambda folder: edited(folder / "manifest.json", lambda m: {**m, "sha256": {}}),
    "file outside": lambda folder: edited(
        folder / "manifest.json", lambda m: {**m, "sha256": {"../../../secret": "0"}}
    ),
    "no safetensors": lambda folder: ((folder / "ema.safetensors").write_bytes(b"?"), seal(folder)),
    "tensor missing": lambda folder: reseal(folder, "ema", lambda ts: ts.pop(first(ts))),
    "another tensor": lambda folder: reseal(folder, "ema", lambda ts: ts.update(a=torch.ones(1))),
    "another shape": lambda folder: reseal(
        folder, "ema", lambda ts: ts.update({first(ts): torch.ones(3)})
    ),
    "another dtype": lambda folder: reseal(
        folder, "ema", lambda ts: ts.update({first(ts): ts[first(ts)].double()})
    ),
    "a dtype of eight bits": lambda folder: reseal(
        folder, "ema", lambda ts: ts.update({first(ts): ts[first(ts)].to(torch.float8_e4m3fn)})
    ),
    "nan": lambda folder: reseal(folder, "ema", lambda ts: ts[first(ts)].fill_(math.nan)),
}
TRAINING_ONLY = {
    "moment missing": lambda folder: reseal(folder, "optimizer", lambda ts: ts.pop(first(ts))),
    "moment of another shape": lambda folder: reseal(
        folder, "optimizer", lambda ts: ts.update({first(ts): torch.ones(1)})
    ),
    "weights of another dtype": lambda folder: reseal(
        folder, "network", lambda ts: ts.update({first(ts): ts[first(ts)].bfloat16()})
    ),
    "moment of another dtype": lambda folder: reseal(
        folder, "optimizer", lambda ts: ts.update({first(ts): ts[first(ts)].bfloat16()})
    ),
    "schedule of another dtype": lambda folder: reseal(
        folder, "schedule", lambda ts: ts.update(count=ts["count"].float())
    ),
    "schedule of another shape": lambda folder: reseal(
        folder, "schedule", lambda ts: ts.update(count=torch.ones(1, dtype=torch.float64))
    ),
}


# whole files, but not those that the configuration asks for: nothing to delete
OF_ANOTHER_NETWORK = [
    "group missing",
    "tensor missing",
    "another tensor",
    "another shape",
    "another dtype",
    "weights of another dtype",
    "moment of another dtype",
    "schedule of another dtype",
    "moment missing",
    "moment of another shape",
    "schedule of another shape",
]


@pytest.mark.parametrize("change", [*CHECKPOINTS, *TRAINING_ONLY])
def test_a_damaged_checkpoint_is_refused(elbos: Elbos, runs: Path, change: str) -> None:
    (runs / "secret.safetensors").write_bytes(b"")
    ({**CHECKPOINTS, **TRAINING_ONLY}[change])(newest(runs / "digits"))
    before = snapshot(runs)
    verbs = [["sample", "digits"], ["evaluate", "digits"]] if change in CHECKPOINTS else []
    for words in ([*TINY, "--run", "digits"], *verbs):
        result = elbos(*words)
        if change in OF_ANOTHER_NETWORK:
            assert_one_line(result, "is whole, but of another network", statuses=(1,))
        else:
            assert_one_line(result, "is damaged (", "delete that folder", statuses=(1,))
        assert snapshot(runs) == before


def test_a_checkpoint_names_no_file_outside_it(elbos: Elbos, runs: Path) -> None:
    CHECKPOINTS["file outside"](newest(runs / "digits"))
    assert_one_line(elbos("sample", "digits"), "names a file '../../../secret'")


def test_without_the_damaged_checkpoint_a_run_goes_on(elbos: Elbos, runs: Path) -> None:
    expected = tensors(runs / "digits")
    shutil.rmtree(newest(runs / "digits"))
    for verb in ("sample", "evaluate"):
        assert_one_line(elbos(verb, "digits"), "no checkpoint yet", statuses=(1,))
    assert elbos(*TINY, "--run", "digits").status == 0
    assert all(torch.equal(t, expected[name]) for name, t in tensors(runs / "digits").items())


# --- the machine ---------------------------------------------------------------------------------


def test_two_trainings_in_one_directory_are_one_too_many(elbos: Elbos, runs: Path) -> None:
    with FileLock(runs / "digits" / ".lock"):
        result = elbos(*TINY, "--run", "digits")
    assert_one_line(result, "Another process is training in digits", statuses=(1,))


@pytest.mark.parametrize("name", ["00000004", "config.json", "metrics.jsonl", "00000004.png"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_whole(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fsync = os.fsync

    def full(number: int) -> None:
        if name in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    words = [*TINY, "--run", "new", "--output.save-every", "16"]
    monkeypatch.setattr(files.os, "fsync", full)
    if name == "metrics.jsonl":  # is not flushed: a full device is the real thing
        (runs / "new").mkdir()
        (runs / "new" / "metrics.jsonl").symlink_to("/dev/full")
        monkeypatch.setattr(files, "_require_regular", lambda _: None)
        monkeypatch.setattr(files, "_NO_LINK", 0)
        monkeypatch.setattr(trainer.RunDirectory, "rewind_log", lambda *_: None)
        claim = lambda self, *_: (self.path / "config.json").touch()  # noqa: E731
        monkeypatch.setattr(trainer.RunDirectory, "claim", claim)
    result = elbos(*words)
    has_begun = name != "config.json"
    needed = "No space left on device: make room"
    assert_one_line(result, needed, name, statuses=(1,), has_begun=has_begun)
    assert not list(runs.rglob("*.partial"))
    if name.startswith("00000004"):
        assert tensors(runs / "new")["step"] == 3
        monkeypatch.undo()
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["elbos", *words])
        cli.main()
        expected = tensors(runs / "digits")
        assert all(torch.equal(t, expected[k]) for k, t in tensors(runs / "new").items())
        assert log(runs / "new") == log(runs / "digits")


def as_somebody_else(*words: str, cwd: Path) -> Result:
    """Run a command in a process without root's rights."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.getuid():
        drop = []
    elif not shutil.which("setpriv"):
        pytest.skip("cannot drop root's rights")
    done = subprocess.run(
        [*drop, sys.executable, "-m", "elbos.cli", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_what_cannot_be_written_is_one_line_at_once(trained: Path) -> None:
    folder = trained  # not below a folder of root's that nobody else may enter
    for path in (folder, *folder.parents[:3], *folder.rglob("*")):
        if path.is_relative_to(trained.parents[2]):
            path.chmod(0o755 if path.is_dir() else 0o644)
    evaluated = as_somebody_else("evaluate", "toy", "--json", cwd=folder)
    if "elbos: " not in evaluated.err:
        pytest.skip("the interpreter cannot be run without root's rights")
    assert_one_line(evaluated, "eval.json", "Permission denied: change its perm", statuses=(1,))
    result = as_somebody_else(*TOY, "--no-use-labels", "--run", "toy", cwd=folder)
    assert_one_line(result, "Permission denied: change its perm", statuses=(1,))


@pytest.mark.usefixtures("runs")
def test_without_tensorboard_it_says_so(elbos: Elbos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = [*TINY, "--run", "new"]
    assert_one_line(elbos(*words, "--output.tensorboard"), "pip install 'elbos[tensorboard]'")
    assert elbos(*words).status == 0


def test_out_of_memory_says_what_to_lower(elbos: Elbos, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(train_verb, "train", train)
    assert_one_line(elbos("train", "toy"), "lower --batch-size", statuses=(1,))


def test_a_bug_shows_its_traceback(elbos: Elbos, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(train_verb, "train", train)
    with pytest.raises(RuntimeError, match="ours"):
        elbos("train", "toy")


@pytest.mark.usefixtures("runs")
def test_divergence_is_one_line(elbos: Elbos) -> None:
    words = [*TOY, "--run", "new", "--optimizer.learning-rate", "1e30"]
    for _ in range(2):
        result = elbos(*words, "--output.save-every", "64")
        assert_one_line(result, "step 1 is not finite", "log-SNR", statuses=(1,), has_begun=True)


def test_a_closed_pipe_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "elbos.cli", "weightings", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_a_full_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "elbos.cli", "weightings"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert_one_line(Result(process.returncode, "", process.stderr), "standard output: ")


@pytest.mark.parametrize("where", ["/dev/full", "a closed pipe"])
def test_a_training_outlives_its_standard_error(runs: Path, where: str) -> None:
    with Path("/dev/full").open("wb") as full:
        is_pipe = where == "a closed pipe"
        process = subprocess.Popen(
            [sys.executable, "-m", "elbos.cli", *TINY, "--run", "new", "--output.log-every", "16"],
            stderr=subprocess.PIPE if is_pipe else full,
        )
        if is_pipe:
            assert process.stderr is not None
            process.stderr.close()
        assert process.wait() == 0
    assert tensors(runs / "new")["step"] == 4
    expected = tensors(runs / "digits")
    assert all(
        torch.equal(t, expected[k]) for k, t in tensors(runs / "new").items() if "log" not in k
    )


@pytest.mark.parametrize("save_every", [16, 10**9])
def test_a_run_directory_deleted_while_training_is_one_line(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    batch = trainer.Trainer.batch

    def delete(self: trainer.Trainer) -> Any:
        if self.state.step == 2:
            shutil.rmtree(runs / "new")
        return batch(self)

    monkeypatch.setattr(trainer.Trainer, "batch", delete)
    result = elbos(*TINY, "--run", "new", "--output.save-every", save_every)
    assert_one_line(result, "new was deleted", statuses=(1,), has_begun=True)
    assert not (runs / "new").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(runs: Path) -> None:
    words = [*TINY, "--num-images", "16000", "--run", "new", "--output.log-every", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "elbos.cli", *words], stderr=subprocess.PIPE, text=True
    )
    while not (runs / "new" / "metrics.jsonl").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    beginning, *progress, last = err.splitlines(keepends=True)
    assert beginning.endswith(" parameters, new: new, 16,000 images\n")
    assert all(re.search(r" images/s, \d+:\d\d:\d\d left, ", line) for line in progress)
    assert_one_line(Result(process.returncode, "", last), "the same command goes on", statuses=(1,))
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
    _, err = process.communicate(timeout=60)
    assert err.count("elbos: Stopped at step") == 1
    assert tensors(runs / "new")["step"] == log(runs / "new")[-1]["step"]


@pytest.mark.usefixtures("runs")
def test_a_training_begins_with_a_line_that_says_from_where(elbos: Elbos) -> None:
    words = [*TINY, "--run", "new", "--output.save-every", "16"]
    num = sum(t.numel() for name, t in tensors(Path("digits")).items() if name[:7] == "network")
    for begun in ("new, 64 images", "finished, 64 images", "resuming at image 48 of 64"):
        if begun[:8] == "resuming":
            shutil.rmtree(newest(Path("new")))
        beginning, *_ = elbos(*words).err.splitlines()
        assert beginning.endswith(f", {num:,} parameters, new: {begun}")


# --- results -------------------------------------------------------------------------------------


def test_help_and_version(elbos: Elbos) -> None:
    assert all(verb in elbos("--help").out for verb in cli.VERBS)
    assert elbos().out == elbos("-h").out == elbos("--help").out
    assert elbos("--version").out.strip()
    for verb in cli.VERBS:
        assert elbos(verb, "--help").status == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_dry_run_prints_the_preset(elbos: Elbos, preset: str) -> None:
    result = elbos("train", preset, "--dry-run")
    assert decode(Config, json.loads(result.out)) == PRESETS[preset]


@pytest.mark.parametrize(
    "words",
    [
        "weighting:monotone weighting.inner:edm",
        "weighting:shifted --weighting.shift 0.5 weighting.inner:p2",
    ],
)
def test_wrapped_weightings_have_words(elbos: Elbos, words: str) -> None:
    result = elbos("train", "toy", *words.split(), "--dry-run")
    weighting = json.loads(result.out)["weighting"]
    assert weighting["type"].lower() in words
    assert weighting["inner"]["type"].lower() in words


ROUND_TRIPS = [
    *PRESETS,
    "toy weighting:monotone weighting.inner:edm",
    "toy weighting:shifted --weighting.shift 0.5 weighting.inner:p2",
    "toy weighting:own --weighting.function my.py:w",
    "toy weighting:monotone weighting.inner:own --weighting.inner.function my.py:w",
    *(f"toy weighting:{command_name(cls)}" for cls in weightings.WEIGHTINGS),
    "toy parameterization:eps schedule:normal",
    "toy parameterization:x schedule:cosine",
    "toy parameterization:score schedule:edm-sampling",
    "toy parameterization:flow schedule:flow",
    "toy parameterization:edm schedule:ddpm",
    "toy parameterization:v schedule:laplace",
    "toy schedule:linear --schedule.logsnr-min -9 --schedule.logsnr-max 9",
    "toy sampling.sampler:heun --sampling.sampler.churn 3 sampling.grid:cosine",
    "digits data:folder --data.root . network:mlp",
]


@pytest.mark.parametrize("words", ROUND_TRIPS)
def test_what_a_dry_run_prints_is_taken_as_it_is(elbos: Elbos, folder: Path, words: str) -> None:
    (folder / "my.py").write_text("def w(logsnr): return logsnr.sigmoid()")
    first = elbos("train", *words.split(), "--dry-run")
    assert first.status == 0, first.err
    (folder / "f.json").write_text(first.out)
    assert elbos("train", "--config", "f.json", "--dry-run") == first
    words = "--num-images 640 --config=f.json weighting:p2 --weighting.gamma 2 --dry-run"
    changed = json.loads(elbos("train", *words.split()).out)
    assert changed["weighting"] == {"type": "P2", "gamma": 2.0}
    same = ("network", "schedule", "parameterization", "sampling", "data")
    assert all(changed[name] == json.loads(first.out)[name] for name in same)


def test_a_run_is_named_after_what_a_file_says(elbos: Elbos, runs: Path) -> None:
    """And a file of a run's own is that run, which goes on."""
    shutil.copy("digits/config.json", "f.json")
    result = elbos("train", "--config", "f.json", "--num-images", "32")
    assert result.status == 0, result.err
    (run,) = (runs / "runs").iterdir()
    assert run.name.startswith("digits-network.channels-16-32-")
    config = json.loads((run / "config.json").read_text())
    assert config == {**json.loads(Path("f.json").read_text()), "num_images": 32}
    before = snapshot(runs / "digits")
    assert elbos("train", "--config", "f.json", "--run", "digits").status == 0
    assert snapshot(runs / "digits") == before


@pytest.mark.parametrize("change", CONFIGS)
def test_a_file_that_is_no_configuration_is_refused(elbos: Elbos, runs: Path, change: str) -> None:
    text = CONFIGS[change]((runs / "digits" / "config.json").read_text())
    (runs / "f.json").write_bytes(text.encode(errors="surrogateescape"))
    before = snapshot(runs)
    result = elbos("train", "--config", "f.json")
    assert_one_line(result, "f.json is not a configuration", statuses=(1,))
    assert snapshot(runs) == before


@pytest.mark.usefixtures("runs")
def test_a_file_that_is_not_there_is_one_line(elbos: Elbos) -> None:
    for name in ("nowhere.json", "digits"):
        assert_one_line(elbos("train", "--config", name), f"{name}: ", statuses=(1,))
    assert_one_line(elbos("train", "--config"), "--config", statuses=(2,))


TOUR = {
    "digits": "digits",
    "digits weighting:elbo": "digits-elbo",
    "fashion parameterization:eps schedule:normal": "fashion-eps-normal",
    "fashion weighting:monotone weighting.inner:edm": "fashion-monotone-edm",
    "fashion": "fashion",
    "fashion_small": "fashion-small",  # either way
    "--run toy digits": "toy",  # what an option takes is no preset
    "fashion --output.log-every 3": "fashion",
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
    assert paths == [name if "--run" in w else f"runs/{name}" for w, name in TOUR.items()]
    assert [config.data for config, _ in trained][-3:] == [Fashion(), Digits(), Fashion()]


def test_a_comparison_is_of_the_preset_that_was_chosen(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(experiment: Any, path: Path, *_: Any, **__: Any) -> None:
        raise ValueError(f"{type(experiment.config.data).__name__} in {path}")

    monkeypatch.setattr(compare_verb, "run_experiment", compare)
    assert_one_line(elbos("compare", "--out", "digits", "toy"), "Toy in digits", statuses=(1,))
    assert_one_line(elbos("compare", "fashion_small"), "Fashion in runs/compare-fashion-small")


def test_weightings_are_the_recipes(elbos: Elbos) -> None:
    rows = json.loads(elbos("weightings", "--json").out)
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["is_monotone"] == (not row["rising"]) for row in rows)


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
    with np.load(paths["npz"]) as archive:
        assert list(archive) == ["x", "sampling"]
        assert json.loads(archive["sampling"].item())["sampler"]["type"] == "DPMSolver"
        assert (archive["x"].shape, archive["x"].dtype) == ((30, 2), np.float32)


@pytest.mark.parametrize("run", ["digits", "toy"])
def test_samples_that_are_not_finite_are_not_written(
    elbos: Elbos, runs: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(runs)
    shape = {"digits": (5, 1, 8, 8), "toy": (5, 2)}[run]
    monkeypatch.setattr(samples, "sample", lambda *_, **__: iter([torch.full(shape, math.nan)]))
    result = elbos("sample", run, "--num", 5, "--out", "x")
    assert_one_line(result, "5 of 5 samples hold NaN", statuses=(1,))
    assert snapshot(runs) == before


@pytest.mark.usefixtures("runs")
def test_samples_are_a_function_of_the_seed_and_longer_requests_begin_alike(elbos: Elbos) -> None:
    def drawn(*words: Any) -> np.ndarray:
        paths = json.loads(elbos("sample", "toy", "sampler:ancestral", *words, "--json").out)
        with np.load(paths["npz"]) as archive:
            return archive["x"]

    x = drawn("--num", 250)
    assert (drawn("--num", 250) == x).all()
    assert (drawn("--num", 500)[:250] == x).all()
    assert (drawn("--num", 250, "--seed", 1) != x).all()


@pytest.mark.usefixtures("runs")
def test_one_class_can_be_asked_for(elbos: Elbos) -> None:
    words = ["--num", 4, "--label", 7, "--guidance", 2, "--json"]
    paths = json.loads(elbos("sample", "digits", *words).out)
    with np.load(paths["npz"]) as archive:
        assert archive["labels"].tolist() == [7, 7, 7, 7]


@pytest.mark.usefixtures("runs")
def test_names_are_not_markup(elbos: Elbos) -> None:
    shutil.move("toy", "[red]a[")
    assert elbos("sample", "[red]a[", "--num", 2).status == 0
    assert "[red]a[" in elbos("evaluate", "[red]a[", "--num-images", 2, "--ode.num-images", 0).out
