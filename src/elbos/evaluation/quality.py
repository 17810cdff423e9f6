"""All scores of a set of images against a reference, and the protocol they stand for.

The scores of a split of real images are the floor: what samples as good as the data would have.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.evaluation.features import Extractor, extract
from elbos.evaluation.metrics import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from elbos.evaluation.reference import Reference, require_images
from elbos.training.data import Dataset

NUM_SUBSETS, NUM_NEIGHBORS, NUM_SPLITS = 10, 3, 10
"""As published: of the kernel distance, of precision and recall, of the inception score."""

MIN_IMAGES = 2 * NUM_SUBSETS
"""Fewer have no kernel distance."""


def scores(
    samples: UInt8[Tensor, "n c h w"],
    dataset: Dataset,
    reference: Reference,
    extractor: Extractor,
    *,
    seed: int = 0,
    on_images: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Every score of a set of images.

    Args:
        samples: Levels, generated or real.
        dataset: The data, which the levels are like.
        reference: What to compare with, of the same extractor.
        extractor: What computes the features.
        seed: Of the subsets of the kernel distance, and of the samples in precision and recall.
        on_images: Called with the number of images done, now and then.

    Returns:
        `frechet_distance`, `kernel_distance` and its standard error `kernel_distance_se`,
        `precision`, `recall`, `inception_score` and its deviation over splits
        `inception_score_std` (None without classes), `num_samples`; and the `protocol`.

    Raises:
        ValueError: If the samples are too few or of another shape than the reference's images, or
            the reference is of another extractor.
    """
    _require_comparable(samples, reference, extractor)
    features = extract(extractor, samples, num_levels=require_images(dataset), on_images=on_images)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    num_rows = min(len(samples), len(reference.rows))  # precision and recall depend on it
    real, fake = reference.rows[:num_rows], features.pooled[order[:num_rows]]
    kernel, kernel_se = kernel_distance(
        reference.rows, features.pooled, num_subsets=NUM_SUBSETS, seed=seed
    )
    precision, recall = precision_recall(real, fake, num_neighbors=NUM_NEIGHBORS)
    inception, inception_std = None, None
    if features.logits is not None:
        inception, inception_std = inception_score(features.logits[order], num_splits=NUM_SPLITS)
    return {
        "frechet_distance": frechet_distance(reference.statistics, Statistics.of(features.pooled)),
        "kernel_distance": kernel,
        "kernel_distance_se": kernel_se,
        "precision": precision,
        "recall": recall,
        "inception_score": inception,
        "inception_score_std": inception_std,
        "num_samples": len(samples),
        "protocol": {
            "extractor": extractor.name,
            "reference": f"{reference.dataset}, {reference.split} split",
            "num_reference": reference.statistics.num,
            "num_precision_recall": num_rows,
            "num_neighbors": NUM_NEIGHBORS,
            "num_kernel_subsets": NUM_SUBSETS,
            "num_inception_splits": NUM_SPLITS,
            "seed": seed,
        },
    }


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
