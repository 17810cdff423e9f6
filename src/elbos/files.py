"""Files that are either whole or not there: written beside their place, then renamed."""

import errno
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = re.sub(r"\W", "-", platform.node()) or "host"
_LONG_SECONDS = 3600.0


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that nobody, ever, sees half of it.

    The file is written beside its place, flushed to the disk, and renamed. If anything fails the
    file that was there before is untouched and nothing is left over. A link is kept: what it leads
    to is written.

    Raises:
        OSError: If the disk is full, the folder cannot be written, or something is there that is
            no file; it names `path`.
    """
    with named_errors(path), _beside(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(_place(path))


def require_writable(path: Path) -> None:
    """Fail at once where `write` would fail after minutes of work, a full disk excepted.

    Raises:
        OSError: As `write` does.
    """
    with named_errors(path), _beside(path) as temporary:
        temporary.touch()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The file that is going to be `path`; if it is not renamed it is deleted."""
    temporary = partial(_place(path))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _place(path: Path) -> Path:
    """Where links lead to: a regular file, or nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file: name another path")
    return Path(os.path.realpath(path))


def partial(path: Path) -> Path:
    """Where this process, of this machine, writes what is going to be `path`."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed left half-written in `folder`; of other machines, what
    nobody has written to for an hour.
    """
    for path in folder.glob(".*.partial"):
        host, pid = path.name.split(".")[-3:-1]
        if host == _HOST:
            is_left = not (pid.isdigit() and _is_another_process(int(pid)))
        else:
            is_left = time.time() - path.stat().st_mtime > _LONG_SECONDS
        if is_left:
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
