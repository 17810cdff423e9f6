"""The order of the data is a pure function of seed and step."""

import pytest
import torch

from elbos.training import data


@pytest.mark.parametrize(("num", "batch_size"), [(12, 4), (10, 3), (3, 7), (5, 5), (1, 4), (7, 1)])
def test_each_epoch_visits_each_sample_once(num, batch_size):
    num_epochs = 2 * batch_size
    steps = num_epochs * num // batch_size
    batches = [data.batch_indices(num, batch_size, seed=3, step=step) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch, visited in enumerate(torch.cat(batches).split(num)):
        assert visited.sort().values.tolist() == list(range(num))
        assert torch.equal(visited, data.epoch_order(num, 3, epoch))


def test_batches_are_a_pure_function_of_seed_and_step():
    arguments = [(50, 16, seed, step) for seed in (0, 1) for step in range(12)]
    forward = [data.batch_indices(*args).clone() for args in arguments]
    data.batch_indices(*arguments[-1]).zero_()  # writing to a batch must not reach the next caller
    backward = [data.batch_indices(*args) for args in reversed(arguments)][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert torch.equal(first, second)
    assert len({tuple(batch.tolist()) for batch in forward}) == len(forward)


def test_the_order_is_uniform():
    orders = torch.stack([data.epoch_order(4, 0, epoch) for epoch in range(2_400)])
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    chi_square = ((counts - 100.0) ** 2 / 100).sum()
    assert abs(chi_square - 23) < 4 * (2 * 23) ** 0.5


def test_the_order_never_changes():
    assert data.epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert data.batch_indices(8, 5, 1, 3).tolist() == [7, 6, 0, 7, 5]


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        data.batch_indices(0, 4, 0, 0)
