"""Scores of one trained model, and curves of its training, as stored in RUN/scores.json.

Slow measurements are stored part by part in the run's `evaluation` folder, so that scoring a run
again under more weightings takes seconds.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.base.codec import decode, digest, encode
from elbos.base.progress import Start
from elbos.comparison.experiment import Scoring
from elbos.comparison.result import BITS_PER_DIM, Curve, Metric, loss_key
from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.likelihood import conditions, measure
from elbos.evaluation.metrics import SAMPLE_METRICS, Value, leading_distance
from elbos.evaluation.quality import Scorer
from elbos.runs.run import Run
from elbos.theory.weightings import Weighting
from elbos.training.config import Config
from elbos.training.execution import machine
from elbos.validation.measurements import MIN_PILOT_SAMPLES

NUM_SHOWN = 20
MAX_PILOT = 500  # images with 32 evaluations each, as many in total as in the rounds
FILE = "scores.json"
_FORMAT = 7  # version of the format: a change invalidates stored scores


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """Scores of one trained model, with learning curves and losses as functions of log-SNR.

    Attributes:
        condition: The condition of the network in the likelihood measurement.
        started: Start of the training in UTC, as `2026-12-01T05:10:00+00:00`.
        num_images: Test images whose likelihood was measured.
        metrics: Metrics of the model, and its loss under each weighting in nats per dimension.
        baseline: Metrics of `num_baseline` real test images; None for points.
        elbo, loss, learning: As averaged in `ObjectiveResult`.
        density: Adaptive density at the end, in equal bins of log-SNR; None for fixed schedules.
    """

    num_parameters: int
    data: str
    condition: str
    machine: Mapping[str, str]
    started: str
    num_images: int
    metrics: Mapping[str, Value]
    samplers: tuple[str, ...]
    baseline: Mapping[str, Value]
    num_baseline: int | None
    num_features: int | None
    elbo: Curve
    loss: Curve
    learning: Curve
    density: tuple[float, ...] | None


def metric_key(metric: str, sampler: str) -> str:
    """Return the key of a metric of samples, such as "frechet_heun" for the sampler "heun"."""
    return f"{metric.removesuffix('_distance')}_{sampler}"


def read_scores(
    path: Path, config: Config, scoring: Scoring, weightings: Iterable[str] = ()
) -> RunScores | None:
    """Return the stored scores of a model; None if missing, altered, or of other settings."""
    try:
        stored = files.read_value(path / FILE)
        if stored["digest"] != _digest(config, scoring, stored["scores"]):
            return None
        scores: RunScores = decode(RunScores, stored["scores"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return scores if set(map(loss_key, weightings)) <= set(scores.metrics) else None


def _digest(config: Config, scoring: Scoring, scores: Mapping[str, Any]) -> str:
    return digest([version("elbos"), _FORMAT, config.identity(), encode(scoring), scores])


def measure_scores(
    run: Run, scoring: Scoring, weightings: Iterable[Weighting], start: Start
) -> None:
    """Score a trained model and write scores.json.

    The loss is measured under several weightings. Earlier losses under other weightings stay. All
    processes that share the run call this function.
    """
    config = EvaluationConfig(
        num_images=min(scoring.num_images, len(run.dataset.test)),
        num_pilot_images=max(MIN_PILOT_SAMPLES, min(scoring.num_images // 8, MAX_PILOT)),
        ode=OdeConfig(num_images=0),
        split="test",
        seed=run.config.seed,
    )
    *_, (condition, images) = conditions(run, config).items()  # given labels, if any
    bound = measure(run, condition, images, config, start)
    assert bound.rounds is not None
    metrics = {BITS_PER_DIM.key: Value(bound.bits_per_dim, bound.standard_error)}
    for weighting in weightings:
        loss = bound.rounds.weighted(weighting)
        metrics[loss_key(repr(weighting))] = Value(loss.mean, loss.standard_error)
    is_of_pixels, num, seed = run.dataset.num_levels is not None, scoring.num_samples, config.seed
    scorer = Scorer.load(run, scoring.extractor, start) if is_of_pixels else None
    for name, sampling in scoring.samplings.items() if scorer else ():
        assert scorer is not None
        quality = scorer.score(sampling, num, seed, start)
        metrics |= {metric_key(key, name): value for key, value in quality.items()}
        picture = scorer.picture(sampling, num, seed, NUM_SHOWN, NUM_SHOWN // 2)
        if run.processes.is_main:
            run.directory.samples.mkdir(exist_ok=True)
            files.write(run.directory.samples / f"{name}.png", picture)
    baseline, num_baseline = scorer.baseline(num, start) if scorer else ({}, None)
    start_time = (run.directory.path / "data.json").stat().st_mtime  # written once
    log = files.read(run.directory.path / "metrics.jsonl")
    lines = [json.loads(line) for line in log.splitlines()]
    validations = [line for line in lines if "validation/bits_per_dim" in line]
    densities = [line["density"] for line in lines if "density" in line]
    scores = RunScores(
        num_parameters=sum(p.numel() for p in run.network.parameters()),
        data=run.dataset.fingerprint()["name"],
        condition=condition.replace("_", " "),
        machine=machine(run.device),
        started=datetime.fromtimestamp(start_time, UTC).isoformat(timespec="seconds"),
        num_images=len(images),
        metrics=metrics,
        samplers=tuple(scoring.samplings) if scorer else (),
        baseline=baseline,
        num_baseline=num_baseline,
        num_features=scorer.reference.rows.shape[1] if scorer else None,
        elbo=Curve(x=bound.elbo.logsnr, y=bound.elbo.nats_per_dim),
        loss=Curve(x=bound.curve.logsnr, y=bound.curve.nats_per_dim),
        learning=Curve(
            x=tuple(int(line["images"]) for line in validations),
            y=tuple(line["validation/bits_per_dim"] for line in validations),
        ),
        density=tuple(map(float, densities[-1])) if densities else None,
    )
    if not run.processes.is_main:
        return
    if before := read_scores(run.directory.path, run.config, scoring):
        scores = replace(scores, metrics={**before.metrics, **scores.metrics})
    content = json.loads(json.dumps(encode(scores, has_types=False)))
    stored = {"digest": _digest(run.config, scoring, content), "scores": content}
    files.write(run.directory.path / FILE, json.dumps(stored, allow_nan=False).encode())


def measured_metrics(scores: RunScores, num_samples: int) -> tuple[Metric, ...]:
    """Describe the metrics that were measured of a trained model: titles, direction, baseline.

    The main metrics come first, which are tested for significance: the leading distance for each
    sampler, and bits/dim.
    """
    if scores.num_baseline is None or scores.num_features is None:
        return (BITS_PER_DIM,)
    # As many samples as test images: the Fréchet distance may then be mostly bias.
    leading = leading_distance(min(num_samples, scores.num_baseline), scores.num_features)
    of_samples = [
        Metric(
            key=metric_key(metric.name, sampler),
            title=f"{metric.title}, {sampler}",
            short=f"{metric.short}, {sampler}",
            is_lower_better=metric.is_lower_better,
            is_main=metric is leading,
            baseline=real.value if (real := scores.baseline.get(metric.name)) else None,
        )
        for metric in SAMPLE_METRICS
        for sampler in scores.samplers
        if metric_key(metric.name, sampler) in scores.metrics
    ]
    main = [metric for metric in of_samples if metric.is_main]
    return *main, BITS_PER_DIM, *(metric for metric in of_samples if not metric.is_main)
