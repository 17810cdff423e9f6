"""Checkpoints: complete, or of the step before."""

import errno
import resource
from pathlib import Path

import pytest
import torch

from elbos.base import files
from elbos.base.formats import CorruptFile
from elbos.training import checkpoint


def save(folder: Path, step: int, value: float = 1.0, num_kept: int = 1) -> Path:
    checkpoint.save(folder, step, {"ema": {"w": torch.full((9,), value)}}, num_kept=num_kept)
    return folder / f"{step:08d}"


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = save(tmp_path, 5, value)
    step, groups = checkpoint.read(path)
    assert (step, groups["ema"]["w"][0].item()) == (5, 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


def test_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 9, 20, 100):
        save(tmp_path, step, num_kept=3)
    assert list(checkpoint.kept(tmp_path)) == [9, 20, 100]
    assert checkpoint.of_step(tmp_path, 20).name == "00000020"
    assert checkpoint.of_step(tmp_path, None) == checkpoint.latest(tmp_path)
    with pytest.raises(FileNotFoundError, match="9, 20, 100"):
        checkpoint.of_step(tmp_path, 4)


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError) as caught:
        save(tmp_path, 6)
    assert caught.value.filename == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


def test_an_error_of_the_system_is_its_own_also_where_tensors_are_written(tmp_path: Path) -> None:
    save(tmp_path, 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        with pytest.raises(OSError) as caught:
            save(tmp_path, 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


@pytest.mark.parametrize("name", ["manifest.json", "ema.safetensors"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    file = save(tmp_path / "checkpoints", 5) / name
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(CorruptFile, match=name):
        checkpoint.read(file.parent)
    with pytest.raises(CorruptFile, match=name):
        checkpoint.averaged(tmp_path / "checkpoints")
    file.unlink()
    with pytest.raises(CorruptFile, match=name):
        checkpoint.read(file.parent)


@pytest.mark.parametrize("step", [None, 5])
@pytest.mark.parametrize("num_saved", [1, 3])
def test_a_checkpoint_that_a_training_replaces_meanwhile_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None, num_saved: int
) -> None:
    """The one of the highest step is read; that of a given step is gone."""
    steps, regular, folder = iter(range(6, 6 + num_saved)), files.regular, tmp_path / "checkpoints"

    def saving(path: Path) -> Path:
        is_read = path.suffix == ".safetensors" and path.exists()
        if is_read and (new := next(steps, None)):
            save(folder, new, new)
        return regular(path)

    save(folder, 5)
    monkeypatch.setattr(files, "regular", saving)
    if step is not None:
        with pytest.raises(FileNotFoundError, match=" 5"):
            checkpoint.averaged(tmp_path / "checkpoints", step)
        return
    newest, weights = checkpoint.averaged(tmp_path / "checkpoints")
    assert (newest, weights["w"][0].item()) == (5 + num_saved, 5 + num_saved)


def test_one_group_is_read_without_the_others(tmp_path: Path) -> None:
    groups = {"ema": {"w": torch.ones(3)}, "optimizer": {"v": torch.ones(3)}}
    checkpoint.save(tmp_path, 5, groups, num_kept=1)
    (tmp_path / "00000005" / "optimizer.safetensors").unlink()
    assert list(checkpoint.read(tmp_path / "00000005", "ema")[1]) == ["ema"]


def test_tensors_of_another_network_are_not_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    with pytest.raises(ValueError, match="00000005") as error, checkpoint.belonging(path):
        torch.nn.Linear(2, 2).load_state_dict(checkpoint.read(path)[1]["ema"])
    assert not isinstance(error.value, CorruptFile)
