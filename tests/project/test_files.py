"""Files that are whole or not there."""

import os

import pytest

from elbos.base import files
from elbos.training.directory import RunDirectory


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        files.write(path, content)
        assert files.read(path) == content
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert files.read(path) == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "attempt",
    [
        files.require_writable,
        lambda path: files.write(path, b"new"),
        lambda path: files.require_plain(path.parent.parent),
    ],
)
def test_nothing_is_written_through_a_link(tmp_path, attempt):
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        attempt(link)
    assert caught.value.filename == str(link)
    assert (tmp_path / "elsewhere").read_bytes() == b"old" and link.is_symlink()


def test_a_run_with_a_folder_that_is_elsewhere_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught, RunDirectory(tmp_path / "run").lock():
        pass
    assert caught.value.filename == str(tmp_path / "run" / "checkpoints")


def test_only_old_leftovers_are_deleted(tmp_path):
    young, old, folder = (files.partial(tmp_path / name) for name in ("file", "file", "folder"))
    for path in (young, old, tmp_path / "file"):
        path.touch()
    folder.mkdir()
    for path in (old, folder):
        os.utime(path, (0, 0))
    files.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([young, tmp_path / "file"])
    files.remove_leftovers(tmp_path, min_age=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
