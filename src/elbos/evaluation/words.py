"""An evaluation in short: its numbers with their errors, and what they mean to a stranger."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from elbos.report.parts import NONE

MAX_Z = 4.0  # of a difference, in standard errors, that chance explains


def four_digits(value: float) -> str:
    """A number to its fourth digit.

    Examples:
        >>> four_digits(49.001), four_digits(4805.2)
        ('49.00', '4805')
    """
    return f"{value:#.4g}".rstrip(".")


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return NONE if value is None else four_digits(value)


def plus_minus(value: float | None, error: float | None) -> str:
    """A value with its error, both to the error's second digit.

    Examples:
        >>> plus_minus(2.9034, 0.0123)
        '2.903 ± 0.012'
        >>> plus_minus(2.9034, None)
        '2.903'
    """
    if value is None or not error:
        return number(value)
    if abs(value) + error < 1e-3:
        return f"{value:.3g} ± {error:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def fact(value: Any) -> str:
    """A setting in words.

    Examples:
        >>> fact({"torch": "2.6", "seeds": [0, 1]}), fact(True), fact(60_000)
        ('torch 2.6, seeds 0, 1', 'yes', '60,000')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(fact(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: NONE, True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def counted(num: int | None, what: str) -> str:
    """How many there are of what, if it is known."""
    return what if num is None else f"{num:,} {what}"


def bits_in_words(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What the bits per dimension say."""
    images = counted(result.get("num_images"), f"{result.get('split') or 'test'} images")
    if (exact := row.get("exact_bits_per_dim")) is not None:
        return (
            f"An upper bound on −log₂ p per dimension, on average over {images}. Less is better; "
            f"the true density has {number(exact)}."
        )
    return (
        "The model describes an image with at most so many bits for each dimension, a colour of a "
        f"pixel, on average over {images}. Less is better."
    )


METRICS = {
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "inception_score": "Inception score",
    "classifier_score": "classifier score",
}
"""The titles of sample quality's metrics."""


def metrics(quality: Mapping[str, Any]) -> list[str]:
    """The metrics that anything has, the one that leads first.

    The kernel distance leads where there are fewer samples than features: the Fréchet distance is
    then mostly bias.
    """
    rows = [*(quality.get("sets") or []), quality.get("baseline") or {}]
    keys = [key for key in METRICS if any(row.get(key) is not None for row in rows)]
    num = num_compared(quality)
    num_features = (quality.get("protocol") or {}).get("num_features")
    if num is not None and num_features is not None and num < num_features:
        keys.sort(key=lambda key: key != "kernel_distance")
    return keys


def num_compared(quality: Mapping[str, Any]) -> int | None:
    """How many samples are compared with the real-data baseline, which is of as many images."""
    matched, protocol = quality.get("matched") or {}, quality.get("protocol") or {}
    return matched.get("num") or protocol.get("num_samples")


def compared(quality: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """What has a metric's mean and deviation at the baseline's number of images; the kernel
    distance, which does not depend on it, is of all samples.
    """
    return (metric != "kernel_distance" and quality.get("matched")) or quality


def distance_in_words(quality: Mapping[str, Any], metric: str) -> str:
    """What a distance says."""
    protocol, baseline = quality.get("protocol") or {}, quality.get("baseline") or {}
    num = protocol.get("num_samples") if metric == "kernel_distance" else num_compared(quality)
    reference = protocol.get("reference") or "real images"
    text = f"How far {counted(num, 'samples')} are, as a whole, from {reference}. Less is better."
    if baseline.get(metric) is not None:
        split = baseline.get("split") or "held-out"
        text += f" The baseline is of {counted(baseline.get('num'), f'real {split} images')}."
    return text


def sweep_baseline(sweep: Mapping[str, Any]) -> float | None:
    """The Fréchet distance of as many real images as a point has samples, if there are so many."""
    baseline = sweep.get("baseline") or {}
    is_equal = baseline.get("num") == sweep.get("num_samples")
    return baseline.get("frechet_distance") if is_equal else None


def mean_and_std(quality: Mapping[str, Any], metric: str) -> tuple[float | None, float | None]:
    """A metric's mean over seeds and their standard deviation, as far as they are known."""
    mean, std = quality.get("mean") or {}, quality.get("std") or {}
    return mean.get(metric), std.get(metric)


def is_agreed(row: Mapping[str, Any]) -> bool | None:
    """Whether both sides of the theorem are equal, as far as can be measured."""
    z = row.get("z")
    return None if z is None else abs(z) <= MAX_Z
