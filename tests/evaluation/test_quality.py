"""References and scores: what is cached is what would be computed, and scores order samples."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from elbos.evaluation.estimators import Statistics, frechet_distance, mean_kernel
from elbos.evaluation.features import Extractor, Features
from elbos.evaluation.metrics import SAMPLE_METRICS, feature_sets, scores
from elbos.evaluation.reference import reference
from elbos.evaluation.samples import NotFiniteError, require_finite_samples
from elbos.training.data import Dataset, Digits, Split, Toy

NUM_LEVELS = 9


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache folder, away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "elbos" / "features"


def noise(num, seed, num_levels=NUM_LEVELS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_levels, (num, 1, 4, 4), generator=generator, dtype=torch.uint8)


def dataset(seed=0):
    splits = (Split(noise(num, seed + i), None) for i, num in enumerate((300, 60, 80)))
    return Dataset("noise", *splits, NUM_LEVELS, None, None)


class Means:
    """An extractor of the means of the rows of the first channel, which counts its images."""

    def __init__(self, name="means", scale=1.0):
        self.num, self.scale = 0, scale
        self.extractor = Extractor(name, self.compute)

    def compute(self, images):
        self.num += len(images)
        rows = self.scale * images[:, 0].float().mean(2)
        return Features(rows, rows[:, :3])


# --- references ----------------------------------------------------------------------------------


def test_a_reference_is_of_the_bytes_of_a_split():
    ref = reference(dataset(), "val", Means().extractor)
    features = (noise(60, 1).double() * 255 / (NUM_LEVELS - 1)).round()[:, 0].mean(2)
    expected = Statistics.from_features(features)
    torch.testing.assert_close(ref.statistics.mean, expected.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(ref.statistics.covariance, expected.covariance, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        ref.rows.sort(dim=0).values, features.float().sort(dim=0).values, rtol=1e-6, atol=0
    )
    assert (ref.statistics.num, ref.image_shape) == (60, (1, 4, 4))
    assert ref.kernel == mean_kernel(ref.rows)


def test_splits_are_put_together():
    parts = [reference(dataset(), name, Means().extractor) for name in ("train", "val")]
    both = reference(dataset(), "train+val", Means().extractor)
    assert both.statistics.num == 360
    expected = torch.cat([part.rows for part in parts]).sort(dim=0).values
    assert torch.equal(both.rows.sort(dim=0).values, expected)
    reference(dataset(), "train+val", Means().extractor)  # no warning: rows are where they were


def test_a_reference_is_computed_once():
    first, second = Means(), Means()
    counts = []
    a, b = (
        reference(dataset(), "train", means.extractor, lambda *_: lambda n, *_: counts.append(n))
        for means in (first, second)
    )
    assert first.num > 300
    assert second.num == 8  # to see that the extractor is the same
    assert counts == [300]
    assert torch.equal(a.rows, b.rows)
    assert torch.equal(a.statistics.covariance, b.statistics.covariance)


@pytest.mark.parametrize(
    "other",
    [
        lambda data: (data, "val", Means().extractor),
        lambda data: (dataset(seed=1), "train", Means().extractor),
        lambda data: (data, "train", Means("means of another network").extractor),
        lambda data: (dataclasses.replace(data, num_levels=17), "train", Means().extractor),
    ],
    ids=["split", "data", "extractor", "levels"],
)
def test_the_key_is_of_all_that_features_depend_on(other, own_cache):
    reference(dataset(), "train", Means().extractor)
    reference(*other(dataset()))
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 2


def stored(own_cache):
    (path,) = own_cache.glob("*/reference.safetensors")
    return path


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
    "another file": lambda path: path.write_bytes(save({"x": torch.ones(3)})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_replaced_with_a_warning(damage, own_cache):
    expected = reference(dataset(), "train", Means().extractor)
    before = stored(own_cache).read_bytes()
    DAMAGES[damage](stored(own_cache))
    with pytest.warns(UserWarning, match=r"is damaged"):
        again = reference(dataset(), "train", Means().extractor)
    assert torch.equal(again.rows, expected.rows)
    assert stored(own_cache).read_bytes() == before


def test_features_that_changed_under_the_same_name_are_noticed(own_cache):
    reference(dataset(), "train", Means().extractor)
    with pytest.warns(UserWarning, match="means"):
        again = reference(dataset(), "train", Means(scale=2.0).extractor)
    fresh = reference(dataset(), "train", Means("other", scale=2.0).extractor)
    assert torch.equal(again.rows, fresh.rows)


def test_features_that_are_random_are_refused():
    def compute(images):
        return Features(torch.rand(len(images), 2), None)

    with pytest.raises(ValueError, match="dice"):
        reference(dataset(), "train", Extractor("dice", compute))


def test_an_interrupted_extraction_goes_on_where_it_was(own_cache, monkeypatch):
    monkeypatch.setattr("elbos.evaluation.reference._PART_SIZE", 100)
    first, second = Means(), Means()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference(dataset(), "train", first.extractor, lambda *_: stop)
    resumed = reference(dataset(), "train", second.extractor)
    assert (first.num, second.num) == (100, 200 + 8)
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 1  # no parts are left
    whole = reference(dataset(), "train", Means("means, never interrupted").extractor)
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.statistics.covariance, whole.statistics.covariance)


KILLED = """
import os
from test_quality import Means, dataset
from elbos.evaluation import reference
from elbos import files
write = files.write
def die(path, content):
    if path.name != "reference.safetensors":
        return write(path, content)
    path.write_bytes(content[:99])
    os.kill(os.getpid(), 9)
