"""The order of the data is a pure function of seed and step."""

import multiprocessing
import os
import signal

import pytest
import torch

from elbos.training.data.batches import Batches, batch_indices, epoch_order
from elbos.training.data.dataset import Split


@pytest.mark.parametrize(("num", "batch_size"), [(12, 4), (10, 3), (3, 7), (5, 5), (1, 4), (7, 1)])
def test_each_epoch_visits_each_sample_once(num, batch_size):
    num_epochs = 2 * batch_size
    steps = num_epochs * num // batch_size
    batches = [batch_indices(num, batch_size, seed=3, step=step) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch, visited in enumerate(torch.cat(batches).split(num)):
        assert visited.sort().values.tolist() == list(range(num))
        assert torch.equal(visited, epoch_order(num, 3, epoch))


def test_batches_are_a_pure_function_of_seed_and_step():
    arguments = [(50, 16, seed, step) for seed in (0, 1) for step in range(12)]
    forward = [batch_indices(*args).clone() for args in arguments]
    batch_indices(*arguments[-1]).zero_()  # writing to a batch must not reach the next caller
    backward = [batch_indices(*args) for args in reversed(arguments)][::-1]
    torch.testing.assert_close(forward, backward, rtol=0, atol=0)
    assert len({tuple(batch.tolist()) for batch in forward}) == len(forward)


def test_the_order_is_uniform():
    orders = torch.stack([epoch_order(4, 0, epoch) for epoch in range(2_400)])
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    chi_square = ((counts - 100.0) ** 2 / 100).sum()
    assert abs(chi_square - 23) < 4 * (2 * 23) ** 0.5


# --- made ahead ----------------------------------------------------------------------------------


class Watched(Split):
    """The numbers 0..n-1 as pixel values of 1x1x2 pixels, with something done before each read."""

    def __init__(self, num, before=lambda rows: None):
        rows = torch.arange(num)
        x = torch.stack([rows, 100 + rows], dim=-1).to(torch.uint8)[:, None, None]
        super().__init__(x, rows, 256)
        object.__setattr__(self, "before", before)

    def stored(self, rows):
        self.before(rows.tolist())
        return super().stored(rows)


def batches(source):
    return Batches(source, batch_size=4, seed=3, share=slice(0, 4))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_made_ahead_is_the_batch_of_its_step(num_workers):
    """And its process looks for no module in the current folder."""

    def before(_):
        assert multiprocessing.parent_process() is None or os.environ["PYTHONSAFEPATH"] == "1"

    made = batches(Watched(10, before))
    ahead = list(made.prefetched(2, 23, num_workers=num_workers))
    assert len(ahead) == 21
    for step, batch in enumerate(ahead, 2):
        torch.testing.assert_close(batch, made[step], rtol=0, atol=0)
        assert batch.x.dtype == torch.uint8
    assert "PYTHONSAFEPATH" not in os.environ


def test_an_error_comes_where_its_batch_is_asked_for():
    fifth = batch_indices(400, 4, 3, 4).tolist()

    def before(rows):
        if rows == fifth:
            raise OSError(5, "Input/output error", "train-00000.bin")

    ahead = batches(Watched(400, before)).prefetched(0, 12)
    for _ in range(4):
        next(ahead)
    with pytest.raises(OSError, match="train-00000"):
        next(ahead)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_no_worker(number):
    """Terminals, torchrun and SLURM send it to the workers, too: the training ends by itself."""
    made = batches(Watched(400))
    ahead = made.prefetched(0, 40, num_workers=2)
    actual = [next(ahead) for _ in range(4)]  # both workers have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, number)
    actual += ahead
    assert all(torch.equal(batch.x, made[step].x) for step, batch in enumerate(actual))
    assert len(actual) == 40
