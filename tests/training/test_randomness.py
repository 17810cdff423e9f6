"""Random numbers are functions of their key, wherever they are drawn."""

from types import SimpleNamespace

import pytest
import torch

from elbos.training.randomness import seed_of, seed_torch, times


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_times_are_one_offset_for_all(batch_size: int) -> None:
    actual = times(0, 3, batch_size)
    assert torch.allclose(actual.sort().values.diff(), torch.tensor(1 / batch_size).double())
    assert torch.equal(actual, times(0, 3, batch_size))


def test_different_keys_give_different_streams() -> None:
    keys = [(1,), (1, 0), (1, 0, 0), (0, 1), (1, 1), (1, 0, 0, 0), (1, 0, 0, 1), (2**32 + 1,)]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_the_cpu_and_the_accelerator_are_seeded_and_no_other_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `torch.manual_seed` would seed them, which is not called: it asks all devices."""
    torch.manual_seed(seed_of(1, 2, 3))
    expected, seeds = torch.rand(3), list[int]()
    accelerator = SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setattr(torch, "manual_seed", None)
    seed_torch(1, 2, 3)
    assert torch.equal(torch.rand(3), expected)
    assert not seeds
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_device_module", lambda: accelerator)
    seed_torch(1, 2, 3)
    assert torch.equal(torch.rand(3), expected)
    assert seeds == [seed_of(1, 2, 3)]
