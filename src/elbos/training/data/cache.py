"""Work that is done once and kept in the user's cache folder."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/elbos`, else `~/.cache/elbos`. It may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "elbos"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `name`, filled by `build` if it is not there yet.

    `build` fills a folder beside it, which is renamed when complete: an interrupted build leaves
    nothing that could be taken for a finished one. Of several processes one builds, under a lock
    that the system releases when a process dies, and the others wait.

    Args:
        name: Name of the folder, inside `cache_dir()`.
        build: Called with an empty folder to fill.

    Raises:
        OSError: If the cache folder cannot be written or its disk is full.
    """
    path = cache_dir() / name
    if path.is_dir():
        return path
    with _explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock").acquire()
    with lock:
        if not path.is_dir():
            _fill(path, build)
    return path


def _fill(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
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
    """Say what to do about an error of the system: about any, or about those given."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (errnos and error.errno not in errnos):
            raise
        raise OSError(
            f"cannot write the cache {folder}: {os.strerror(error.errno)}; "
            "make room or set XDG_CACHE_HOME to a folder that can be written"
        ) from error
