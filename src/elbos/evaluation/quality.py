"""Sample quality of a model: generated samples, scored against the training images.

The real-data baseline, the scores of held-out images, is what samples as good as the data would
have, at equal numbers of images: all scores but the kernel distance depend on the number.

The features of images are stored. Metrics are computed from them each time, which takes seconds, so
that a changed metric never returns an old score.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from elbos.base.progress import Advance, Start
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.features import Extractor, ExtractorConfig, Features, extract
from elbos.evaluation.features.extractor import BATCH_SIZE
from elbos.evaluation.metrics import (
    FRECHET_DISTANCE,
    MIN_IMAGES,
    SAMPLE_METRICS,
    FeatureSets,
    SampleMetric,
    num_manifold,
    scores,
)
from elbos.evaluation.model import Model, data_store, model_store
from elbos.evaluation.reference import Reference, reference, require_images
from elbos.evaluation.samples import FORMAT, stored_samples
from elbos.evaluation.scores import (
    Baseline,
    SampleQuality,
    SampleSets,
    SamplingProtocol,
    Scores,
    Sweep,
    SweepPoint,
)
from elbos.models.samplers import SAMPLERS
from elbos.theory.names import label
from elbos.theory.schedules import Cosine, EDMSampling, Flow
from elbos.training.randomness import generator
from elbos.training.sampling import Sampling

REFERENCE_SPLIT = "train+val"
BASELINE_SPLIT = "test"
SWEEP_GRIDS = (EDMSampling(), Cosine(), Flow())


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
        found = reference(model.dataset, REFERENCE_SPLIT, extractor, start, model.processes)
        return cls(model, extractor, found)

    @property
    def num_features(self) -> int:
        return self.reference.rows.shape[1]

    def num_matched(self, num: int) -> int | None:
        """Return the number of samples for a fair comparison with real test images.

        None to compare all `num` samples. As many as there are test images, if these are fewer and
        enough for a baseline.
        """
        num_test = len(self.model.dataset.test)
        return num_test if MIN_IMAGES <= num_test < num else None

    def score(
        self, sampling: Sampling, num: int, seed: int, start: Start
    ) -> tuple[Scores, Scores | None]:
        """Score generated samples by metrics of sample quality.

        Returns the scores of all samples, and of as many samples as there are real test images.
        Metrics that depend on the number of samples are compared with the real-data baseline by the
        first `num_matched` samples; None if all samples are compared.
        """
        x = stored_samples(self.model, sampling, num, seed, start)
        key = {"num": num, "sampling": sampling, "seed": seed}
        store = model_store(self.model, "features", samples=FORMAT, **self._key, **key)
        sets = self._sets(x, store, f"seed {seed}", start)
        num_matched = self.num_matched(num)
        if num_matched is None:
            return self._scores(sets), None
        sized = [metric for metric in SAMPLE_METRICS if metric.depends_on_num]
        return self._scores(sets), self._scores(sets.first(num_matched), sized)

    def baseline(self, num: int, start: Start) -> Baseline:
        """Score real test images as a baseline for generated samples.

        At most `num` images are scored; too few images give no scores.
        """
        test = self.model.dataset.test.x
        x = test[torch.randperm(len(test), generator=generator(0))[:num]]
        found = Scores({})
        if len(x) >= MIN_IMAGES:
            store = data_store(self.model, "baselines", num=len(x), **self._key)
            found = self._scores(self._sets(x, store, f"{BASELINE_SPLIT} images", start))
        return Baseline(split=BASELINE_SPLIT, num=len(x), scores=found)

    def protocol(self, sampling: Sampling, num: int, seeds: range) -> SamplingProtocol:
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
            seeds=tuple(seeds),
        )

    @cached_property
    def _key(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.reference.rows.numpy().tobytes()).hexdigest()
        return {"extractor": [self.extractor.name, digest]}

    def _sets(
        self, x: UInt8[Tensor, "n c h w"], store: Store, what: str, start: Start
    ) -> FeatureSets:
        """Return the features of images, read from `store` or else extracted."""
        num_levels = require_images(self.model.dataset)

        def batch(some: UInt8[Tensor, "b c h w"]) -> Tensors:
            found = extract(self.extractor, some, num_levels=num_levels, on_images=lambda _: None)
            return {key: value for key, value in vars(found).items() if value is not None}

        parts = (
            Part(f"{i:05d}", len(some), partial(batch, some))
            for i, some in enumerate(torch.split(x, BATCH_SIZE))
        )
        found = store.concatenated(parts, start(f"features of {what}", len(x), "images"))
        features = Features(found["pooled"], found.get("logits"))
        return FeatureSets(features, self.reference, self.extractor.is_inception)

    def _scores(
        self, sets: FeatureSets, metrics: Iterable[SampleMetric] = SAMPLE_METRICS
    ) -> Scores:
        """Return scores that the main process computes for all processes."""
        processes = self.model.processes
        return Scores(
            processes.from_main(
                processes.together(lambda: scores(sets, metrics) if processes.is_main else {})
            )
        )


def measure_quality(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling, start: Start
) -> SampleQuality:
    num, seeds = config.num_samples, range(config.seed, config.seed + config.num_sets)
    found = {seed: scorer.score(sampling, num, seed, start) for seed in seeds}
    matched = {seed: some for seed, (_, some) in found.items() if some is not None}
    num_matched = scorer.num_matched(num)
    return SampleQuality(
        protocol=scorer.protocol(sampling, num, seeds),
        samples=SampleSets.from_scores(num, {seed: one for seed, (one, _) in found.items()}),
        matched=None if num_matched is None else SampleSets.from_scores(num_matched, matched),
        baseline=scorer.baseline(num, start),
    )


def measure_sweep(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling, start: Start
) -> Sweep:
    num, seed = config.sweep_samples, config.seed
    points = []
    for one in _sweep_samplings(scorer, config, sampling):
        protocol = scorer.protocol(one, num, range(seed, seed + 1))
        line = f"{protocol.sampler_label}, {protocol.grid_label}"
        named = partial(_named, start, f"{line}, {protocol.num_evaluations} evaluations")
        found, _ = scorer.score(one, num, seed, named)
        points.append(SweepPoint(protocol=protocol, scores=found))
    return Sweep(
        points=tuple(points),
        num_samples=num,
        seed=seed,
        baseline=scorer.baseline(num, start),
        best=min(points, key=lambda point: point.scores[FRECHET_DISTANCE].value),
    )


def _named(start: Start, point: str, what: str, total: int, unit: str) -> Advance:
    return start(f"{point}: {what}", total, unit)


def _sweep_samplings(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling
) -> Iterator[Sampling]:
    trained = scorer.model.schedule
    for sampler in dict.fromkeys([sampling.sampler, *(cls() for cls in SAMPLERS)]):
        for grid in dict.fromkeys([sampling.grid, *SWEEP_GRIDS]):
            line = replace(sampling, sampler=sampler, grid=grid)
            for num_evaluations in config.sweep_evaluations:
                fitting = [
                    point
                    for num_steps in range(2, num_evaluations + 1)
                    if (point := replace(line, num_steps=num_steps)).num_evaluations(trained)
                    <= num_evaluations
                ]
                yield from fitting[-1:]  # with guidance, no number of steps may fit
