"""Sample quality of a model: sets of samples, scored against the training images.

The scores of held-out real images are the real-data baseline: the scores that samples as good as
the data would have. All scores except the kernel distance depend on the number of images, so that
samples and baseline are compared at equal numbers.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from elbos.base.progress import Advance, Start, silent
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.features import Extractor, ExtractorConfig, Features, extract
from elbos.evaluation.features.extractor import BATCH_SIZE
from elbos.evaluation.metrics import (
    FRECHET_DISTANCE,
    MIN_IMAGES,
    SAMPLE_METRICS,
    Value,
    feature_sets,
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
_ESTIMATORS = 3  # version of the estimators: a change invalidates stored scores


@dataclass(frozen=True)
class ScoredSamples:
    """Scores of one set of samples: of all samples, and of as many samples as the real-data
    baseline has images.

    Attributes:
        scores: Scores of all samples.
        matched: Scores of as many samples as the real-data baseline has images, if these are fewer,
            for the metrics that depend on the number of samples.
    """

    scores: Scores
    matched: Scores | None

    @property
    def comparable(self) -> Scores:
        """The scores to compare with the real-data baseline; metrics that depend on sample size use
        as many samples as the baseline has images.
        """
        matched = {} if self.matched is None else self.matched.values
        return Scores({**self.scores.values, **matched})


@dataclass(frozen=True)
class Scorer:
    """A scorer of a model's samples against the features of training images.

    Attributes:
        model: The model.
        extractor: The network that computes features.
        reference: The features of the training images.
    """

    model: Model
    extractor: Extractor
    reference: Reference

    @classmethod
    def load(cls, model: Model, network: ExtractorConfig, start: Start) -> "Scorer":
        """Load the feature extractor and the reference features, which are computed if not cached.

        Raises:
            OSError: If files of the extractor are missing, or the cache cannot be written.
            ValueError: If the extractor cannot be used.
        """
        extractor = network.load(model.device)
        found = reference(model.dataset, REFERENCE_SPLIT, extractor, start, model.processes)
        return cls(model, extractor, found)

    @property
    def num_features(self) -> int:
        """The dimension of the feature vectors."""
        return self.reference.rows.shape[1]

    def num_matched(self, num: int) -> int | None:
        """Return how many samples to compare with the real-data baseline; None for all `num`
        samples.

        The number of samples to compare is that of the test images, if these are fewer than `num`
        and enough for a baseline.
        """
        num_test = len(self.model.dataset.test)
        return num_test if MIN_IMAGES <= num_test < num else None

    def score(
        self, x: UInt8[Tensor, "n c h w"], sampling: Sampling, seed: int, start: Start
    ) -> ScoredSamples:
        """Score samples that the model generated with the given sampling and seed."""
        num_matched = self.num_matched(len(x))
        key = {"num": len(x), "matched": num_matched, "sampling": sampling, "seed": seed}
        store = model_store(self.model, "scores", samples=FORMAT, **self._key, **key)
        return self._stored_scores(x, store, f"seed {seed}", start, num_matched)

    def baseline(self, num: int, start: Start) -> Baseline:
        """Score at most `num` test images as the real-data baseline; no scores if images are too
        few.

        The scores are computed once for all models on the same data.
        """
        test = self.model.dataset.test.x
        x = test[torch.randperm(len(test), generator=generator(0))[:num]]
        found = Scores({})
        if len(x) >= MIN_IMAGES:
            store = data_store(self.model, "baselines", num=len(x), **self._key)
            found = self._stored_scores(x, store, f"{BASELINE_SPLIT} images", start).scores
        return Baseline(split=BASELINE_SPLIT, num=len(x), scores=found)

    def protocol(self, sampling: Sampling, num: int, seeds: range) -> SamplingProtocol:
        """Return the settings of the sampling and of the reference, as stored with the scores."""
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
        """The part of a store key that identifies the metrics, the extractor and the reference
        features.
        """
        digest = hashlib.sha256(self.reference.rows.numpy().tobytes()).hexdigest()
        names = [metric.name for metric in SAMPLE_METRICS]
        return {"extractor": [self.extractor.name, digest], "metrics": [_ESTIMATORS, *names]}

    def _stored_scores(
        self,
        x: UInt8[Tensor, "n c h w"],
        store: Store,
        what: str,
        start: Start,
        num_matched: int | None = None,
    ) -> ScoredSamples:
        processes, features, of_parts = self.model.processes, None, None
        if processes.num > 1 and processes.from_main("all" not in store):
            of_parts = model_store(self.model, "features", scores=store.folder.name)
            features = self._features(x, of_parts, what, start)

        def compute() -> Tensors:
            sets = feature_sets(
                x,
                self.model.dataset,
                self.reference,
                self.extractor,
                on_images=self._begin(what, x, start if features is None else silent),
                features=features,
            )
            found = _as_tensors("all", scores(sets))
            if num_matched is not None:
                sized = [metric for metric in SAMPLE_METRICS if metric.depends_on_num]
                found |= _as_tensors("matched", scores(sets.first(num_matched), sized))
            return found

        found = store.of_main("all", compute)
        if of_parts is not None and processes.is_main:
            shutil.rmtree(of_parts.folder)  # every process has read the features
        matched = None if num_matched is None else _from_tensors("matched", found)
        return ScoredSamples(_from_tensors("all", found), matched)

    def _features(
        self, x: UInt8[Tensor, "n c h w"], store: Store, what: str, start: Start
    ) -> Features:
        """Extract the features of images, distributed over all processes."""

        def compute(some: UInt8[Tensor, "b c h w"]) -> Tensors:
            num_levels = require_images(self.model.dataset)
            found = extract(self.extractor, some, num_levels=num_levels, on_images=lambda _: None)
            return {key: value for key, value in vars(found).items() if value is not None}

        parts = (
            Part(f"{i:05d}", len(some), partial(compute, some))
            for i, some in enumerate(torch.split(x, BATCH_SIZE))
        )
        found = store.concatenated(parts, self._begin(what, x, start))
        return Features(found["pooled"], found.get("logits"))

    @staticmethod
    def _begin(what: str, x: Tensor, start: Start) -> Advance:
        return start(f"features of {what}", len(x), "images")


def _as_tensors(prefix: str, values: dict[str, Value]) -> Tensors:
    """Encode metric values and standard errors as tensors, with NaN for a missing error."""
    return {
        f"{prefix}.{name}": torch.tensor(
            [one.value, math.nan if one.standard_error is None else one.standard_error],
            dtype=torch.float64,
        )
        for name, one in values.items()
    }


def _from_tensors(prefix: str, tensors: Tensors) -> Scores:
    found = {name: tensors.get(f"{prefix}.{name}") for name in (m.name for m in SAMPLE_METRICS)}
    pairs = {name: tensor.tolist() for name, tensor in found.items() if tensor is not None}
    return Scores(
        {name: Value(v, None if math.isnan(error) else error) for name, (v, error) in pairs.items()}
    )


def measure_quality(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling, start: Start
) -> SampleQuality:
    """Generate and score several sets of samples, and score real images as the baseline.

    Args:
        scorer: The scorer of the model.
        config: What to measure.
        sampling: Sampler and its settings.
        start: Starts a progress display for each piece of work.

    Raises:
        ValueError: If samples are not finite.
    """
    num, seeds = config.num_samples, range(config.seed, config.seed + config.num_sets)
    found = {seed: _score(scorer, sampling, num, seed, start) for seed in seeds}
    matched = {seed: one.matched for seed, one in found.items() if one.matched is not None}
    num_matched = scorer.num_matched(num)
    return SampleQuality(
        protocol=scorer.protocol(sampling, num, seeds),
        samples=SampleSets.from_scores(num, {seed: one.scores for seed, one in found.items()}),
        matched=None if num_matched is None else SampleSets.from_scores(num_matched, matched),
        baseline=scorer.baseline(num, start),
    )


def _score(scorer: Scorer, sampling: Sampling, num: int, seed: int, start: Start) -> ScoredSamples:
    x = stored_samples(scorer.model, sampling, num, seed, start)
    return scorer.score(x, sampling, seed, start)


def measure_sweep(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling, start: Start
) -> Sweep:
    """Score samples for every sampler, grid and number of evaluations, from the same noise.

    All points share the guidance of `sampling`. Takes the arguments of `measure_quality`.
    """
    num, seed = config.sweep_samples, config.seed
    points = []
    for one in _sweep_samplings(scorer, config, sampling):
        protocol = scorer.protocol(one, num, range(seed, seed + 1))
        found = _score(scorer, one, num, seed, _named(start, protocol))
        points.append(SweepPoint(protocol=protocol, scores=found.scores))
    return Sweep(
        points=tuple(points),
        num_samples=num,
        seed=seed,
        baseline=scorer.baseline(num, start),
        best=min(points, key=lambda point: point.scores[FRECHET_DISTANCE].value),
    )


def _named(start: Start, protocol: SamplingProtocol) -> Start:
    """Return a progress callback that prefixes each title with the settings of the sweep point."""
    line = f"{protocol.sampler_label}, {protocol.grid_label}"
    point = f"{line}, {protocol.num_evaluations} evaluations"
    return lambda what, total, unit: start(f"{point}: {what}", total, unit)


def _sweep_samplings(
    scorer: Scorer, config: EvaluationConfig, sampling: Sampling
) -> Iterator[Sampling]:
    """Yield the settings of each sweep point, with the most steps that the number of network
    evaluations allows.
    """
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
