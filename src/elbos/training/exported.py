"""Averaged weights of training runs and exported models, for sampling or as initial weights.

EXPORT/
    elbos.json         the run and the step, and its range of log-SNRs; for weights in
                       model.safetensors, their SHA-256
    config.json        the configuration of the run, without paths
    data.json          the properties of its data
    model.safetensors  the averaged weights

A network of diffusers is exported in the format of diffusers, with elbos.json beside it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from elbos.base import files
from elbos.base.codec import difference, encode, without_format
from elbos.base.formats import CorruptFile, pack, unpack
from elbos.models.networks.diffusers import DiffusersConfig
from elbos.training import checkpoint
from elbos.training.config import Config
from elbos.training.directory import MANIFEST, RunDirectory

WEIGHTS = "model.safetensors"
FORMAT = 1  # version of the manifest
ON_HUB = ("*.json", WEIGHTS)
"""The files of an export that are read from the Hugging Face Hub."""
Weights = dict[str, Tensor]


def ends(directory: RunDirectory) -> tuple[float, float] | None:
    """Return the log-SNR range of an exported model's training; None if elbos.json is missing."""
    if (manifest := _manifest(directory)) is None:
        return None
    match manifest.get("logsnr"):
        case [float() as low, float() as high] if low < high:
            return low, high
    raise ValueError(f"{directory.path / MANIFEST} is corrupt: export the run again.")


def _manifest(directory: RunDirectory) -> dict[str, Any] | None:
    manifest = directory.read(MANIFEST)
    try:
        without_format(manifest or {}, FORMAT)
    except ValueError as error:
        raise ValueError(f"{directory.path / MANIFEST} cannot be read ({error}).") from error
    return manifest


def write(folder: Path, weights: Mapping[str, Tensor]) -> str:
    """Write weights to model.safetensors in a folder, and return the SHA-256 of the file."""
    content = pack(weights)
    files.write(folder / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def averaged(directory: RunDirectory, step: int | None = None) -> tuple[int, Weights]:
    """Return step and averaged weights of a run or an exported model.

    The step is that of a checkpoint of a run, by default the latest. If a running training replaces
    it meanwhile, the newer one is read.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If files are corrupt, or `step` is given for an export.
    """
    while not directory.is_export:
        path = checkpoint.of_step(directory.checkpoints, step)
        try:
            newest, groups = checkpoint.read(path, "ema")
            return newest, dict(groups["ema"])
        except CorruptFile:
            if checkpoint.of_step(directory.checkpoints, step) == path:
                raise
    if step is not None:
        raise ValueError(f"{directory.path} is an export, of one step: give no step.")
    manifest, path = _manifest(directory) or {}, directory.path / WEIGHTS
    content, stored_step = files.read(path), manifest.get("step")
    is_same = manifest.get("sha256") == hashlib.sha256(content).hexdigest()
    if not is_same or type(stored_step) is not int:
        raise ValueError(f"{path} does not match {MANIFEST}: export the run again.")
    return stored_step, unpack(content, path)


def initial_weights(config: Config, init: Path) -> Weights:
    """Return the averaged weights of a run, after checking that its network is that of `config`."""
    directory = RunDirectory(init)
    other = directory.config()
    for name in ("network", "parameterization"):
        theirs, ours = (encode(getattr(c, name)) for c in (other, config))
        if different := difference(theirs, ours, name):
            raise ValueError(
                f"The run in {init} has {different}: choose the same, or another run for --init."
            )
    theirs, ours = ([c.schedule.logsnr_min, c.schedule.logsnr_max] for c in (other, config))
    if isinstance(config.network, DiffusersConfig) and theirs != ours:
        raise ValueError(
            f"The run in {init} has log-SNRs {theirs[0]:g} to {theirs[1]:g}, by which a network of "
            f"diffusers counts its steps, not {ours[0]:g} to {ours[1]:g}: choose the same, or "
            "another run for --init."
        )
    _, weights = averaged(directory)
    return weights
