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


def _digest(tensors: Tensors, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
