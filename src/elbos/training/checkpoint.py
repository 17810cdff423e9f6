"""Checkpoints: safetensors and JSON, in a folder that is whole or not there.

`checkpoints/00001500/` holds a file of tensors per group (network, ema, optimizer, schedule) and a
manifest with the step and the SHA-256 of every file. Loading reads numbers and runs no code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from elbos import files

Groups = Mapping[str, Mapping[str, Tensor]]


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not as it was written."""


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    steps = [path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name), default=None)


def save(folder: Path, step: int, groups: Groups, *, num_kept: int) -> None:
    """Write the checkpoint of `step` and delete all but the latest `num_kept`.

    Raises:
        OSError: If it cannot be written; the earlier checkpoints are then untouched.
    """
    path = folder / f"{step:08d}"
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        digests = {}
        for name, tensors in groups.items():
            contiguous = {key: value.cpu().contiguous() for key, value in tensors.items()}
            content = safetensors.torch.save(contiguous)
            files.write(partial / f"{name}.safetensors", content)
            digests[name] = hashlib.sha256(content).hexdigest()
        manifest = json.dumps({"step": step, "sha256": digests}, indent=2)
        files.write(partial / "manifest.json", manifest.encode())
        if path.exists():  # of the same step: its content is the same
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kept = sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    for old in kept[:-num_kept]:
        shutil.rmtree(old)


def load(path: Path) -> tuple[int, dict[str, dict[str, Tensor]]]:
    """Read a checkpoint: its step and its groups of tensors.

    Raises:
        DamagedCheckpoint: If a file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        step, digests = manifest["step"], manifest["sha256"]
        groups = {}
        for name, digest in digests.items():
            content = (path / f"{name}.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise DamagedCheckpoint(f"{name}.safetensors is cut short or was changed")
            groups[name] = safetensors.torch.load(content)
    except (FileNotFoundError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedCheckpoint(
            f"The checkpoint {path} is damaged ({_reason(error)}): delete that folder to go on "
            "from the one before it."
        ) from error
    return step, groups


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return str(error) if isinstance(error, DamagedCheckpoint) else "manifest.json is unreadable"
