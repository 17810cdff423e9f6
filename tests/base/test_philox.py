"""Random numbers are functions of their key, wherever they are drawn."""

import pytest
import torch
from scipy import stats

from elbos.base.philox import Purpose, Stream, philox

# of the authors' Random123, tests/kat_vectors: counter, key, words
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
STEP = torch.tensor(3)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_words_are_those_of_the_published_algorithm(counter, key, words) -> None:
    assert philox([torch.tensor(word) for word in counter], key).tolist() == list(words)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (3, 5, 7)])
def test_a_sample_draws_the_same_in_every_batch(shape) -> None:
    stream, all_samples = Stream.from_seed(0, Purpose.NOISE), torch.arange(16)
    drawn = stream.normal(STEP, all_samples, shape)
    for parts in ([16], [1] * 16, [5, 11], [3, 3, 10]):
        actual = [stream.normal(STEP, part, shape) for part in all_samples.split(parts)]
        assert torch.equal(torch.cat(actual), drawn)


def test_normal_numbers_are_normal_and_independent() -> None:
    """Of 5 seeds: Kolmogorov and Smirnov's test, the tails, and correlations of neighbours."""
    for seed in range(5):
        x = Stream.from_seed(seed, Purpose.NOISE).normal(STEP, torch.arange(2000), (10, 10))
        flat = x.flatten().double()
        assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-4
        for limit in (3.0, 4.0):
            expected = 2 * stats.norm.sf(limit) * len(flat)
            assert abs((flat.abs() > limit).sum().item() - expected) < 4 * expected**0.5 + 1
        other_step = Stream.from_seed(seed, Purpose.NOISE).normal(
            STEP + 1, torch.arange(2000), (10, 10)
        )
        for lagged in (flat.roll(1), flat.roll(2), flat.roll(100), other_step.flatten().double()):
            assert abs((flat * lagged).mean().item()) < 4 / len(flat) ** 0.5


def test_uniform_numbers_are_uniform_and_never_0() -> None:
    u = Stream.from_seed(1, Purpose.LABELS).uniform(STEP, torch.arange(20_000), 5)
    assert u.min() > 0
    assert u.max() <= 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4


def test_streams_differ_by_seed_purpose_step_and_sample() -> None:
    samples = torch.arange(4)
    draws = [
        Stream.from_seed(seed, purpose).uniform(torch.tensor(step), samples, 8)
        for seed in (0, 1)
        for purpose in Purpose
        for step in (0, 1, 2**31)
    ]
    words = torch.cat(draws).flatten()
    assert len(words.unique()) > 0.999 * len(words)
