"""Sample quality of a model: generated samples, scored against the training images.

The real-data baseline, the scores of held-out images, is what samples as good as the data would
have, at equal numbers of images: all scores but the kernel distance depend on the number, and are
comparable only if there are as many test images as samples.

The features of images are stored. Metrics are computed from them each time, which takes seconds, so
that a changed metric never returns an old score.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.base.cache import cache_dir
from elbos.base.progress import Start, silent
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.features import Extractor, ExtractorConfig, Features, extract
from elbos.evaluation.features.extractor import BATCH_SIZE
from elbos.evaluation.metrics import MIN_IMAGES, FeatureSets, Value, scores
from elbos.evaluation.model import Model, class_labels, key_digest, model_store, sample_batches
from elbos.evaluation.reference import Reference, reference
from elbos.evaluation.result import SampleQuality, SamplingProtocol
from elbos.training.data import to_unit
from elbos.training.data.dataset import to_levels
from elbos.training.pictures import png
from elbos.training.randomness import generator
from elbos.training.sampling import BATCH_SIZE as NUM_AT_ONCE
from elbos.training.sampling import Sampling, num_batches

REFERENCE_SPLIT = "train+val"
NUM_SHOWN = 100  # samples in the picture
FORMAT = 3  # version of stored samples: a change generates all samples again


def require_finite_samples(x: Float[Tensor, "n *d"]) -> None:
    if num_bad := int((~x.isfinite()).flatten(1).any(1).sum()):
        raise ValueError(
            f"{num_bad} of {len(x)} samples hold NaN or infinity: "
            "try another sampler, more steps, less guidance or float32."
        )


def stored_samples(
    model: Model, sampling: Sampling, num: int, seed: int, start: Start
) -> UInt8[Tensor, "n c h w"]:
    """Return samples as pixel values, as `elbos sample --num NUM --seed SEED` generates them."""
    store = model_store(model, "samples", format=FORMAT, sampling=sampling, num=num, seed=seed)
    labels = class_labels(model, num)

    def batch(i: int) -> Tensors:
        (x,) = sample_batches(model, sampling, num=num, seed=seed, cond=labels, batches=[i])
        require_finite_samples(x)
        return {"x": to_levels(x, model.dataset.num_levels)}

    parts = (
        Part(f"{i:05d}", min(NUM_AT_ONCE, num - i * NUM_AT_ONCE), partial(batch, i))
        for i in range(num_batches(num))
    )
    return store.concatenated(parts, start(f"samples of seed {seed}", num, "images"))["x"]


@dataclass(frozen=True)
class Scorer:
    """Scorer that compares features of a model's samples with features of the training images."""

    model: Model
    extractor: Extractor
    reference: Reference

    @classmethod
    def load(cls, model: Model, network: ExtractorConfig, start: Start) -> "Scorer":
        extractor = network.load(model.device)
        real = reference(model.dataset, REFERENCE_SPLIT, extractor, start, model.processes)
        return cls(model, extractor, real)

    def score(self, sampling: Sampling, num: int, seed: int, start: Start) -> dict[str, Value]:
        """Return the scores of generated samples by metric."""
        x = stored_samples(self.model, sampling, num, seed, start)
        key = {"num": num, "sampling": sampling, "seed": seed}
        store = model_store(self.model, "features", samples=FORMAT, **self._key, **key)
        return self._scores(x, store, "samples", start)

    def baseline(self, num: int, start: Start) -> tuple[dict[str, Value], int]:
        """Return the scores of at most `num` real test images, none of too few; their number."""
        test = self.model.dataset.test.x
        x = test[torch.randperm(len(test), generator=generator(0))[:num]]
        values: dict[str, Value] = {}
        if len(x) >= MIN_IMAGES:
            key = key_digest(self.model, {"num": len(x), **self._key})
            store = Store(cache_dir() / "baselines" / key, self.model.processes)
            values = self._scores(x, store, "test images", start)
        return values, len(x)

    def quality(self, sampling: Sampling, num: int, seed: int, start: Start) -> SampleQuality:
        """Return the scores of generated samples and of real images, and how they were measured."""
        trained = self.model.schedule
        protocol = SamplingProtocol(
            extractor=self.extractor.name,
            reference=REFERENCE_SPLIT,
            num_reference=self.reference.statistics.num,
            num_features=self.reference.rows.shape[1],
            sampler=repr(sampling.sampler),
            grid=repr(sampling.grid_within(trained)),
            num_steps=sampling.num_steps,
            num_evaluations=sampling.num_evaluations,
            guidance=sampling.guidance,
            num_samples=num,
            seed=seed,
        )
        scores = self.score(sampling, num, seed, start)
        baseline, num_baseline = self.baseline(num, start)
        return SampleQuality(
            protocol=protocol,
            scores=scores,
            baseline=baseline,
            num_baseline=num_baseline,
            picture=self.picture(sampling, num, seed, NUM_SHOWN, self.model.num_classes),
        )

    def picture(
        self, sampling: Sampling, num: int, seed: int, num_shown: int, num_columns: int | None
    ) -> bytes:
        """Return a PNG image of the first samples."""
        x = stored_samples(self.model, sampling, num, seed, silent)[:num_shown]
        return png(to_unit(x, self.model.dataset.num_levels), num_columns=num_columns)

    @cached_property
    def _key(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.reference.rows.numpy().tobytes()).hexdigest()
        return {"extractor": [self.extractor.name, digest]}

    def _scores(
        self, x: UInt8[Tensor, "n c h w"], store: Store, what: str, start: Start
    ) -> dict[str, Value]:
        """Return the scores of images, whose features are read from `store` or else extracted."""
        num_levels, processes = self.model.dataset.num_levels, self.model.processes
        assert num_levels is not None

        def batch(images: UInt8[Tensor, "b c h w"]) -> Tensors:
            features = extract(self.extractor, images, num_levels=num_levels)
            return {key: value for key, value in vars(features).items() if value is not None}

        parts = (
            Part(f"{i:05d}", len(images), partial(batch, images))
            for i, images in enumerate(torch.split(x, BATCH_SIZE))
        )
        stored = store.concatenated(parts, start(f"features of {what}", len(x), "images"))
        features = Features(stored["pooled"], stored.get("logits"))
        sets = FeatureSets(features, self.reference, self.extractor.is_inception)
        values = processes.together(lambda: scores(sets) if processes.is_main else {})
        return processes.from_main(values)
