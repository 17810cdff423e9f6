"""Errors are the scatter that repetition shows, and intervals cover as often as they say."""

import math

import pytest
import torch
from oracles import bimodal

from elbos import Validator
from elbos.theory import weightings
from elbos.theory.oracles import GaussianMixture
from elbos.validation import Estimate

ENDS = {"logsnr_min": -8.0, "logsnr_max": 11.0}


@pytest.mark.parametrize(
    ("standard_error", "measurement_error", "target", "expected"),
    [
        (0.004, 0.003, 0.005, True),  # reached
        (0.006, 0.005, 0.005, False),  # more rounds will reach it
        (0.010, 0.004, 0.005, True),  # the images alone leave more: no round will
        (0.010, 0.005, 0.005, False),  # they do, but are not measured well yet
        (0.005001, 0.0005, 0.005, False),  # the images alone leave a little less
        (0.005001, 0.0002, 0.005, True),  # so little less that it is not worth the rounds
        (0.010, 0.005, None, True),  # no target
        (0.004, math.nan, 0.005, True),
    ],
)
def test_rounds_go_on_while_they_help(standard_error, measurement_error, target, expected):
    assert Estimate(3.0, standard_error, measurement_error, 100).is_enough(target) is expected


@pytest.mark.parametrize("is_lattice", [True, False])
def test_errors_of_independent_values_are_the_textbook_ones(is_lattice, randn):
    """Of s_i + e_ir, variances 4 and 1, 3 rounds: to 5 %, n = 20,000 samples."""
    values = 2 * randn(20_000, 1) + randn(20_000, 3)
    actual = Estimate.from_rounds(values, is_lattice=is_lattice)
    assert actual.standard_error == pytest.approx(math.sqrt((4 + 1 / 3) / 20_000), rel=0.05)
    assert actual.measurement_error == pytest.approx(math.sqrt(1 / 3 / 20_000), rel=0.05)
    assert actual.sampling_error == pytest.approx(math.sqrt(4 / 20_000), rel=0.05)
    low, high = actual.interval
    assert (low + high) / 2 == pytest.approx(actual.mean, abs=1e-3 * actual.standard_error)
    assert high - low == pytest.approx(2 * 1.96 * actual.standard_error, rel=1e-3)


@pytest.mark.parametrize("is_lattice", [True, False])
@pytest.mark.parametrize(("num", "expected"), [(40, 0.92), (200, 0.95)])
def test_an_interval_of_a_long_tail_covers_as_often_as_it_says(is_lattice, num, expected, randn):
    """To 4 standard errors of 8,000; Student's alone covers lognormal values 89 % and 93 %."""
    of_repeats = randn(8000, num, 1).exp() - math.exp(0.5)
    actual = [Estimate.from_rounds(v, is_lattice=is_lattice).interval for v in of_repeats]
    share = sum(low < 0 < high for low, high in actual) / 8000
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 8000)
    for values, (low, high) in zip(of_repeats[:100], actual[:100], strict=True):
        mirrored = Estimate.from_rounds(-values, is_lattice=is_lattice).interval
        assert mirrored == pytest.approx([-high, -low])


def test_a_common_course_over_the_levels_is_no_error(randn):
    """Values along a line of slope 100, which the lattice averages out: the noise alone is left."""
    noise = randn(1000, 2)
    line = torch.linspace(-50, 50, 1000, dtype=torch.float64)[:, None]
    actual, alone = (
        Estimate.from_rounds(values, is_lattice=True) for values in (line + noise, noise)
    )
    assert actual.standard_error == pytest.approx(alone.standard_error, rel=0.02)
    assert actual.skewness == pytest.approx(alone.skewness, abs=0.02)


def unlike_images():
    """Two kinds of images that are unlike, of 16 dimensions."""
    return GaussianMixture(
        weights=torch.tensor([0.8, 0.2], dtype=torch.float64),
        means=torch.zeros(2, 16, dtype=torch.float64),
        stds=torch.tensor([1.0, 0.05], dtype=torch.float64),
    )


def believed(data):
    """A denoiser that takes all data for twice as wide."""
    return GaussianMixture(data.weights, data.means, 2 * data.stds)


@pytest.fixture(scope="module")
def repeats():
    """100 pairs of validations."""
    return validated(100)


def validated(num):
    """Validations of 40 new images each, of two denoisers."""
    data, generator = unlike_images(), torch.Generator().manual_seed(0)
    actual = []
    for seed in range(num):
        validator = Validator(data.sample(40, generator)[0], seed=seed, **ENDS)
        actual.append([validator(d, batch_size=320) for d in (data, believed(data))])
    return actual


OF = ["bound", "weighted", "difference", "weighted difference"]


def test_intervals_of_few_images_cover_as_often_as_they_say(repeats):
    """95 %, to 4 standard errors of 100 repetitions."""
    for of in OF:
        share = covered(repeats, of)
        assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(repeats)), of


@pytest.mark.slow
def test_intervals_of_few_images_cover_93_to_97_percent():
    """Of 3,000 repetitions, whose standard error is 0.4 %."""
    pairs = validated(3_000)
    assert all(0.93 <= covered(pairs, of) <= 0.97 for of in OF)


def covered(pairs, of):
    """The share of intervals around the mean of all."""
    functions = {
        "bound": lambda first, second: first.bits,
        "weighted": lambda first, second: first.weighted(weightings.Sigmoid(k=2.0)),
        "difference": lambda first, second: second.difference(first),
        "weighted difference": lambda first, second: second.weighted(weightings.EDM(), first),
    }
    actual = [functions[of](*pair) for pair in pairs]
    mean = sum(item.mean for item in actual) / len(actual)
    return sum(item.interval[0] < mean < item.interval[1] for item in actual) / len(actual)


def test_a_difference_is_known_much_better_than_either(repeats):
    """Its error is a third of theirs or less, in the median of 100; and it is that which it has."""
    errors = torch.tensor(
        [
            [second.difference(first).standard_error, first.standard_error, second.standard_error]
            for first, second in repeats
        ]
    ).median(0)[0]
    assert 3 * errors[0] < errors[1:].min()


@pytest.mark.parametrize("is_same", [True, False])
def test_errors_are_the_scatter_of_repeated_measurements(is_same, generator):
    """To 35 %, 4.3 standard errors of 75 repetitions: with the same images, and with new ones."""
    data = bimodal()
    x, _ = data.sample(100, generator)
    actual = []
    for seed in range(75):
        images = x if is_same else data.sample(100, generator)[0]
        actual.append(Validator(images, seed=seed, **ENDS)(data, batch_size=800).bits)
    scatter = torch.tensor([item.mean for item in actual]).std().item()
    stated = "measurement_error" if is_same else "standard_error"
    mean = sum(getattr(item, stated) for item in actual) / len(actual)
    assert scatter == pytest.approx(mean, rel=0.35)
