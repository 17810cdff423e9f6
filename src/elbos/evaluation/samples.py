"""The quality of a run's samples: drawn, scored against the training images, set by set."""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from elbos.checks import require_positive
from elbos.evaluation.features import Extractor, Lite0, Network
from elbos.evaluation.quality import MAX_MANIFOLD, MIN_IMAGES, require_finite_samples, scores
from elbos.evaluation.reference import Reference, reference
from elbos.evaluation.stores import data_store, run_store
from elbos.progress import Start
from elbos.runs.store import Store
from elbos.training.data import to_levels
from elbos.training.randomness import generator
from elbos.training.sampling import Sampling, num_batches, sample
from elbos.training.trained import TrainedRun

SCORES = (
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_se",
    "precision",
    "recall",
    "inception_score",
    "classifier_score",
)
"""What is reported of `quality.scores`."""

OF_ANY_NUMBER = ("kernel_distance", "kernel_distance_se")
"""Those whose expectation does not depend on the number of samples."""

REFERENCE_SPLIT = "train+val"
UNKNOWN: dict[str, float | None] = dict.fromkeys(SCORES)
# A higher number forgets what is stored.
_ESTIMATORS = 2  # scores; 1: kernel distances of ten cuts
_SAMPLERS = 2  # samples; 1: UniPC and DPM-Solver++(3M) of full order in the last steps


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Sample quality."""

    num_samples: int = 10_000
    """Samples in a set; 0 leaves sample quality out. Distances depend on it: compare equals."""

    num_sets: int = 1
    """Sets, of as many seeds. Several give a mean and a standard deviation."""

    extractor: Network = field(default_factory=Lite0)
    """The network whose features are compared."""

    sweep: bool = False
    """Also measure quality by sampler, grid and number of evaluations."""

    sweep_evaluations: tuple[int, ...] = (8, 16, 32, 64)
    """Network evaluations per sample, in the sweep."""

    sweep_samples: int = 2_000
    """Samples of each point of the sweep."""

    def __post_init__(self) -> None:
        require_positive(num_sets=self.num_sets)
        if self.num_samples != 0 and self.num_samples < MIN_IMAGES:
            raise ValueError(
                f"num_samples is {self.num_samples}: give at least {MIN_IMAGES}, or 0 to leave "
                "quality out."
            )
        if self.sweep and self.num_samples == 0:
            raise ValueError("num_samples is 0, which leaves the sweep out, too: give more.")
        if self.sweep_samples < MIN_IMAGES or min(self.sweep_evaluations, default=0) < 4:
            raise ValueError(
                f"A sweep takes at least {MIN_IMAGES} samples, and 4 evaluations for each."
            )


@dataclass(frozen=True)
class Judge:
    """What samples of a run are compared with.

    Args:
        run: The run.
        extractor: The network of the features.
        reference: The features of its training images.
    """

    run: TrainedRun
    extractor: Extractor
    reference: Reference

    @classmethod
    def of(cls, run: TrainedRun, network: Network, start: Start) -> "Judge":
        """With the reference from the cache, or computed."""
        extractor = network.load(run.device)
        return cls(run, extractor, reference(run.dataset, REFERENCE_SPLIT, extractor, start))

    @cached_property
    def _digest(self) -> str:
        """What tells this extractor from one that was changed under the same name."""
        return hashlib.sha256(self.reference.rows.numpy().tobytes()).hexdigest()

    @property
    def _key(self) -> dict[str, Any]:
        """What tells it from others."""
        return {"extractor": [self.extractor.name, self._digest], "estimators": _ESTIMATORS}

    @property
    def num_features(self) -> int:
        """The number of dimensions of the features."""
        return self.reference.rows.shape[1]

    def num_matched(self, num: int) -> int | None:
        """How many of `num` samples are compared with the real-data baseline, where these are not
        all: as many as there are test images, if they are enough for a baseline.
        """
        num_test = len(self.run.dataset.test)
        return num_test if MIN_IMAGES <= num_test < num else None

    def _scores(
        self,
        x: UInt8[Tensor, "n c h w"],
        what: str,
        start: Start,
        store: Store,
        num_matched: int | None = None,
    ) -> dict[str, Any]:
        """The scores of some images, which the store keeps, and of the first of them alone."""

        def compute() -> dict[str, Tensor]:
            found = scores(
                x,
                self.run.dataset,
                self.reference,
                self.extractor,
                num_matched=num_matched,
                on_images=start(f"features of {what}", len(x), "images"),
            )
            return {"all": _as_tensor(found), "matched": _as_tensor(found["matched"] or {})}

        found = store.part("all", compute)
        matched = None if num_matched is None else _from_tensor(found["matched"])
        return {**_from_tensor(found["all"]), "matched": matched}

    def of_samples(
        self, x: UInt8[Tensor, "n c h w"], seed: int, sampling: Sampling, start: Start
    ) -> dict[str, Any]:
        """The scores of samples of the run; `matched`, those of as many as the baseline has."""
        num_matched = self.num_matched(len(x))
        key = {"num": len(x), "matched": num_matched, "sampling": sampling, "seed": seed}
        store = run_store(self.run, "scores", samplers=_SAMPLERS, **self._key, **key)
        return self._scores(x, f"seed {seed}", start, store, num_matched)

    def baseline(self, num: int, start: Start) -> dict[str, Any]:
        """The scores of at most `num` test images, what samples as good as the data would have; or
        None, where there are too few. They are computed once for all runs on the same data.
        """
        test = self.run.dataset.test.x
        x = test[torch.randperm(len(test), generator=generator(0))[:num]]
        found = UNKNOWN
        if len(x) >= MIN_IMAGES:
            store = data_store(self.run, "baselines", num=len(x), **self._key)
            found = self._scores(x, "test images", start, store)
            del found["matched"]
        return {"split": "test", "num": len(x), **found}


def measure_quality(
    judge: Judge, quality: Quality, sampling: Sampling, seed: int, start: Start
) -> dict[str, Any]:
    """Scores of some sets of samples, and of real images for scale.

    Args:
        judge: What samples are compared with.
        quality: What to measure.
        sampling: How to draw.
        seed: Seed of the first set.
        start: Told of each piece of work.

    Raises:
        ValueError: If samples are not finite, or too few for their scores.
    """
    seeds = range(seed, seed + quality.num_sets)
    sets = [
        {"seed": number, **score_set(judge, sampling, quality.num_samples, number, start)}
        for number in seeds
    ]
    num_matched = judge.num_matched(quality.num_samples)
    matched = [{"seed": one["seed"], **(one.pop("matched") or {})} for one in sets]
    return {
        "protocol": {
            **protocol(sampling, judge),
            "num_samples": quality.num_samples,
            "seeds": list(seeds),
        },
        "sets": sets,
        **_mean_and_std(sets),
        "matched": None
        if num_matched is None
        else {"num": num_matched, "sets": matched, **_mean_and_std(matched)},
        "baseline": judge.baseline(quality.num_samples, start),
    }


def protocol(sampling: Sampling, judge: Judge) -> dict[str, Any]:
    """How samples were drawn, and what they are compared with."""
    trained = judge.run.config.schedule
    guided = [
        max(sampling.guidance_min, trained.logsnr_min),
        min(sampling.guidance_max, trained.logsnr_max),
    ]
    return {
        "extractor": judge.extractor.name,
        "reference": f"{judge.reference.statistics.num:,} {judge.reference.split} images",
        "num_features": judge.num_features,
        "kernel_distance": (
            f"unbiased, all samples against {len(judge.reference.rows):,} of the reference; its "
            "standard error by the jackknife over samples, for this reference"
        ),
        "precision_recall": f"equal numbers of samples and of the reference, {MAX_MANIFOLD:,} at "
        "most",
        "sampler": repr(sampling.sampler),
        "grid": repr(sampling.grid_within(trained)),
        "num_steps": sampling.num_steps,
        "num_evaluations": sampling.num_evaluations(trained),
        "guidance": sampling.guidance,
        "guidance_logsnr": None if sampling.guidance == 1 else guided,
    }


def score_set(
    judge: Judge, sampling: Sampling, num: int, seed: int, start: Start
) -> dict[str, Any]:
    """The scores of a set of samples; `matched`, those of as many as the baseline has."""
    x = draw_set(judge.run, sampling, num, seed, start)
    return judge.of_samples(x, seed, sampling, start)


def at_equal_number(found: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores of a set of samples that can be held against the real-data baseline: those of as
    many samples, and the kernel distance of all, which does not depend on their number.
    """
    matched = found["matched"] or found
    return {name: (found if name in OF_ANY_NUMBER else matched)[name] for name in SCORES}


