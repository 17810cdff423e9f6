"""The cache: where it is, and what is done when it cannot be written."""

import errno
from pathlib import Path

import pytest

from elbos.base import cache


def test_a_full_or_forbidden_cache_is_named_and_left_as_it_was(tmp_path):
    def fill_the_disk(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(OSError, match="No space left"):
        cache.build_once(tmp_path / "x", fill_the_disk, read=Path)
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        cache.build_once(tmp_path / "file" / "x", fill_the_disk, read=Path)
