"""References: what is cached is what would be computed."""

import dataclasses

import pytest
import torch
from noise_images import NUM_LEVELS, Means, dataset, noise

from elbos.evaluation.estimators import Statistics, mean_kernel
from elbos.evaluation.reference import reference


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder, away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "elbos" / "features"


def test_a_reference_is_of_the_bytes_of_a_split():
    ref = reference(dataset(), "val", Means().extractor)
    features = (noise(60, 1).double() * 255 / (NUM_LEVELS - 1)).round()[:, 0].mean(2)
    expected = Statistics.from_features(features)
    torch.testing.assert_close(ref.statistics.mean, expected.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(ref.statistics.covariance, expected.covariance, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        ref.rows.sort(dim=0).values, features.float().sort(dim=0).values, rtol=1e-6, atol=0
    )
    assert ref.statistics.num == 60
    assert ref.kernel == mean_kernel(ref.rows)


def test_a_reference_is_computed_once():
    first, second = Means(), Means()
    counts = []
    a, b = (
        reference(dataset(), "train", means.extractor, lambda *_: lambda n, *_: counts.append(n))
        for means in (first, second)
    )
    assert first.num > 300
    assert second.num == 8  # to see that the extractor is the same
    assert counts == [300, 300]
    assert torch.equal(a.rows, b.rows)
    assert torch.equal(a.statistics.covariance, b.statistics.covariance)


def with_levels(data, num_levels):
    return dataclasses.replace(data, train=dataclasses.replace(data.train, num_levels=num_levels))


@pytest.mark.parametrize(
    "other",
    [
        lambda data: (data, "val", Means().extractor),
        lambda data: (dataset(seed=1), "train", Means().extractor),
        lambda data: (data, "train", Means("means of another network").extractor),
        lambda data: (with_levels(data, 17), "train", Means().extractor),
    ],
    ids=["split", "data", "extractor", "levels"],
)
def test_the_key_is_of_all_that_features_depend_on(other, own_cache):
    reference(dataset(), "train", Means().extractor)
    reference(*other(dataset()))
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 2


def test_features_that_changed_under_the_same_name_are_noticed(own_cache):
    reference(dataset(), "train", Means().extractor)
    with pytest.raises(ValueError, match=rf"means.*{own_cache}"):
        reference(dataset(), "train", Means(scale=2.0).extractor)


def test_an_interrupted_extraction_goes_on_where_it_was(own_cache, monkeypatch):
    monkeypatch.setattr("elbos.evaluation.reference._PART_SIZE", 100)
    first, second = Means(), Means()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference(dataset(), "train", first.extractor, lambda *_: stop)
    resumed = reference(dataset(), "train", second.extractor)
    assert (first.num, second.num) == (100, 200 + 8)
    whole = reference(dataset(), "train", Means("means, never interrupted").extractor)
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.statistics.covariance, whole.statistics.covariance)
