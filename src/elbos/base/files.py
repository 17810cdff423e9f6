"""Atomic writes of files, reads of regular files only, and errors that name the file.

Links are never written through. Pipes and devices are not read: opening a pipe may block for ever,
and a device may have no end.
"""

import errno
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any


def regular(path: Path) -> Path:
    """Return a path after checking that it is a regular file or a link to one.

    Raises:
        OSError: If `path` does not exist or is not a regular file; the error names `path`.
    """
    with named_errors(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file: name another path")
    return path


def read(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: If the file cannot be read, or is not a regular file; the error names `path`.
    """
    with named_errors(path):
        return regular(path).read_bytes()


def read_value(path: Path) -> Any:
    """Return the value stored in a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is not JSON.
    """
    return json.loads(read(path).decode("utf-8-sig"))


def write(path: Path, content: bytes) -> None:
    """Write `content` to a file atomically.

    Readers see either the old file or the complete new file. The content goes to a temporary file
    in the same folder, which is flushed to disk and renamed. On failure the previous file is
    untouched and the temporary file is deleted.

    Raises:
        OSError: If the disk is full, the folder cannot be written, or `path` is not a regular file
            but, for example, a link or a device; the error names `path`.
    """
    temporary = _beside(path)
    try:
        with named_errors(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise an OSError, as `write` does, if a file cannot be written to `path`."""
    _beside(path).unlink()


def _beside(path: Path) -> Path:
    """Create an empty temporary file beside a path that may be written."""
    with named_errors(path):
        _require_no_link(path)
        if path.exists():
            regular(path)
        temporary = partial(path)
        temporary.touch()
    return temporary


def require_plain(folder: Path) -> None:
    """Raise an OSError if a folder holds a link, through which files elsewhere might be changed."""
    for path in folder.rglob("*"):
        _require_no_link(path)


def require_folder_of(path: Path, marker: str, option: str) -> None:
    """Raise an error unless a folder is missing or empty, or belongs to what `marker` identifies.

    A folder with visible files has to hold the file `marker`. The message names the command-line
    option for another folder.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: name a directory with {option}.")
    names = [entry.name for entry in path.glob("*") if not entry.name.startswith(".")]
    if names and not (path / marker).exists():
        raise ValueError(
            f"{path} holds {names[0]} and no {marker}: name a new directory with {option}."
        )
    require_plain(path)


def _require_no_link(path: Path) -> None:
    if path.is_symlink():
        error = "it is a link, which is not followed: put a file there"
        raise OSError(errno.EINVAL, error, str(path))


def partial(path: Path) -> Path:
    """Return a new temporary path beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def remove_leftovers(folder: Path, *, min_age: float = 3600.0) -> None:
    """Delete temporary files and folders that killed processes left in a folder.

    Another process may be writing what is younger than `min_age` seconds: 0 is for the holder of a
    lock.
    """
    for path in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # renamed meanwhile
            if time.time() - path.stat().st_mtime >= min_age:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def lock(path: Path, *, timeout: float = -1) -> AbstractContextManager[Any]:
    """Acquire an exclusive lock, which the system releases when the process dies.

    Raises:
        OSError: If the file system has no locks; the error names `path`.
        TimeoutError: If another process holds the lock for `timeout` seconds. Default: wait.
    """
    from filelock import FileLock  # the core has no files to lock

    with named_errors(path):
        return FileLock(path, timeout=timeout).acquire()


def expanded(path: Path | str) -> Path:
    """Return an absolute path with `~` expanded."""
    return Path(path).expanduser().absolute()


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add a file's path to every OSError of the system that the `with` block raises."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a message of its own
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None
