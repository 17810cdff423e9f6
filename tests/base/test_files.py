"""Locks of files."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from elbos.base.cache import build_once
from elbos.base.errors import explained
from elbos.training.directory import RunDirectory


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="run") as error, RunDirectory(tmp_path / "run").lock():
        pass
    assert str(tmp_path / "run") in explained(error.value)
    assert "another" in explained(error.value).rpartition(": ")[2]
    with pytest.raises(OSError, match="cache") as error:
        build_once(tmp_path / "cache", lambda _: None, lambda _: None)
    assert str(tmp_path) in explained(error.value)
