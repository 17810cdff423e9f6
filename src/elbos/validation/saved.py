"""Validations as files: safetensors, with the rest as JSON in its metadata; reading runs no code.

The tensors are the losses, noise levels and terms of every sample, so that differences and
weighted losses follow from a file as from the result itself.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elbos import codec, files
from elbos.errors import flat
from elbos.schedules import Schedule
from elbos.validation.measurements import ControlVariate, Measurements
from elbos.validation.result import Validation

VERSION = 1
ROUNDING = 1e-6  # of levels beyond the ends
_TEXT, _DIGEST = "elbos.Validation", "sha256"  # entries of the metadata
_STATE = "schedule."  # how the names of a schedule's tensors begin
Tensors = Mapping[str, Tensor]


def save(path: Path, result: Validation) -> None:
    """Write a validation, and the folder that it is in.

    Raises:
        OSError: If it cannot be written; it names `path`.
        ValueError: If its noise schedule is none of elbos.
    """
    tensors, data = taken_apart(result)
    text = json.dumps(data)
    metadata = {_TEXT: text, _DIGEST: _digest(tensors, text)}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, safetensors.torch.save(dict(tensors), metadata=metadata))


def load(path: Path) -> Validation:
    """The validation that `save` wrote.

    Raises:
        OSError: If it cannot be read; it names `path`.
        ValueError: If it is damaged, or something else.
    """
    files.regular(path)  # safetensors names no file
    try:
        return put_together(*_read(path))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no validation that can be read: {flat(error)}.") from error


def _read(path: Path) -> tuple[dict[str, Tensor], Any]:
    with safe_open(path, framework="pt") as file:
        text, digest = (file.metadata() or {}).get(_TEXT), (file.metadata() or {}).get(_DIGEST)
        if text is None:
            raise ValueError("it holds something else")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if digest != _digest(tensors, text):
        raise ValueError("it is not as it was written")
    return tensors, json.loads(text)


def taken_apart(result: Validation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a validation, and the rest as JSON values.

    Raises:
        ValueError: If its noise schedule is none of elbos.
    """
    found, schedule = result.measurements, result.measurements.schedule
    tensors = {
        "logsnr": found.logsnr,
        "loss": found.loss,
        "prior": result.prior,
        "decoder": result.decoder,
        **{_STATE + name: state for name, state in schedule.state_dict().items()},
    }
    if result.labels is not None:
        tensors["labels"] = result.labels
    if found.control is not None:
        tensors |= {"control.logsnr": found.control.logsnr, "control.loss": found.control.loss}
    data = {
        "version": VERSION,
        "num_levels": result.num_levels,
        "is_lattice": found.is_lattice,
        "schedule": codec.encode(schedule),
    }
    _require_readable(schedule)
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, data


def _require_readable(schedule: Schedule) -> None:
    try:
        is_same = codec.decode(Schedule, codec.encode(schedule)) == schedule
    except ValueError:
        is_same = False
    if not is_same:
        raise ValueError(
            f"the noise schedule {schedule!r} is none of elbos and cannot be written: validate "
            "with another one."
        )


def put_together(tensors: Tensors, data: Mapping[str, Any]) -> Validation:
    """The validation that was taken apart.

    Raises:
        ValueError: If something is missing, or does not fit the rest.
    """
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        raise ValueError(f"it is none of version {VERSION}")
    try:
        _require_fit(tensors, data["num_levels"], data["is_lattice"])
        schedule = codec.decode(Schedule, data["schedule"], "schedule")
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    schedule.load_state_dict(
        {name[len(_STATE) :]: t for name, t in tensors.items() if name.startswith(_STATE)}
    )
    ends, levels = (schedule.logsnr_min, schedule.logsnr_max), tensors["logsnr"]
    if levels.numel() and not (
        ends[0] - ROUNDING <= levels.min() <= levels.max() <= ends[1] + ROUNDING
    ):
        raise ValueError("its noise levels are not between the ends of its schedule")
    control = None
    if "control.loss" in tensors:
        control = ControlVariate(tensors["control.logsnr"], tensors["control.loss"])
    logsnr, loss = tensors["logsnr"], tensors["loss"]
    return Validation(
        measurements=Measurements(schedule, logsnr, loss, control, data["is_lattice"]),
        prior=tensors["prior"],
        decoder=tensors["decoder"],
        num_levels=data["num_levels"],
        labels=tensors.get("labels"),
    )


def _require_fit(tensors: Tensors, num_levels: Any, is_lattice: Any) -> None:
    """Raise a ValueError unless all is of the shapes and types of one validation."""
    loss = tensors["loss"]
    alike = {"logsnr": loss.shape, "decoder": loss.shape[:2], "prior": loss.shape[:1]}
    if "control.loss" in tensors or "control.logsnr" in tensors:
        alike["control.logsnr"] = tensors["control.loss"].shape
    is_fit = loss.ndim == 3 and isinstance(is_lattice, bool)
    is_fit &= num_levels is None or (type(num_levels) is int and num_levels > 1)
    is_fit &= bool(loss.isfinite().all())
    is_fit &= all(tensors[name].shape == shape for name, shape in alike.items())
    if (labels := tensors.get("labels")) is not None:
        is_fit &= labels.shape == loss.shape[:1]
    for name, tensor in tensors.items():
        is_fit &= tensor.dtype == (torch.int64 if name == "labels" else torch.float64)
    if not is_fit:
        raise ValueError("its parts do not fit each other")


def to_dict(result: Validation) -> dict[str, Any]:
    """All of a validation as values of JSON."""
    tensors, data = taken_apart(result)
    return {**data, "tensors": {name: tensor.tolist() for name, tensor in tensors.items()}}


def from_dict(data: Mapping[str, Any]) -> Validation:
    """The validation that `to_dict` made `data` of.

    Raises:
        ValueError: If something is missing, or does not fit the rest.
        TypeError: If tensors are not of numbers.
    """
    if not (isinstance(data, Mapping) and isinstance(data.get("tensors"), Mapping)):
        raise ValueError("this is no validation: give what to_dict gave.")
    return put_together(
        {
            name: torch.tensor(values, dtype=torch.int64 if name == "labels" else torch.float64)
            for name, values in data["tensors"].items()
        },
        data,
    )


def _digest(tensors: Tensors, text: str) -> str:
    """The SHA-256 of the tensors, with their names, shapes and dtypes, and of the text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
