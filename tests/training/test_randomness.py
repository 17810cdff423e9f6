"""Random numbers are functions of their key, whatever the number of processes."""

import pytest
import torch

from elbos.training.randomness import draw, generator


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_shards_draw_the_same_on_any_number_of_processes(num_processes: int) -> None:
    def drawn(shards: range):
        return draw(
            *(0, 3),
            batch_size=16,
            num_shards=4,
            shards=shards,
            shape=(2,),
            device=torch.device("cpu"),
        )

    size = 4 // num_processes
    parts = [drawn(range(i * size, (i + 1) * size)) for i in range(num_processes)]
    for name in ("times", "eps", "uniform"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(drawn(range(4)), name))


def test_different_keys_give_different_streams() -> None:
    keys = [(1,), (1, 0), (1, 0, 0), (0, 1), (1, 1), (1, 0, 0, 0), (1, 0, 0, 1), (2**32 + 1,)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)
