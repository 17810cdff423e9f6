"""Files that are regular, reached through no link, and either whole or not there.

Directories of runs are passed on: what is in one may be a link to a file of the reader's own, or a
pipe that nobody writes to. So files are read and written by the functions here and no others, which
refuse whatever is no regular file. `require_plain` refuses a whole directory with such a thing in
it, folders that are links included. The directory itself may be a link, and so may what is above.
"""

import errno
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock

_HOST = re.sub(r"\W", "-", platform.node()) or "host"
_LONG_SECONDS = 3600.0
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # 0: on Windows
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe
_BINARY = getattr(os, "O_BINARY", 0)


def read(path: Path, *, through_links: bool = False) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        through_links: Whether it may be a link, as a file that the user names.

    Raises:
        OSError: If it cannot be read, or is no regular file; it names `path`.
    """
    with named_errors(path), opened(path, through_links=through_links) as file:
        return file.read()


@contextmanager
def opened(path: Path, *, through_links: bool = False) -> Iterator[IO[bytes]]:
    """A regular file, to be read as `read` does."""
    with named_errors(path):
        _require_regular(path.stat() if through_links else path.lstat())
        descriptor = _open(path, os.O_RDONLY | (0 if through_links else _NO_LINK))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that nobody, ever, sees half of it.

    The file is written beside its place, flushed to the disk, and renamed. If anything fails the
    file that was there before is untouched and nothing is left over.

    Raises:
        OSError: If the disk is full, the folder cannot be written, or something is there that is
            no regular file, such as a link; it names `path`.
    """
    with named_errors(path), _beside(path) as (temporary, file):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        file.close()
        temporary.replace(path)


def require_writable(path: Path) -> None:
    """Fail at once where `write` would fail after minutes of work, a full disk excepted.

    Raises:
        OSError: As `write` does.
    """
    with named_errors(path), _beside(path):
        pass


def append(path: Path, content: bytes) -> None:
    """Write `content` to the end of a file, which is made if it is not there.

    Raises:
        OSError: If it cannot be written, is no regular file, or has a second name, somewhere else;
            it names `path`.
    """
    with named_errors(path), appending(path) as file:
        file.write(content)


@contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """A file to be written to as `append` does."""
    with named_errors(path):
        _require_own(path)
        descriptor = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK)
    with os.fdopen(descriptor, "ab") as file:
        yield file


def lock(path: Path, timeout: float = -1) -> FileLock:
    """A lock that the system releases when the process dies. Older versions of filelock empty its
    file, and follow links to it: one that is not the directory's own is refused.

    Args:
        path: Its file.
        timeout: Seconds to wait for it; -1 for ever.

    Raises:
        OSError: As `append`.
    """
    with named_errors(path):
        _require_own(path)
    return FileLock(path, timeout=timeout)


def require_plain(folder: Path) -> None:
    """Refuse a folder in which, at any depth, is something else than files and folders.

    Raises:
        OSError: If there is; it names it.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # other processes delete what they are done with
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    require_plain(Path(entry))
                else:
                    with named_errors(Path(entry)):
                        _require_regular(status)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """The file that is going to be `path`; if it is not renamed it is deleted."""
    with suppress(FileNotFoundError):
        _require_regular(path.lstat())
    temporary = partial(path)
    temporary.unlink(missing_ok=True)  # of a process of this number that was killed
    try:
        descriptor = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path, flags: int) -> int:
    """A descriptor of what a moment ago was a regular file, if it still is one."""
    descriptor = os.open(path, flags | _NO_WAIT | _BINARY, 0o666)
    try:
        _require_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(path: Path) -> None:
    """Raise an OSError if writing to `path` would change something else."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        _require_regular(status)
        if status.st_nlink > 1:
            raise OSError(errno.EINVAL, "it has other names (hard links): put a copy there")


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file")
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.EINVAL, "it is a link, which is not followed: put a file there")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file: name another path")


def expanded(path: Path) -> Path:
    """An absolute path, with `~` for a home directory.

    Raises:
        FileNotFoundError: If there is no such home directory.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise FileNotFoundError(
            errno.ENOENT, "the home directory is not known: name a path without ~", str(path)
        ) from error


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
            is_left = time.time() - path.lstat().st_mtime > _LONG_SECONDS
        if is_left:
            is_folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)


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
