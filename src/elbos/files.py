"""Files that are either whole or not there: written beside their place, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that nobody, ever, sees half of it.

    The file is written beside its place, flushed to the disk, and renamed. If anything fails the
    file that was there before is untouched and nothing is left over.

    Raises:
        OSError: If the disk is full, or the folder cannot be written; it names `path`.
    """
    temporary = partial(path)
    try:
        with named_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def partial(path: Path) -> Path:
    """Where this process writes what is going to be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed left half-written in `folder`."""
    for path in folder.glob(".*.partial"):
        pid = path.name.split(".")[-2]
        if not (pid.isdigit() and _is_another_process(int(pid))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of the system name `path`: those of writing, as of a full disk, name no file."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _is_another_process(pid: int) -> bool:
    """Whether a process of this number, other than this one, is there."""
    if pid == os.getpid() or os.name != "posix":  # elsewhere signal 0 would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
