"""Reading and writing of tensors and JSON on disk, without running code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from elbos.base import files


class CorruptFile(ValueError):
    """Error: a file is damaged or has an unexpected format."""


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialize named tensors to bytes in the safetensors format.

    Raises:
        RuntimeError, ValueError, TypeError: If tensors share memory, or values are not numeric
            tensors.
    """
    content: bytes = safetensors.torch.save(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    )
    return content


def unpack(content: bytes, path: Path) -> dict[str, Tensor]:
    """Decode named tensors from the bytes of a safetensors file.

    Raises:
        CorruptFile: If the content is not in that format; the error names `path`.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, NotImplementedError) as error:  # last two: dtypes
        raise CorruptFile(f"{path} is corrupt: it holds no tensors") from error
    return dict(sorted(tensors.items()))  # safetensors' order differs from process to process


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    files.write(path, (json.dumps(content, indent=2) + "\n").encode())


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object stored in a file.

    Raises:
        OSError: If the file cannot be read.
        CorruptFile: If the file holds no JSON object; the error names `path`.
    """
    try:
        if isinstance(content := files.read_value(path), dict):
            return content
    except ValueError:
        pass
    raise CorruptFile(f"{path} is corrupt: it holds no JSON object")
