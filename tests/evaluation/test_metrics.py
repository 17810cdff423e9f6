"""Metrics of samples: they order samples, and compare only what can be compared."""

import dataclasses

import pytest
import torch
from noise_images import Means, dataset, noise

from elbos.evaluation.features import Extractor, Features, extract
from elbos.evaluation.metrics import FeatureSets, scores
from elbos.evaluation.quality import require_finite_samples
from elbos.evaluation.reference import reference


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder, away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def feature_sets(x, data, ref, extractor):
    features = extract(extractor, x, num_levels=data.num_levels)
    return FeatureSets(features, ref, extractor.is_inception)


def scored(x, data, ref, extractor):
    """The values of all metrics, by name."""
    actual = scores(feature_sets(x, data, ref, extractor))
    return {name: item.value for name, item in actual.items()}


def test_scores_of_other_real_images_are_the_baseline():
    """Of more noise, of which the images are, and of darker noise: worse in every respect."""
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    baseline, good, dark = (
        scores(feature_sets(x, data, ref, extractor))
        for x in (data.test.x[:], noise(200, 7), noise(200, 7, num_levels=3))
    )
    for score in (baseline, good):
        kernel = score["kernel_distance"]
        assert abs(kernel.value) < 4 * kernel.standard_error
        assert score["frechet_distance"].value < 0.02 * dark["frechet_distance"].value
    assert dark["kernel_distance"].value > 4 * dark["kernel_distance"].standard_error


def test_only_inceptions_classes_have_an_inception_score():
    """The same number of other classes is a classifier score; without classes there is neither."""
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    original = dataclasses.replace(extractor, is_inception=True)
    actual, expected = (scored(noise(60, 7), data, ref, item) for item in (extractor, original))
    assert actual["classifier_score"] == expected["inception_score"]
    assert "inception_score" not in actual and "classifier_score" not in expected
    extractor = Extractor("means", lambda x: Features(x[:, 0].float().mean(2), None))
    assert not [n for n in scored(noise(60, 7), data, ref, extractor) if n.endswith("_score")]


def test_samples_with_holes_are_counted(randn):
    x = randn(4, 3, 4, 4)
    require_finite_samples(x)
    x[1, 2, 3, 0], x[3, 0, 0, 0] = torch.nan, -torch.inf
    with pytest.raises(ValueError, match="2 of 4"):
        require_finite_samples(x)
