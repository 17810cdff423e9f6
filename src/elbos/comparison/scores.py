"""Scores of one trained model, and curves of its training, as stored in RUN/scores.json.

Slow measurements are stored part by part in the run's `evaluation` folder, so that scoring a run
again under more weightings takes seconds.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.base.codec import digest, encode
from elbos.base.progress import Start, silent
from elbos.base.records import from_json, to_json
from elbos.comparison.experiment import Scoring
from elbos.comparison.objective_result import Density, LearningCurve, LevelCurve, Metric, metric_key
from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.likelihood import chosen_images, conditions, measure, summary
from elbos.evaluation.metrics import BITS_PER_DIM, SAMPLE_METRICS, leading_distance
from elbos.evaluation.quality import Scorer
from elbos.evaluation.samples import stored_samples
from elbos.evaluation.scores import Baseline, Scores
from elbos.runs.run import Run
from elbos.theory.weightings import Weighting
from elbos.training.config import Config
from elbos.training.data import to_unit
from elbos.training.machine import machine
from elbos.training.pictures import png
from elbos.validation.measurements import MIN_PILOT_SAMPLES

NUM_SHOWN = 20
_SAMPLER_TITLES = {"heun": "Heun", "ddim": "DDIM", "unipc": "UniPC"}
MAX_PILOT = 500  # images with 32 evaluations each, as many in total as in the rounds
FILE = "scores.json"
_FORMAT = 3  # version of the format: a change invalidates stored scores


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """Scores of one trained model.

    They include learning curves, and losses as functions of log-SNR.

    Attributes:
        condition: The condition of the network in the likelihood measurement.
        machine: Hardware and software versions.
        num_images: Test images whose likelihood was measured.
        losses: Loss under each weighting, by the weighting's repr, in nats per dimension.
        elbo, curve: Negative ELBO of data noised to each log-SNR; loss at each log-SNR.
        samples: Sample-quality scores by sampler; None for points, like the real-data baseline.
        num_compared: Samples used in metrics that depend on the number of samples.
        density: Evolution of an adaptive density; empty for fixed schedules.
        clipped: Share of steps with clipped gradients; None if unknown.
    """

    num_parameters: int
    data: str
    condition: str
    precision: str
    machine: Mapping[str, str]
    num_images: int
    bits_per_dim: float
    standard_error: float
    losses: Mapping[str, float]
    elbo: LevelCurve
    curve: LevelCurve
    samples: Mapping[str, Scores] | None
    baseline: Baseline | None = field(metadata={"json": "floor"})
    num_compared: int | None
    num_features: int | None
    learning: LearningCurve
    density: tuple[Density, ...]
    clipped: float | None

    @property
    def values(self) -> dict[str, float]:
        found = {BITS_PER_DIM.name: self.bits_per_dim}
        for sampler, scores in (self.samples or {}).items():
            found |= {metric_key(name, sampler): one.value for name, one in scores.values.items()}
        return found


def read_scores(
    path: Path, config: Config, scoring: Scoring, weightings: Iterable[str] = ()
) -> RunScores | None:
    """Return the stored scores of a trained model.

    None if they are missing, altered, or measured with other settings.
    """
    try:
        stored = files.read_json(path / FILE)
        if stored["digest"] != _digest(config, scoring, stored["scores"]):
            return None
        scores: RunScores = from_json(RunScores, stored["scores"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return scores if set(weightings) <= set(scores.losses) else None


def _digest(config: Config, scoring: Scoring, scores: Mapping[str, Any]) -> str:
    return digest([version("elbos"), _FORMAT, config.identity(), encode(scoring), scores])


def measure_scores(
    run: Run, scoring: Scoring, weightings: Iterable[Weighting], start: Start
) -> None:
    """Score a trained model and write scores.json.

    The loss is measured under several weightings. Earlier losses under other weightings stay. All
    processes that share the run call this function.
    """
    scores = RunScores(
        num_parameters=sum(p.numel() for p in run.network.parameters()),
        data=run.dataset.fingerprint()["name"],
        precision=run.config.precision,
        machine=machine(run.device),
        **_likelihood(run, scoring, weightings, start),
        **_samples(run, scoring, start),
        **_training(run),
    )
    if not run.processes.is_main:
        return
    if before := read_scores(run.directory.path, run.config, scoring):
        scores = replace(scores, losses={**before.losses, **scores.losses})
    content = to_json(scores)
    stored = {"digest": _digest(run.config, scoring, content), "scores": content}
    files.write(run.directory.path / FILE, json.dumps(stored, allow_nan=False).encode())


def _likelihood(
    run: Run, scoring: Scoring, weightings: Iterable[Weighting], start: Start
) -> dict[str, Any]:
    config = EvaluationConfig(
        num_images=min(scoring.num_images, len(run.dataset.test)),
        num_pilot_images=max(MIN_PILOT_SAMPLES, min(scoring.num_images // 8, MAX_PILOT)),
        ode=OdeConfig(num_images=0),
        num_samples=0,
        seed=run.config.seed,
    )
    images = chosen_images(run, config)
    *_, condition = conditions(run, run.dataset.test, images, silent)  # given labels, if any
    measured = measure(run, condition, config, start)
    bound = summary(measured)
    return {
        "condition": condition.title,
        "num_images": len(condition),
        "bits_per_dim": bound.bits_per_dim,
        "standard_error": bound.standard_error,
        "losses": {repr(w): measured.rounds.weighted(w).mean for w in weightings},
        "elbo": LevelCurve(logsnr=bound.elbo.logsnr, nats_per_dim=bound.elbo.nats_per_dim),
        "curve": LevelCurve(logsnr=bound.curve.logsnr, nats_per_dim=bound.curve.nats_per_dim),
    }


def _samples(run: Run, scoring: Scoring, start: Start) -> dict[str, Any]:
    num, seed = scoring.num_samples, run.config.seed
    if run.dataset.num_levels is None:
        return dict.fromkeys(("samples", "baseline", "num_compared", "num_features"))
    scorer = Scorer.load(run, scoring.extractor, start)
    samples = {}
    for name, sampling in scoring.samplings.items():
        known, matched = scorer.score(sampling, num, seed, start)
        # metrics that depend on the number of samples: of as many as the baseline has images
        samples[name] = Scores({**known.values, **(matched.values if matched else {})})
        x = stored_samples(run, sampling, num, seed, silent)
        if run.processes.is_main:
            shown = to_unit(x[:NUM_SHOWN], run.dataset.num_levels)
            run.directory.samples.mkdir(exist_ok=True)
            picture = png(shown, num_columns=NUM_SHOWN // 2)
            files.write(run.directory.samples / f"{name}.png", picture)
    return {
        "samples": samples,
        "baseline": scorer.baseline(num, start),
        "num_compared": scorer.num_matched(num) or num,
        "num_features": scorer.num_features,
    }


def _training(run: Run) -> dict[str, Any]:
    file = run.directory.path / "metrics.jsonl"
    learning, density, clipped = [], [], []
    for number, line in enumerate(files.read(file).splitlines(), 1):
        try:
            values = json.loads(line)
            if "val_nats" in values:
                learning.append((int(values["images"]), values["val_nats"] / math.log(2)))
            if "density" in values:
                p = tuple(float(p) for p in values["density"])
                density.append(Density(images=int(values["images"]), p=p))
            if "clipped" in values:
                clipped.append(float(values["clipped"]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{file} is damaged: delete its line {number}.") from error
    images, bits = zip(*learning, strict=True) if learning else ((), ())
    return {
        "learning": LearningCurve(images=images, bits_per_dim=bits),
        "density": tuple(density),
        "clipped": sum(clipped) / len(clipped) if clipped else None,
    }


def measured_metrics(scores: RunScores) -> tuple[Metric, ...]:
    """Return the metrics of a trained model.

    The main metrics, which are tested for significance, come first. Main metrics are bits/dim and
    the leading distance for each sampler.
    """
    bits = Metric(
        key=BITS_PER_DIM.name,
        title=BITS_PER_DIM.title,
        short=BITS_PER_DIM.short,
        is_lower_better=BITS_PER_DIM.is_lower_better,
        is_main=True,
        baseline=None,
    )
    if not scores.samples or scores.num_compared is None or scores.num_features is None:
        return (bits,)
    leading = leading_distance(scores.num_compared, scores.num_features)
    of_real = scores.baseline.scores.values if scores.baseline else {}
    of_samples = [
        Metric(
            key=metric_key(metric.name, sampler),
            title=f"{metric.title}, {_SAMPLER_TITLES.get(sampler, sampler)}",
            short=f"{metric.short}, {_SAMPLER_TITLES.get(sampler, sampler)}",
            is_lower_better=metric.is_lower_better,
            is_main=metric is leading,
            baseline=of_real[metric.name].value if metric.name in of_real else None,
        )
        for metric in SAMPLE_METRICS
        for sampler, known in scores.samples.items()
        if metric.name in known.values
    ]
    main = [metric for metric in of_samples if metric.is_main]
    return *main, bits, *(metric for metric in of_samples if not metric.is_main)