def draw_set(
    run: TrainedRun, sampling: Sampling, num: int, seed: int, start: Start
) -> UInt8[Tensor, "n c h w"]:
    """The samples of `elbos sample --num NUM --seed SEED`, as levels; kept in the run's directory.

    Raises:
        ValueError: If some are not finite.
    """
    store = run_store(run, "samples", samplers=_SAMPLERS, sampling=sampling, num=num, seed=seed)
    labels = torch.arange(num) % (run.dataset.num_classes or 1) if run.has_labels else None
    advance = start(f"samples of seed {seed}", num, "images")

    def draw(batch: int) -> dict[str, Tensor]:
        with run.autocast():
            (x,) = sample(
                run.denoiser,
                sampling,
                run.config.schedule,
                num=num,
                shape=run.dataset.shape,
                seed=seed,
                device=run.device,
                cond=labels,
                batches=[batch],
            )
        require_finite_samples(x)
        return {"x": to_levels(x, run.dataset.num_levels)}

    parts = []
    for batch in range(num_batches(num)):
        is_kept = f"{batch:05d}" in store
        parts.append(store.part(f"{batch:05d}", partial(draw, batch))["x"])
        advance(len(parts[-1]), is_kept)
    return torch.cat(parts)


def _mean_and_std(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds; a single set has no standard deviation."""
    columns = {name: [row[name] for row in sets] for name in SCORES if sets[0][name] is not None}
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    if len(sets) == 1:
        return {"mean": means, "std": None}
    return {
        "mean": means,
        "std": {name: statistics.stdev(values) for name, values in columns.items()},
    }


def _as_tensor(found: Mapping[str, Any]) -> Float64[Tensor, " k"]:
    """The reported scores, NaN where there is none."""
    return torch.tensor([found.get(name, math.nan) for name in SCORES], dtype=torch.float64)


def _from_tensor(values: Float64[Tensor, " k"]) -> dict[str, float | None]:
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(SCORES, values.tolist(), strict=True)
    }
