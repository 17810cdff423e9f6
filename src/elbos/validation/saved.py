"""Files of validations: safetensors with JSON in the metadata, read without executing code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elbos.base import files
from elbos.base.extras import needs

VERSION = 1
ROUNDING = 1e-6  # of levels beyond the ends
_TEXT, _DIGEST = "elbos.Validation", "sha256"  # entries of the metadata
STATE = "schedule."  # prefix of the names of a schedule's tensors
Tensors = Mapping[str, Tensor]


def write(path: Path, tensors: Tensors, data: Mapping[str, Any]) -> None:
    with needs("train"):
        import safetensors.torch
    text = json.dumps(data)
    metadata = {_TEXT: text, _DIGEST: _digest(tensors, text)}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, safetensors.torch.save(dict(tensors), metadata=metadata))


def read(path: Path) -> tuple[dict[str, Tensor], Any]:
    with needs("train"):
        from safetensors import SafetensorError, safe_open
    files.regular(path)  # safetensors' own errors name no file
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text, digest = metadata.get(_TEXT), metadata.get(_DIGEST)
            if text is None:
                raise ValueError("it holds no validation")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if digest != _digest(tensors, text):
        raise ValueError("its checksum does not match")
    return tensors, json.loads(text)


def require_fit(tensors: Tensors, num_levels: Any, is_lattice: Any) -> None:
    """Raise a ValueError if the shapes or types of stored tensors are inconsistent."""
    loss = tensors["loss"]
    alike = {"logsnr": loss.shape, "decoder": loss.shape[:2], "prior": loss.shape[:1]}
    if "control.loss" in tensors or "control.logsnr" in tensors:
        alike["control.logsnr"] = tensors["control.loss"].shape
    is_fit = loss.ndim == 3 and isinstance(is_lattice, bool)
    is_fit &= num_levels is None or (type(num_levels) is int and num_levels > 1)
    is_fit &= bool(loss.isfinite().all())
    is_fit &= all(tensors[name].shape == shape for name, shape in alike.items())
    is_fit &= all(tensor.dtype == torch.float64 for tensor in tensors.values())
    if not is_fit:
        raise ValueError("its parts do not fit each other")


def _digest(tensors: Tensors, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
