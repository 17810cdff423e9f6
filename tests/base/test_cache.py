"""The cache: where it is, and what is done when it cannot be written."""

import errno
from pathlib import Path

import pytest

from elbos.base import cache
from elbos.training import data


def test_without_a_home_the_cache_is_asked_for(monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(FileNotFoundError, match="XDG_CACHE_HOME"):
        cache.cache_dir()
    for config in (data.Folder, data.Fashion):
        with pytest.raises(FileNotFoundError, match="home directory"):
            config(root=Path("~/pictures"))


def test_a_full_or_forbidden_cache_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fill_the_disk(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(OSError, match=r"\A[^\n]*XDG_CACHE_HOME[^\n]*\Z"):
        cache.build_once("x", fill_the_disk, read=Path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"\A[^\n]*XDG_CACHE_HOME[^\n]*\Z"):
        cache.build_once("x", fill_the_disk, read=Path)
