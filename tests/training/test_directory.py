"""The run directory: its lock, its JSON and its log, after processes that were killed."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import DIGITS

from elbos.base import files
from elbos.base.formats import write_object
from elbos.training.directory import RunDirectory
from elbos.training.loop import train


def test_one_process_trains_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.lock(), pytest.raises(ValueError, match=str(run.path)), run.lock():
        pass
    with run.lock():
        assert run.path.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file"), RunDirectory(tmp_path / "file").lock():
        pass


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for path in (
        files.partial(tmp_path / "config.json"),
        files.partial(tmp_path / "samples" / "00000010.png"),
        files.partial(tmp_path / "checkpoints" / "00000010") / "ema.safetensors",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "config.json").touch()
    with RunDirectory(tmp_path).lock():
        assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.parametrize(
    "tail",
    [b'{"step": 10, "lo', b"\0\0\0\n", b"[]\n", b'{"loss": 1}\n', b'{"step": 30}\n']
    + [b'{"step": %s}\n' % step for step in (b"1e999", b"NaN", b"9" * 400, b"[]")],
)
def test_the_log_is_rewound_past_damaged_lines(tmp_path: Path, tail: bytes) -> None:
    train(replace(DIGITS, num_images=16), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert before
    (tmp_path / "metrics.jsonl").write_bytes(before + tail)
    train(replace(DIGITS, num_images=16), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_json_is_written_and_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read("data.json") is None
    write_object(tmp_path / "data.json", {"a": [1, 2.5, None]})
    assert run.read("data.json") == {"a": [1, 2.5, None]}
    for content in (b"", b"{", b"[]", b"\xff"):
        (tmp_path / "data.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.json"):
            run.read("data.json")