files.write = die
reference.reference(dataset(), "train", Means().extractor)
"""


def test_a_process_killed_while_it_writes_leaves_nothing_that_counts(own_cache):
    here = Path(__file__).parent
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=here, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = reference(dataset(), "train", Means().extractor)  # no warning: nothing was there
    whole = reference(dataset(), "train", Means("means, never killed").extractor)
    assert torch.equal(resumed.statistics.covariance, whole.statistics.covariance)


def test_points_have_no_quality():
    with pytest.raises(ValueError, match="toy-ring"):
        reference(Toy().load(), "test", Means().extractor)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "elbos").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match="XDG_CACHE_HOME"):
        reference(dataset(), "train", Means().extractor)


# --- scores --------------------------------------------------------------------------------------


def scored(x, data, ref, extractor):
    """The values of all metrics, by name."""
    found = scores(feature_sets(x, data, ref, extractor))
    return {name: one.value for name, one in found.items()}


def test_scores_of_other_real_images_are_the_baseline():
    """Of more noise, of which the images are, and of darker noise: worse in every respect."""
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    baseline, good, dark = (
        scores(feature_sets(x, data, ref, extractor))
        for x in (data.test.x, noise(200, 7), noise(200, 7, num_levels=3))
    )
    for score in (baseline, good):
        kernel = score["kernel_distance"]
        assert abs(kernel.value) < 4 * kernel.standard_error
        assert min(score["precision"].value, score["recall"].value) > 0.7
        assert score["frechet_distance"].value < 0.02 * dark["frechet_distance"].value
    assert dark["kernel_distance"].value > 4 * dark["kernel_distance"].standard_error
    assert max(dark["precision"].value, dark["recall"].value) < 0.1


def test_the_first_samples_alone_are_scored_as_if_there_were_no_others():
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    x = noise(100, 7)
    both, alone = (feature_sets(x[:num], data, ref, extractor) for num in (100, 40))
    sized = [metric for metric in SAMPLE_METRICS if metric.depends_on_num]
    assert scores(both.first(40)) == scores(alone)
    assert scores(both.first(40), sized).keys() == scores(alone).keys() - {"kernel_distance"}


def test_only_inceptions_classes_have_an_inception_score():
    """The same number of other classes is a classifier score; without classes there is neither."""
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    original = dataclasses.replace(extractor, is_inception=True)
    found, expected = (scored(noise(60, 7), data, ref, one) for one in (extractor, original))
    assert found["classifier_score"] == expected["inception_score"]
    assert "inception_score" not in found and "classifier_score" not in expected
    extractor = Extractor("means", lambda x: Features(x[:, 0].float().mean(2), None))
    assert not [n for n in scored(noise(60, 7), data, ref, extractor) if n.endswith("_score")]


def test_frechet_distance_of_a_split_from_itself_is_zero_in_every_order():
    data, extractor = dataset(), Means().extractor
    ref = reference(data, "train", extractor)
    result = scored(data.train.x.flip(0), data, ref, extractor)
    far = frechet_distance(ref.statistics, Statistics.from_features(torch.zeros(9, 4)))
    assert result["frechet_distance"] < 1e-6 * far
    assert (result["precision"], result["recall"]) == (1, 1)


@pytest.mark.parametrize(
    ("images", "name", "message"),
    [
        (lambda: Digits().load().test.x, "means", r"\(1, 8, 8\).*\(1, 4, 4\)"),
        (lambda: noise(60, 0).repeat(1, 3, 1, 1), "means", r"\(3, 4, 4\)"),
        (lambda: noise(60, 0), "other", "means.*other"),
    ],
)
def test_what_cannot_be_compared_is_refused(images, name, message):
    data = dataset()
    ref = reference(data, "train", Means().extractor)
    with pytest.raises(ValueError, match=message):
        scored(images(), data, ref, Means(name).extractor)


def test_samples_with_holes_are_counted(randn):
    x = randn(4, 3, 4, 4)
    require_finite_samples(x)
    x[1, 2, 3, 0], x[3, 0, 0, 0] = torch.nan, -torch.inf
    with pytest.raises(NotFiniteError, match="2 of 4"):
        require_finite_samples(x)
