"""Files that are either whole or not there: written beside their place, then renamed."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that nobody, ever, sees half of it.

    The file is written beside its place, flushed to the disk, and renamed. If anything fails the
    file that was there before is untouched and nothing is left over.

    Raises:
        OSError: If the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
