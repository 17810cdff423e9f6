"""Ownership of a run directory: a directory belongs to one configuration and one dataset."""

import warnings
from dataclasses import fields, replace
from typing import Any

from elbos.base import files
from elbos.base.codec import decode, difference, encode
from elbos.base.conditions import Condition
from elbos.base.processes import Processes
from elbos.training import exported
from elbos.training.config import Config, run_config
from elbos.training.data import DataSpec, Samples, null_digest
from elbos.training.directory import RunDirectory


def require_run_directory(directory: RunDirectory) -> None:
    """Raise a ValueError if a directory holds files that are not those of a run."""
    path = directory.path
    if exported.is_export(path):
        raise ValueError(f"{path} holds an exported model: name another directory with --run.")
    files.require_folder_of(path, "config.json", "--run")


def claim(directory: RunDirectory, config: Config, data: Samples) -> None:
    """Record the configuration and data of a run in the run directory.

    A run may be extended to more images, with a warning if the learning rate has decayed.

    Raises:
        ValueError: If the directory holds another configuration or other data.
    """
    path = directory.path
    if (path / "config.json").exists():
        stored = run_config(directory)
        num_images = max(stored.num_images, config.num_images)
        if different := difference(encode(replace(stored, num_images=num_images)), encode(config)):
            raise ValueError(
                f"{path} holds a run with {different}: "
                "name another directory with --run, or give the same options."
            )
        if num_images > stored.num_images and config.optimizer.use_decay:
            warnings.warn(
                f"The run in {path} is extended to {num_images:,} images. Its learning rate "
                f"decayed for {stored.num_images:,} and rises again: the result differs from a run "
                "of full length from the start (unless trained with --optimizer.no-use-decay).",
                stacklevel=5,
            )
    require_own_data(directory, data)
    directory.write("config.json", encode(config))
    directory.write("data.json", _identity(data))


def data_spec(directory: RunDirectory) -> DataSpec | None:
    stored = directory.read("data.json")
    if stored is None:
        return None
    values = {field.name: stored.get(field.name) for field in fields(DataSpec)}
    try:
        spec: DataSpec = decode(DataSpec, {"type": "DataSpec", **values}, "it")
    except ValueError as error:
        raise ValueError(
            f"{directory.path / 'data.json'} is corrupt ({error}): restore it."
        ) from error
    return spec


def require_own_data(directory: RunDirectory, data: Samples) -> None:
    stored = directory.read("data.json")
    if stored is None:
        return
    identity = _identity(data)
    if stored != identity:
        names = sorted(name for name in identity if identity[name] != stored.get(name))
        raise ValueError(
            f"The run in {directory.path} was trained on other data, which differ in "
            f"{', '.join(names)} (data.json): restore those, or train another run."
        )


def require_same_data(data: Samples, processes: Processes) -> None:
    """Raise a ValueError in all processes if they have loaded different data."""
    if processes.num > 1:
        identities = processes.lists([processes.together(data.fingerprint)])
        means = {identity.pop("means", None) for identity in identities}
        if any(identity != identities[0] for identity in identities) or len(means - {None}) > 1:
            raise ValueError(
                f"The processes have different data of the name {data.spec.name}: seed all "
                "randomness in their making, such as a random split."
            )


def is_own_data(directory: RunDirectory, data: Samples) -> bool:
    stored = directory.read("data.json") or {}
    return bool(stored.get("sha256") == data.fingerprint()["sha256"])


def require_own_null(directory: RunDirectory, null_cond: Condition) -> None:
    stored = (directory.read("data.json") or {}).get("null_cond")
    if stored is not None and stored != null_digest(null_cond):
        raise ValueError(
            f"The run in {directory.path} was trained with another null_cond: give that one."
        )


def _identity(data: Samples) -> dict[str, Any]:
    spec = data.spec
    levels_and_classes = {"num_levels": spec.num_levels, "num_classes": spec.num_classes}
    return {**data.fingerprint(), **levels_and_classes}
