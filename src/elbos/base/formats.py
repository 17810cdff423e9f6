"""Reading and writing of tensors and JSON on disk, without running code."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elbos.base import files
from elbos.base.errors import flat, is_out_of_memory


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
    return tensors


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file to read tensors on demand.

    Raises:
        OSError: If the file cannot be read, or is a pipe or a device.
        CorruptFile: If it is not a safetensors file, or goes meanwhile; the error names `path`.
    """
    try:
        with safe_open(files.regular(path), framework="pt") as file:
            yield file
    except (SafetensorError, RuntimeError) as error:  # torch's, which opens the file again
        if is_out_of_memory(error):
            raise
        raise CorruptFile(f"{path} cannot be read as safetensors: {flat(error)}") from error


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
