"""Metrics of sample quality: closed forms, published definitions, and other implementations."""

import contextlib
import math

import numpy as np
import pytest
import scipy
import torch
from torch_fidelity import metric_fid, metric_isc, metric_kid

from elbos.evaluation.estimators import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    mean_kernel,
)


@pytest.fixture
def covariances(randn):
    """Two random ones of 30 dimensions, with eigenvalues from 1e-4 to 1e4."""
    scales = torch.logspace(-4, 4, 30, dtype=torch.float64)
    rotations = torch.linalg.qr(randn(2, 30, 30)).Q
    return (rotations * scales) @ rotations.mT


def gaussian(mean, covariance):
    return Statistics(mean, covariance, num=1000)


# --- Fréchet distance ----------------------------------------------------------------------------


def test_statistics_are_those_of_numpy_however_far_from_zero(randn):
    features = (1e4 + randn(2500, 7) @ randn(7, 7)).float()
    statistics = Statistics.from_features(features)
    x = features.double().numpy()
    np.testing.assert_allclose(statistics.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.T), rtol=1e-9)
    assert statistics.num == 2500


def test_frechet_distance_is_scipys(randn, covariances):
    a, b = (gaussian(mean, s) for mean, s in zip(randn(2, 30), covariances, strict=True))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = (a.mean - b.mean).square().sum() + torch.trace(
        a.covariance + b.covariance - 2 * torch.from_numpy(root)
    )
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_is_a_distance(randn, covariances):
    """Squared: zero of itself, and its root obeys the triangle inequality."""
    a, b = (gaussian(mean, s) for mean, s in zip(randn(2, 30), covariances, strict=True))
    c = gaussian(torch.zeros(30, dtype=torch.float64), torch.zeros(30, 30, dtype=torch.float64))
    assert frechet_distance(a, a) < 1e-6 * a.covariance.trace()
    ab, bc, ac = (math.sqrt(frechet_distance(*pair)) for pair in ((a, b), (b, c), (a, c)))
    assert ab < bc + ac
    assert frechet_distance(a, c) == pytest.approx(
        (a.mean.square().sum() + a.covariance.trace()).item(), rel=1e-12
    )


# --- kernel distance -----------------------------------------------------------------------------


def by_loops(x, y):
    """The U-statistic, pair by pair."""

    def k(u, v):
        return (u @ v / x.shape[1] + 1) ** 3

    xx = np.mean([k(u, v) for i, u in enumerate(x) for j, v in enumerate(x) if i != j])
    yy = np.mean([k(u, v) for i, u in enumerate(y) for j, v in enumerate(y) if i != j])
    return xx + yy - 2 * np.mean([k(u, v) for u in x for v in y])


def test_kernel_distance_is_a_u_statistic_with_a_jackknife_error(randn):
    """Against loops over all pairs, and over all samples that are left out."""
    x, y = randn(7, 3), 1 + randn(5, 3)
    distance, error = kernel_distance(x, y)
    assert distance == pytest.approx(by_loops(x, y), rel=1e-10)
    left_out = [by_loops(x[torch.arange(7) != i], y) for i in range(7)]
    assert error == pytest.approx(math.sqrt(6 * np.var(left_out)), rel=1e-10)
    assert kernel_distance(x, y, reference_kernel=mean_kernel(y)) == (distance, error)
    assert kernel_distance(x.flip(0), y.flip(0)) == pytest.approx((distance, error), rel=1e-12)


def test_kernel_distance_is_unbiased_whatever_the_numbers(generator):
    """N(0, 1) and N(m, 1) in one dimension: moments of the cubic kernel in closed form.

    z < 4 over 400 pairs of sets.
    """
    m = 0.7
    moments_x, moments_y = np.array([1, 0, 1, 0]), np.array([1, m, 1 + m**2, m**3 + 3 * m])
    expected = np.array([1, 3, 3, 1]) @ (moments_x - moments_y) ** 2
    for num, num_reference in ((5, 40), (40, 5)):
        actual = []
        for _ in range(400):
            x = m + torch.randn(num, 1, generator=generator, dtype=torch.float64)
            y = torch.randn(num_reference, 1, generator=generator, dtype=torch.float64)
            actual.append(kernel_distance(x, y)[0])
        assert abs(np.mean(actual) - expected) < 4 * np.std(actual) / math.sqrt(400)


@pytest.mark.parametrize(
    ("shift", "low", "high"), [(0.5, 0.92, 1.08), (0.0, 0.95, 1.5)], ids=["apart", "alike"]
)
def test_the_error_is_the_scatter_over_samples_for_one_reference(generator, shift, low, high):
    """Root mean square of the stated errors over the scatter of 1,000 sets (itself known to 2 %).

    Samples of the reference's own distribution have an error that is too large, by at most √2.
    """
    reference = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    named = mean_kernel(reference)
    actual = [
        kernel_distance(
            shift + torch.randn(60, 8, generator=generator, dtype=torch.float64),
            reference,
            reference_kernel=named,
        )
        for _ in range(1000)
    ]
    distances, errors = np.array(actual).T
    assert low < math.sqrt(np.mean(errors**2)) / distances.std() < high


def test_frechet_distance_is_torch_fidelitys(randn):
    """Also where there are fewer samples than dimensions, and covariances are singular."""
    for num in (300, 40):
        x, y = (randn(num, 64) @ randn(64, 64) + randn(64) for _ in range(2))
        theirs = metric_fid.fid_statistics_to_metric(
            *map(metric_fid.fid_features_to_statistics, (x, y)), verbose=False
        )
        with pytest.warns() if num < 64 else contextlib.nullcontext():
            ours = frechet_distance(Statistics.from_features(x), Statistics.from_features(y))
        assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


def test_kernel_distance_is_torch_fidelitys(randn):
    """Of one subset, which is the whole set."""
    x, y = randn(200, 64), 0.1 + randn(200, 64)
    theirs = metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=200, verbose=False
    )
    expected = theirs["kernel_inception_distance_mean"]
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-9)


# --- inception score -----------------------------------------------------------------------------


def test_inception_score_is_torch_fidelitys(randn):
    logits = 2 * randn(500, 11)
    theirs = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    assert inception_score(logits) == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
