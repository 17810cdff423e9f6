"""Random numbers are functions of their key, wherever they are drawn."""

import pytest
import torch

from elbos.training.randomness import generator, times


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_times_are_one_offset_for_all(batch_size: int) -> None:
    found = times(0, 3, batch_size)
    assert torch.allclose(found.sort().values.diff(), torch.tensor(1 / batch_size).double())
    assert torch.equal(found, times(0, 3, batch_size))


def test_different_keys_give_different_streams() -> None:
    keys = [(1,), (1, 0), (1, 0, 0), (0, 1), (1, 1), (1, 0, 0, 0), (1, 0, 0, 1), (2**32 + 1,)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)
