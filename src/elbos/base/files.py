"""Atomic writes of files, reads of regular files only, and errors that name the file.

Links are never written through. Pipes and devices are not read: opening a pipe may block for ever,
and a device may have no end.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from elbos.base.extras import needs


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


def sha256(path: Path) -> str:
    with named_errors(path), regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TEXT_FORMATS = (".json", ".toml", ".yaml", ".yml")
_MAX_DEPTH, _MAX_CONTAINERS = 100, 100_000


def read_value(path: Path) -> Any:
    """Return the value stored in a JSON file, or by its suffix in a TOML or YAML file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the content is not in this format.
    """
    text = read(path).decode("utf-8-sig")
    try:
        value = _parsed(text, path.suffix)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    containers: list[tuple[Any, int]] = [([value], 0)]
    num = 0
    while containers:  # values of YAML may hold themselves, or one another many times
        container, depth = containers.pop()
        num += 1
        if depth > _MAX_DEPTH or num > _MAX_CONTAINERS:
            raise ValueError("its values are nested too deeply, or too many")
        parts = container.values() if isinstance(container, dict) else container
        containers += [(part, depth + 1) for part in parts if isinstance(part, dict | list | tuple)]
    return value


def _parsed(text: str, suffix: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix not in (".yaml", ".yml"):
        return json.loads(text)
    with needs("cli"):
        import yaml
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def write(path: Path, content: bytes) -> None:
    """Write `content` to a file atomically.

    Readers see either the old file or the complete new file. The content goes to a temporary file
    in the same folder, which is flushed to disk and renamed. On failure the previous file is
    untouched and the temporary file is deleted.

    Raises:
        OSError: If the disk is full, the folder cannot be written, or `path` is not a regular file
            but, for example, a link or a device; the error names `path`.
    """
    with writing(path) as file, named_errors(path):
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` at the end of the `with` block.

    The replacement is atomic; after an error `path` is as before.
    """
    with _beside(path) as (temporary, file):
        yield file
        with named_errors(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(path)


def require_writable(path: Path) -> None:
    """Raise an OSError, as `write` does, if a file cannot be written to `path`."""
    with _beside(path):
        pass


def require_plain(folder: Path, *, may_link: bool = False) -> None:
    """Raise an OSError unless a folder contains only folders and regular files, at all depths.

    Args:
        folder: The folder.
        may_link: Whether links to files and folders are admitted. Only for folders that are not
            written to: writing through a link would change a file elsewhere.

    Raises:
        OSError: If the folder holds a link, pipe, socket or device; the error names its path.
    """
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names)):
            with named_errors(path), suppress(FileNotFoundError):  # deleted meanwhile
                if not may_link:
                    _require_no_link(path)
                if not path.is_dir():
                    regular(path)


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
        raise OSError(errno.EINVAL, "it is a link, which is not followed: put a file there")


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    temporary = partial(path)
    with named_errors(path):
        _require_no_link(path)
        if path.exists():
            regular(path)
        file = temporary.open("xb")
    try:
        yield temporary, file
    finally:
        try:
            with named_errors(path):
                file.close()  # flushes the buffer
        finally:
            temporary.unlink(missing_ok=True)


def partial(path: Path) -> Path:
    """Return a new temporary path beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def remove_leftovers(folder: Path, name: str = "*", *, min_age: float = 3600.0) -> None:
    """Delete temporary files and folders that killed processes left in a folder.

    Another process may be writing a file that is younger than `min_age` seconds: 0 is for the
    holder of a lock. It holds the lock `.lock` of a folder that it is filling.
    """
    for path in folder.glob(f".{name}.*.partial"):
        with suppress(FileNotFoundError, Timeout):  # renamed meanwhile, or held
            if path.is_dir():
                with lock(path / ".lock", timeout=0):
                    shutil.rmtree(path)
            elif time.time() - path.stat().st_mtime >= min_age:
                path.unlink()


def lock(path: Path, *, timeout: float = -1) -> AbstractContextManager[Any]:
    """Acquire an exclusive lock, which the system releases when the process dies.

    Raises:
        OSError: If the file system has no locks; the error names `path`.
        filelock.Timeout: If another process holds the lock for `timeout` seconds. Default: wait.
    """
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
        raise type(error)(error.errno, error.strerror, str(path)) from error
