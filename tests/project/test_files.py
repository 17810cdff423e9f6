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
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    for write in (files.write, write_in_pieces):
        with pytest.raises(OSError) as caught:
            write(path, b"new")
        assert (caught.value.errno, caught.value.filename) == (28, str(path))
        assert files.read(path) == b"old"
        assert [one.name for one in tmp_path.iterdir()] == ["file"]


def write_in_pieces(path, content):
    with files.writing(path) as file:
        for i in range(len(content)):
            file.write(content[i : i + 1])


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


def test_a_folder_with_a_pipe_at_any_depth_is_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    files.require_plain(tmp_path)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b" / "file")
    files.require_plain(tmp_path, may_link=True)
    os.mkfifo(tmp_path / "a" / "b" / "pipe")
    with pytest.raises(OSError) as caught:
        files.require_plain(tmp_path, may_link=True)
    assert caught.value.filename == str(tmp_path / "a" / "b" / "pipe")


def test_a_run_with_a_folder_that_is_elsewhere_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught, RunDirectory(tmp_path / "run").lock():
        pass
    assert caught.value.filename == str(tmp_path / "run" / "checkpoints")


@pytest.mark.parametrize(
    "attempt",
    [
        *(files.require_writable, files.read, files.read_value, files.sha256),
        lambda path: files.write(path, b""),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_what_is_no_regular_file_is_named_and_stays(tmp_path, attempt):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, error in (("pipe", OSError), ("device", OSError), ("folder", IsADirectoryError)):
        with pytest.raises(error) as caught:
            attempt(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()
    with pytest.raises(FileNotFoundError) as caught:
        attempt(tmp_path / "nowhere" / "file")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")


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
