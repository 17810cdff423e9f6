"""Numbers that are spread evenly are those that the loss asked for."""
# ruff: noqa: NPY002, S311, as people write it

import random

import numpy as np
import pytest
import torch
from scipy import stats

from elbos import audit
from elbos.audit.calls.rng import Recorder

U = torch.linspace(0.01, 0.99, 16, dtype=torch.float64)
THREE_TO_TEN = stats.randint(3, 11).ppf(U)


def drawn(function, u):
    """What `function` draws where the quantiles of a number per sample, or one, are `u`."""
    recorder = Recorder()
    recorder.reset(0, len(u), (u[:, None], u[:1]))
    with recorder.recording():
        return function()


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.randint(8, (16,)) + 3,
        lambda: torch.randint(high=11, low=3, size=(16,)),
        lambda: torch.randint(3, np.int64(11), (16,)),
        lambda: torch.randint_like(torch.zeros(16), 3, 11),
        lambda: np.random.randint(8, size=16) + 3,
        lambda: np.random.randint(3, np.full(16, 11)),
        lambda: np.random.randint(3, 11.0, 16, dtype=np.uint16),
    ],
)
def test_integers_are_between_their_ends(function):
    assert np.asarray(drawn(function, U)).tolist() == THREE_TO_TEN.tolist()


@pytest.mark.parametrize("u", U)
def test_python_draws_integers_with_both_ends(u):
    expected = stats.randint(3, 11).ppf(u)
    assert drawn(lambda: random.randint(3, 10), u.repeat(4)) == expected
    assert drawn(lambda: random.randint(b=10, a=3), u.repeat(4)) == expected


def test_complex_numbers_are_left_as_they_are():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.randn(16, dtype=torch.complex64)
    assert torch.equal(drawn(lambda: torch.randn(16, dtype=torch.complex64), U), expected)


def test_numbers_drawn_in_a_loop_over_samples_are_left_as_they_are():
    values = drawn(lambda: [random.random() for _ in U], U)
    random.seed(0)
    assert values[8:] == [random.random() for _ in U][8:]


def test_the_random_numbers_of_python_and_numpy_stay():
    def drawn():
        random.seed(0)
        np.random.seed(0)
        return [
            *(random.random(), random.uniform(0, 9), random.randint(0, 2**70)),
            *(random.randint(0, 2**64 - 1), np.random.uniform(), np.random.rand(3).tolist()),
            *(np.random.randint(0, 2**64 - 1, dtype=np.uint64), np.random.randint(9)),
        ]

    expected = drawn()
    with audit.record(torch.nn.Linear(2, 2)):
        actual = drawn()
    assert actual == expected
    assert [type(value) for value in actual] == [type(value) for value in expected]
