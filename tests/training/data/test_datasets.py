"""Datasets: pixel values and [-1, 1], splits that never move, identifiers."""

import itertools

import numpy as np
import pytest
import torch
from tiny import rows

from elbos.training import data
from elbos.training.data.dataset import Dataset, Split, to_levels

DTYPES = {
    2: torch.uint8,
    17: torch.uint8,
    256: torch.uint8,
    300: torch.uint16,
    65_536: torch.uint16,
}


@pytest.mark.parametrize("num_levels", [*DTYPES, 70_000])
def test_levels_are_an_inverse_pair(num_levels):
    k = torch.arange(num_levels).to(DTYPES.get(num_levels, torch.int32))
    x = data.to_unit(k, num_levels)
    assert (x[0], x[-1]) == (-1.0, 1.0)
    torch.testing.assert_close(x.diff(), torch.full_like(x[1:], 2 / (num_levels - 1)))
    assert torch.equal(to_levels(x, num_levels), k)
    nudge = 0.49 * 2 / (num_levels - 1)  # anything nearer than half a level away rounds back
    assert torch.equal(to_levels(x + nudge, num_levels), k)
    assert torch.equal(to_levels(x - nudge, num_levels), k)


# --- digits --------------------------------------------------------------------------------------


def test_digits_are_split_without_overlap_and_in_proportion():
    from sklearn.datasets import load_digits

    digits = data.Digits().load()
    parts = rows(digits)
    assert [len(part) for part in parts] == [1350, 150, 297]
    reference = load_digits()
    expected = [image.astype(np.uint8).tobytes() for image in reference.images]
    assert sorted(itertools.chain(*parts)) == sorted(expected)
    assert digits.shape == (1, 8, 8)
    assert digits.train.x[:].max() == digits.num_levels - 1
    label_of = dict(zip(expected, reference.target, strict=True))
    share = np.bincount(reference.target) / len(expected)
    for split, part in zip((digits.train, digits.val, digits.test), parts, strict=True):
        assert split.labels.tolist() == [label_of[row] for row in part]
        counts = np.bincount(split.labels, minlength=10)
        assert np.abs(counts - share * len(part)).max() <= 1.5  # two roundings, val after test


# --- toy -----------------------------------------------------------------------------------------


def test_toy_has_the_moments_of_its_mixture():
    toy = data.Toy()
    dataset, mixture = toy.load(), toy.mixture
    weights, means, stds = mixture.weights, mixture.means, mixture.stds
    mean = weights @ means
    offset = means - mean
    covariance = torch.einsum("k,ki,kj->ij", weights, offset, offset)
    covariance += (weights * stds**2).sum() * torch.eye(2, dtype=torch.float64)
    assert covariance.diagonal().max() <= 1
    for split in (dataset.train, dataset.val, dataset.test):
        x = split.x[:].double()
        assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / len(x)).sqrt()).all()
        products = torch.einsum("ni,nj->nij", x - mean, x - mean)
        assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / len(x) ** 0.5).all()
        counts = split.labels.bincount(minlength=dataset.num_classes)
        share = weights * len(x)
        assert ((counts - share).abs() < 4 * (share * (1 - weights)).sqrt()).all()
        distance = (x - means[split.labels]).norm(dim=1) / stds[split.labels]
        assert abs((distance**2).mean() - 2) < 4 * 2 / len(x) ** 0.5  # chi-square, 2 dimensions


# --- identifiers ---------------------------------------------------------------------------------


def of_levels(x, labels=None):
    split = Split(x, labels, 256)
    few = Split(x[:2], None if labels is None else labels[:2], 256)
    return Dataset("some", split, few, few, None, None)


@pytest.mark.parametrize("is_of_points", [True, False])
def test_the_fingerprint_is_of_all_samples(is_of_points):
    x = torch.arange(5000 * 3).remainder(251).to(torch.uint8).reshape(5000, 3, 1, 1)
    x = x.flatten(1).float() if is_of_points else x
    before = of_levels(x).fingerprint()
    assert of_levels(x.clone()).fingerprint() == before
    for row in (0, 1, 2, 1234, 4999):
        changed = x.clone()
        changed[row, 2] += 1
        assert of_levels(changed).fingerprint() != before
    labels = torch.zeros(5000, dtype=torch.int64)
    with_labels = of_levels(x, labels).fingerprint()
    assert with_labels != before
    labels[1234] = 1
    assert of_levels(x, labels).fingerprint() != with_labels
