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
from jaxtyping import UInt8
from torch import Tensor

from elbos.base.progress import Start
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.features import Extractor, ExtractorConfig, Features, extract
from elbos.evaluation.features.extractor import BATCH_SIZE
from elbos.evaluation.metrics import MIN_IMAGES, FeatureSets, Value, num_manifold, scores
from elbos.evaluation.model import Model, data_store, model_store
from elbos.evaluation.reference import Reference, reference, require_images
from elbos.evaluation.samples import FORMAT, stored_samples
from elbos.evaluation.scores import Baseline, SampleQuality, SamplingProtocol
from elbos.theory.names import label
from elbos.training.randomness import generator
from elbos.training.sampling import Sampling

REFERENCE_SPLIT = "train+val"
BASELINE_SPLIT = "test"


@dataclass(frozen=True)
class Scorer:
    """Scorer of the quality of a model's samples.

    Features of the samples are compared with features of the training images.
    """

    model: Model
    extractor: Extractor
    reference: Reference

    @classmethod
    def load(cls, model: Model, network: ExtractorConfig, start: Start) -> "Scorer":
        extractor = network.load(model.device)
        real = reference(model.dataset, REFERENCE_SPLIT, extractor, start, model.processes)
        return cls(model, extractor, real)

    @property
    def num_features(self) -> int:
        return self.reference.rows.shape[1]

    def score(self, sampling: Sampling, num: int, seed: int, start: Start) -> dict[str, Value]:
        """Return the scores of generated samples by metric."""
        x = stored_samples(self.model, sampling, num, seed, start)
        key = {"num": num, "sampling": sampling, "seed": seed}
        store = model_store(self.model, "features", samples=FORMAT, **self._key, **key)
        return self._scores(x, store, "samples", start)

    def baseline(self, num: int, start: Start) -> Baseline:
        """Score real test images as a baseline for generated samples.

        At most `num` images are scored; too few images give no scores.
        """
        test = self.model.dataset.test.x
        x = test[torch.randperm(len(test), generator=generator(0))[:num]]
        values: dict[str, Value] = {}
        if len(x) >= MIN_IMAGES:
            store = data_store(self.model, "baselines", num=len(x), **self._key)
            values = self._scores(x, store, f"{BASELINE_SPLIT} images", start)
        return Baseline(split=BASELINE_SPLIT, num=len(x), scores=values)

    def protocol(self, sampling: Sampling, num: int, seed: int) -> SamplingProtocol:
        trained = self.model.schedule
        guided = (
            max(sampling.guidance_min, trained.logsnr_min),
            min(sampling.guidance_max, trained.logsnr_max),
        )
        return SamplingProtocol(
            extractor=self.extractor.name,
            reference=self.reference.split,
            num_reference=self.reference.statistics.num,
            num_features=self.num_features,
            num_kernel_reference=len(self.reference.rows),
            num_precision_recall=num_manifold(num, self.reference),
            sampler=repr(sampling.sampler),
            sampler_label=label(sampling.sampler),
            grid=repr(sampling.grid_within(trained)),
            grid_label=label(sampling.grid),
            num_steps=sampling.num_steps,
            num_evaluations=sampling.num_evaluations(trained),
            guidance=sampling.guidance,
            guidance_logsnr=None if sampling.guidance == 1 else guided,
            num_samples=num,
            seed=seed,
        )

    @cached_property
    def _key(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.reference.rows.numpy().tobytes()).hexdigest()
        return {"extractor": [self.extractor.name, digest]}

    def _scores(
        self, x: UInt8[Tensor, "n c h w"], store: Store, what: str, start: Start
    ) -> dict[str, Value]:
        """Return the scores of images, whose features are read from `store` or else extracted.

        The main process computes the scores for all processes.
        """
        num_levels, processes = require_images(self.model.dataset), self.model.processes

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


def measure_quality(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling, start: Start
) -> SampleQuality:
    num, seed = config.num_samples, config.seed
    return SampleQuality(
        protocol=scorer.protocol(sampling, num, seed),
        scores=scorer.score(sampling, num, seed, start),
        baseline=scorer.baseline(num, start),
    )
