"""All scores of a set of images against a reference, and the protocol they stand for.

The scores of held-out real images are the real-data baseline: what samples as good as the data
would have. All scores but the kernel distance depend on the number of images: samples and baseline
are compared at the same number.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.evaluation.estimators import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from elbos.evaluation.features import Extractor, Features, extract
from elbos.evaluation.reference import Reference, require_images
from elbos.training.data import Dataset

NUM_NEIGHBORS, NUM_SPLITS = 3, 10
"""As published: of precision and recall, of the inception score."""

MIN_IMAGES = 2 * NUM_SPLITS
"""Fewer are not scored."""

MAX_MANIFOLD = 10_000
"""Images on each side of precision and recall at most: their time grows with the square."""


def scores(
    samples: UInt8[Tensor, "n c h w"],
    dataset: Dataset,
    reference: Reference,
    extractor: Extractor,
    *,
    num_matched: int | None = None,
    on_images: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Every score of a set of images.

    Args:
        samples: Levels, generated or real, in an order without meaning.
        dataset: The data, which the levels are like.
        reference: What to compare with, of the same extractor.
        extractor: What computes the features.
        num_matched: Also score the first so many of them alone, as many as the images that they
            are to be compared with. Default: do not.
        on_images: Called with the number of images done, now and then.

    Returns:
        `frechet_distance`, `kernel_distance` and its standard error `kernel_distance_se`,
        `precision`, `recall`; with classes `inception_score`, where they are Inception's, else
        `classifier_score`, and its deviation over splits (`..._std`); `num_samples`; `matched`, the
        scores that depend on the number of samples once more, of the first of them, or None; and
        the `protocol`.

    Raises:
        ValueError: If the samples are too few or of another shape than the reference's images, or
            the reference is of another extractor.
    """
    _require_comparable(samples, reference, extractor)
    features = extract(extractor, samples, num_levels=require_images(dataset), on_images=on_images)
    kernel, kernel_se = kernel_distance(
        features.pooled, reference.rows, reference_kernel=reference.kernel
    )
    matched = None
    if num_matched is not None:
        logits = None if features.logits is None else features.logits[:num_matched]
        first = Features(features.pooled[:num_matched], logits)
        matched = {"num": num_matched, **_sized_scores(first, reference, extractor)}
    return {
        **_sized_scores(features, reference, extractor),
        "kernel_distance": kernel,
        "kernel_distance_se": kernel_se,
        "num_samples": len(samples),
        "matched": matched,
        "protocol": {
            "extractor": extractor.name,
            "reference": f"{reference.dataset}, {reference.split} split",
            "num_reference": reference.statistics.num,
            "num_kernel_rows": len(reference.rows),
            "num_precision_recall": _num_manifold(features, reference),
            "num_neighbors": NUM_NEIGHBORS,
            "num_inception_splits": NUM_SPLITS,
        },
    }


def _sized_scores(
    features: Features, reference: Reference, extractor: Extractor
) -> dict[str, float]:
    """The scores that depend on the number of samples."""
    num = _num_manifold(features, reference)
    precision, recall = precision_recall(
        reference.rows[:num], features.pooled[:num], num_neighbors=NUM_NEIGHBORS
    )
    found = {
        "frechet_distance": frechet_distance(
            reference.statistics, Statistics.from_features(features.pooled)
        ),
        "precision": precision,
        "recall": recall,
    }
    if features.logits is not None:
        name = "inception_score" if extractor.is_inception else "classifier_score"
        found[name], found[f"{name}_std"] = inception_score(features.logits, num_splits=NUM_SPLITS)
    return found


def _num_manifold(features: Features, reference: Reference) -> int:
    """How many images are on each side of precision and recall."""
    return min(len(features.pooled), len(reference.rows), MAX_MANIFOLD)


class NotFiniteError(ValueError):
    """Samples that hold NaN or infinity."""


def require_finite_samples(x: Float[Tensor, "n *d"]) -> None:
    """Fail on samples that no picture can be made of, before they are rounded to levels.

    Raises:
        NotFiniteError: If some hold NaN or infinity; it says how many.
    """
    num_bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if num_bad:
        raise NotFiniteError(
            f"{num_bad} of {len(x)} samples hold NaN or infinity: "
            "try another sampler, more steps, less guidance or float32."
        )


def _require_comparable(samples: Tensor, reference: Reference, extractor: Extractor) -> None:
    if tuple(samples.shape[1:]) != reference.image_shape:
        raise ValueError(
            f"The samples are {tuple(samples.shape[1:])}, but the images of the reference "
            f"({reference.dataset}, {reference.split} split) {reference.image_shape}: "
            "compare images of the same channels and size."
        )
    if extractor.name != reference.extractor:
        raise ValueError(
            f"The reference is of {reference.extractor}, and the samples would be of "
            f"{extractor.name}: compute both with the same extractor."
        )
