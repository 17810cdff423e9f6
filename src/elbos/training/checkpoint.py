"""Training state, and its checkpoints: folders of safetensors and JSON files, written atomically.

`checkpoints/00001500/` holds a file of unsharded tensors per group (network, ema, optimizer, ...)
and a manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code.
The main process writes; every process reads the files, and stores its rows of sharded tensors, so
that a training resumes on any number of processes.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from elbos.base import files
from elbos.base.errors import flat
from elbos.base.formats import CorruptFile, pack, read_object, unpack, write_object
from elbos.base.processes import Processes
from elbos.theory.schedules import Schedule
from elbos.training.config import Config
from elbos.training.ema import EMA
from elbos.training.network import OwnNetwork
from elbos.training.optimizer import new_optimizer
from elbos.training.sharding import broadcast, local, local_rows, shard, unsharded
from elbos.validation import LossByLevel

_MAX_REASON = 200  # characters: torch lists all tensors that differ

Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass
class State:
    """Everything that a training step changes and a checkpoint stores.

    `unlogged` holds the sum and the number of the losses, and the number of clipped gradients,
    since the last line of the log; `by_level` holds the unweighted losses by noise level.
    """

    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    by_level: LossByLevel
    step: int = 0
    unlogged: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    @classmethod
    def initial(cls, network: nn.Module, config: Config, processes: Processes) -> "State":
        """Return the state before the first step, on the device, sharded as the run says."""
        is_user_defined = isinstance(config.network, OwnNetwork)
        is_bf16, shard_size = config.precision == "bf16", config.execution.shard_size
        if shard_size == 1:  # FSDP2 sends a block at a time: only shards stay
            network = network.to(processes.device)
        ema = EMA(network.train(), config.averaging.relative_width)
        for each in (network, ema.network):
            if is_user_defined and processes.num > 1:
                broadcast([*each.to(processes.device).parameters(), *each.buffers()])
            shard(each, shard_size, processes, is_bf16=is_bf16, by_blocks=not is_user_defined)
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        optimizer = new_optimizer(network, config.optimizer, dtype)
        schedule = replace(config.schedule)  # adaptive schedules change: this one starts uniform
        return cls(network, ema, optimizer, schedule, LossByLevel(schedule))

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors, unsharded; every process has to make this call."""
        moments = {
            f"{name}.{moment}": tensor
            for name, parameter in self.network.named_parameters()
            for moment, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        groups = {
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": moments,
            "schedule": self.schedule.state_dict(),
            "log": {"unlogged": self.unlogged, **self.by_level.state_dict()},
        }
        return {
            group: {name: unsharded(tensor) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }

    def save(self, folder: Path, num_kept: int, processes: Processes) -> None:
        """Write a checkpoint from the main process; every process has to make this call."""
        groups = self.groups()

        def write() -> None:
            if processes.is_main:
                save(folder, self.step, groups, num_kept=num_kept)

        processes.together(write)

    def restore(self, path: Path) -> None:
        """Restore the state from a checkpoint.

        Raises:
            CorruptFile: If a file is missing, truncated or modified.
            ValueError: If the checkpoint belongs to another network or schedule.
        """
        self.step, groups = read(path)
        with belonging(path):
            _load(self.network, groups["network"])
            _load(self.ema.network, groups["ema"])
            self.schedule.load_state_dict(dict(groups["schedule"]))
            self.unlogged.copy_(groups["log"]["unlogged"])
            self.by_level.load_state_dict(dict(groups["log"]))
            parameters = dict(self.network.named_parameters())
            for key, stored in groups["optimizer"].items():
                name, _, moment = key.rpartition(".")
                restored = stored.to(parameters[name].device)
                if stored.ndim > 0:  # all but AdamW's number of steps
                    # in the memory format of the weights, as the optimizer itself makes it
                    restored = torch.empty_like(parameters[name])
                    _fill(restored, stored)
                self.optimizer.state[parameters[name]][moment] = restored


@torch.no_grad()
def _fill(target: Tensor, value: Tensor) -> None:
    local(target).copy_(local_rows(target, value))


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load unsharded weights into a possibly sharded network."""
    targets = network.state_dict()
    ours, theirs = ({name: t.shape for name, t in each.items()} for each in (targets, weights))
    if names := sorted(n for n in ours | theirs if ours.get(n) != theirs.get(n)):
        raise ValueError(f"missing, unexpected or of another shape: {', '.join(names[:5])}")
    for name, target in targets.items():
        _fill(target, weights[name])


def kept(folder: Path) -> dict[int, Path]:
    """Return the paths of all checkpoints in a folder by ascending training step."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:  # listed at once: a running training renames checkpoints
        paths = [Path(entry) for entry in entries if entry.is_dir() and entry.name.isdecimal()]
    return dict(sorted((int(path.name), path) for path in paths))


def latest(folder: Path) -> Path | None:
    return next(reversed(kept(folder).values()), None)


def of_step(folder: Path, step: int | None) -> Path:
    """Return the path of the checkpoint of a training step, by default of the latest."""
    checkpoints, run = kept(folder), folder.parent
    if not checkpoints:
        raise FileNotFoundError(f"{run} has no checkpoint yet: train it with `elbos train`.")
    if step is not None and step not in checkpoints:
        raise FileNotFoundError(
            f"{run} has no checkpoint of step {step}: give one of "
            f"{', '.join(map(str, checkpoints))}."
        )
    return checkpoints[max(checkpoints) if step is None else step]


def save(folder: Path, step: int, groups: Groups, *, num_kept: int) -> None:
    """Write the checkpoint of a training step, and delete all but the latest `num_kept`.

    If the checkpoint cannot be written (OSError), earlier checkpoints are untouched.
    """
    path = folder / f"{step:08d}"
    partial, digests = files.partial(path), dict[str, str]()
    try:
        with files.named_errors(folder):
            folder.mkdir(exist_ok=True)  # fails if the run directory was deleted
            partial.mkdir()
            for name, tensors in groups.items():
                content = pack(tensors)
                files.write(partial / f"{name}.safetensors", content)
                digests[name] = hashlib.sha256(content).hexdigest()
            write_object(partial / "manifest.json", {"step": step, "sha256": digests})
            if path.exists():  # a checkpoint of the same step
                _remove(path)
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list(kept(folder).values())[:-num_kept]:
        _remove(old)


def _remove(path: Path) -> None:
    # renamed first: an incomplete folder never bears the name of a checkpoint
    partial = files.partial(path.with_name(f"{path.name}.old"))
    path.rename(partial)
    shutil.rmtree(partial)


def read(path: Path, only: str | None = None) -> tuple[int, Groups]:
    """Read a checkpoint, or `only` one group of it, verified by SHA-256: its step and its tensors.

    Raises:
        CorruptFile: If a file is missing, truncated or modified.
    """
    try:
        manifest = read_object(path / "manifest.json")
        step, digests = manifest["step"], dict(manifest["sha256"])
        if type(step) is not int or step != int(path.name):
            raise CorruptFile(f"manifest.json belongs to step {step!r}")
        if strange := [name for name in digests if not name.isidentifier()]:
            # nothing outside this folder is read
            raise CorruptFile(f"manifest.json names a file {strange[0]!r}")
        groups = {}
        for name in digests if only is None else [only]:
            file = path / f"{name}.safetensors"
            content = files.read(file)
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise CorruptFile(f"{file.name} is truncated or was changed")
            groups[name] = unpack(content, file)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(
            f"The checkpoint {path} is corrupt ({flat(error)}): unless another process is writing "
            "it, delete that folder to resume from the previous checkpoint, or else from the start."
        ) from error
    return step, groups


@contextmanager
def belonging(where: Path) -> Iterator[None]:
    """Convert errors on loading tensors into a ValueError: they belong to another network."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{where} is complete, but belongs to another network or schedule "
            f"({flat(error)[:_MAX_REASON]}): give the network and the data that it was "
            "trained with, and the version of elbos."
        ) from error


def averaged(folder: Path, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """Return step and averaged weights of the checkpoint of a step, by default of the latest.

    If a running training replaces the checkpoint meanwhile, the newer one is read.
    """
    while True:
        path = of_step(folder, step)
        try:
            stored_step, groups = read(path, "ema")
            return stored_step, dict(groups["ema"])
        except CorruptFile:
            if of_step(folder, step) == path:
                raise
