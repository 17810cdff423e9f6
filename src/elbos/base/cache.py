"""Cache folder of the user, and folders that are built once."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from elbos.base import files
from elbos.base.errors import warn
from elbos.base.formats import CorruptFile

Content = TypeVar("Content")


def cache_dir() -> Path:
    """Return the path of the user's cache folder.

    The folder is `$XDG_CACHE_HOME/elbos`, by default `~/.cache/elbos`. The folder may be deleted at
    any time.
    """
    return files.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "elbos"


def cached(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """Load data from a folder in the user's cache, or return None if it is missing or damaged."""
    with suppress(CorruptFile):
        return read(path) if path.is_dir() else None
    return None


def build_once(
    path: Path, build: Callable[[Path], None], read: Callable[[Path], Content]
) -> Content:
    """Load data from a folder and create the folder first if it is missing.

    A folder is built if it is missing, or if `read` raises `CorruptFile`. `build` fills a temporary
    folder, which is renamed when complete: an interrupted build leaves nothing that could be
    mistaken for a finished one. One of several processes builds, under a lock that the system
    releases when the process dies; the others wait.

    Raises:
        OSError: If the folder cannot be written or its disk is full.
    """
    if (content := cached(path, read)) is not None:
        return content
    with files.named_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(path.with_name(f".{path.name}.lock")):
        if path.is_dir():
            try:
                return read(path)
            except CorruptFile as damaged:
                warn(f"{damaged}: it is made again")
                shutil.rmtree(path)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        try:
            partial.mkdir()
            build(partial)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return read(path)
