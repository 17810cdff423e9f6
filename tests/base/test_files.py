"""Values in files that were written to harm a reader."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from elbos.base import files
from elbos.base.cache import build_once
from elbos.base.errors import explained
from elbos.training.directory import RunDirectory

pytest.importorskip("yaml")

ALIASES = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 25)]
HOSTILE = {
    "itself.yaml": "a: &a\n  b: *a\n",
    "itself-in-a-list.yaml": "&a [1, *a]",
    "aliases-of-aliases.yaml": "\n".join(["a0: &a0 [1]", *ALIASES]),
    "dots.toml": f"{'a.' * 2000}b = 1",
    "table.toml": f"[{'a.' * 2000}b]",
    "deep.json": "[" * 500 + "]" * 500,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_values_without_end_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(HOSTILE[name])
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        files.read_value(tmp_path / name)


def test_values_that_repeat_or_are_nested_a_little_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [1, {b: 2}]\nc: [*a, *a]\n")
    part = [1, {"b": 2}]
    assert files.read_value(tmp_path / "a.yaml") == {"a": part, "c": [part, part]}


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
