"""Cache folder of the user, for results that are computed once."""

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

Content = TypeVar("Content")


class DamagedFolder(ValueError):
    """Error: a file in a cached folder is missing or was modified."""


def cache_dir() -> Path:
    """Return the path of the user's cache folder.

    The folder is `$XDG_CACHE_HOME/elbos`, by default `~/.cache/elbos`. The folder may be deleted at
    any time.

    Raises:
        FileNotFoundError: If the home directory is not known.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "elbos"
    try:
        return Path.home() / ".cache" / "elbos"
    except RuntimeError as error:
        raise FileNotFoundError(
            "the home directory is not known: set XDG_CACHE_HOME to a folder for the cache"
        ) from error


def kept(name: str, read: Callable[[Path], Content]) -> Content | None:
    """Load data from a folder in the user's cache.

    The result is None if the folder is missing or damaged.
    """
    path = cache_dir() / name
    if path.is_dir():
        with suppress(DamagedFolder):
            return read(path)
    return None


def build_once(
    name: str, build: Callable[[Path], None], read: Callable[[Path], Content]
) -> Content:
    """Load data from the user's cache and create the cached files first if they are missing.

    A missing or damaged folder is built. `build` fills a temporary folder, which is renamed when
    complete: an interrupted build leaves nothing that could be mistaken for a finished one. One of
    several processes builds, under a lock that the system releases when the process dies; the
    others wait.

    Args:
        name: Name of the folder, inside `cache_dir()`.
        build: Called with an empty folder to fill.
        read: Called with the full folder; raises `DamagedFolder` to request a rebuild.

    Returns:
        What `read` returned.

    Raises:
        OSError: If the cache folder cannot be written or its disk is full.
    """
    if (content := kept(name, read)) is not None:
        return content
    path = cache_dir() / name
    with _explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with _explained(path.parent):
        held = lock.acquire()
    with held:
        if path.is_dir():
            try:
                return read(path)
            except DamagedFolder as damaged:
                warnings.warn(f"{damaged}: it is made again", stacklevel=2)
                shutil.rmtree(path)
        _fill(path, build)
        return read(path)


def _fill(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    with _explained(path.parent):
        partial.mkdir()
    try:
        with _explained(path.parent, errno.ENOSPC, errno.EDQUOT):
            build(partial)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _explained(folder: Path, *errnos: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or (errnos and error.errno not in errnos):
            raise
        raise OSError(
            f"cannot write the cache {folder}: {os.strerror(error.errno)}; "
            "make room or set XDG_CACHE_HOME to a folder that can be written"
        ) from error
