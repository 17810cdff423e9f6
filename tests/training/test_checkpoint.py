"""Checkpoints: whole, or of the step before."""

from pathlib import Path

import pytest
import torch

from elbos.base import files
from elbos.training import checkpoint


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        checkpoint.save(tmp_path, 5, {"ema": {"w": torch.tensor(value)}}, num_kept=1)
    with checkpoint.reading(tmp_path / "00000005") as (step, groups):
        assert (step, groups["ema"]["w"].item()) == (5, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


def test_the_latest_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 9, 10, 11):
        checkpoint.save(tmp_path, step, {"ema": {"w": torch.ones(1)}}, num_kept=2)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [10, int(newest.name)]


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 5, {"ema": {"w": torch.ones(1)}}, num_kept=1)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError) as caught:
        checkpoint.save(tmp_path, 6, {"ema": {"w": torch.zeros(1)}}, num_kept=1)
    assert caught.value.filename == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


@pytest.mark.parametrize("name", ["manifest.json", "ema.safetensors"])
def test_a_changed_file_is_damage_and_is_named(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, 5, {"ema": {"w": torch.ones(9)}}, num_kept=1)
    file = tmp_path / "00000005" / name
    file.write_bytes(file.read_bytes()[:-1])
    for reading in (
        checkpoint.reading(file.parent),
        checkpoint.reading_step(tmp_path, 5),
        checkpoint.reading_step(tmp_path, None),
    ):
        with pytest.raises(checkpoint.DamagedCheckpoint, match=name), reading:
            pass


@pytest.mark.parametrize("step", [None, 5])
@pytest.mark.parametrize("num_saved", [1, 3])
def test_a_checkpoint_that_a_training_replaces_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None, num_saved: int
) -> None:
    """The one of the highest step is read; that of a given step is gone."""
    steps, regular = iter(range(6, 6 + num_saved)), files.regular

    def saving(path: Path) -> Path:
        if path.suffix == ".safetensors" and (new := next(steps, None)):
            checkpoint.save(tmp_path, new, {"ema": {"w": torch.tensor(new)}}, num_kept=1)
        return regular(path)

    checkpoint.save(tmp_path, 5, {"ema": {"w": torch.tensor(5)}}, num_kept=1)
    monkeypatch.setattr(files, "regular", saving)
    reading = checkpoint.reading_step(tmp_path, step)
    if step is not None:
        with pytest.raises(FileNotFoundError, match=" 5"), reading:
            pass
        return
    with reading as (found, groups):
        assert (found, groups["ema"]["w"].item()) == (5 + num_saved, 5 + num_saved)


def test_a_missing_file_is_missed_where_it_is_needed(tmp_path: Path) -> None:
    groups = {"ema": {"w": torch.ones(3)}, "optimizer": {"v": torch.ones(3)}}
    checkpoint.save(tmp_path, 5, groups, num_kept=1)
    (tmp_path / "00000005" / "optimizer.safetensors").unlink()
    with checkpoint.reading(tmp_path / "00000005", "ema") as (step, found):
        assert (step, list(found), found["ema"]["w"].tolist()) == (5, ["ema"], [1.0, 1.0, 1.0])
    with (
        pytest.raises(checkpoint.DamagedCheckpoint, match="optimizer"),
        checkpoint.reading(tmp_path / "00000005"),
    ):
        pass


def test_tensors_of_another_network_are_no_damage(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, {"ema": {"w": torch.ones(9)}}, num_kept=1)
    layer = torch.nn.Linear(2, 2)
    with (
        pytest.raises(ValueError, match="00000005") as error,
        checkpoint.reading(tmp_path / "00000005") as (_, groups),
    ):
        layer.load_state_dict(groups["ema"])
    assert not isinstance(error.value, checkpoint.DamagedCheckpoint)


def test_a_run_is_read_at_any_step_that_was_kept(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        checkpoint.save(tmp_path, step, {"ema": {"w": torch.ones(1)}}, num_kept=3)
    assert list(checkpoint.kept(tmp_path)) == [3, 20, 100]
    assert checkpoint.of_step(tmp_path, 20).name == "00000020"
    assert checkpoint.of_step(tmp_path, None) == checkpoint.latest(tmp_path)
    with pytest.raises(FileNotFoundError, match="3, 20, 100"):
        checkpoint.of_step(tmp_path, 4)
