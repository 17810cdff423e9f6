"""Comparison of training objectives: train each with every seed, score the models, and write a
report.

DIR/
    compare.json            the settings that all runs share, and the objectives
    runs/OBJECTIVE-SEED/    a run directory, with scores.json once the run is scored
    report.json, report.md, report.html

A directory belongs to one configuration and one way of scoring; objectives and seeds may be added.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from elbos.base import files
from elbos.base.checks import typed
from elbos.base.codec import decode, difference, digest, encode
from elbos.base.errors import Interrupted, printable, suggestion
from elbos.base.formats import read_object, write_object
from elbos.base.numbers import setting
from elbos.base.processes import local_device
from elbos.base.progress import LOGGER, begin, clock, progress
from elbos.comparison.executors import Executor, Key, Local, do_all
from elbos.comparison.experiment import Experiment, Scoring, shared_config
from elbos.comparison.job import Job
from elbos.comparison.result import Comparison, Curve, Failure, ObjectiveResult, Row
from elbos.comparison.scores import RunScores, measured_metrics
from elbos.comparison.variants import Variant
from elbos.evaluation.quality import REFERENCE_SPLIT
from elbos.evaluation.reference import reference
from elbos.theory.elbo import rising_intervals
from elbos.training.config import Config
from elbos.training.data.dataset import Dataset
from elbos.training.log import require_installed
from elbos.training.presets import PRESETS

NUM_WEIGHTS = 201  # points of the curves of weighting and density
SETTINGS = "compare.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a comparison that later calls in the same directory must share.

    `data` is a digest of the dataset; `features` is the name of the extractor, None for points.
    """

    config: Config
    scoring: Scoring
    data: str
    features: str | None
    objectives: dict[str, Variant]


@typed
def compare(
    objectives: Sequence[Variant | str],
    *,
    data: str | Config,
    seeds: int | Sequence[int] = 5,
    out: str | Path | None = None,
    scoring: Scoring | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Train and compare several objectives with the same seeds.

    The models are scored; the paired differences between objectives are returned. The same call
    resumes an interrupted comparison; a later call may add objectives and seeds. The result, which
    notes failed runs, is also stored in report.json.

    Args:
        objectives: Names of built-in objectives, such as "edm", and your own objectives as
            `Variant` or as text, "mine=V(),Adaptive(),Sigmoid(k=3)".
        data: A preset's name, or a configuration: data, network and training of all objectives.
        seeds: The seeds, or their number. Confidence intervals of five seeds are 1.7 times as
            narrow as those of three; a single seed gives no intervals.
        out: The comparison's directory. Default: runs/compare-PRESET, or runs/compare.
        scoring: Settings of the scoring.
        executor: Executor of the runs. Default: processes of this machine.

    Raises:
        ValueError: If an objective cannot be trained, the directory belongs to another comparison,
            or data or features are unavailable.
        Interrupted: On Ctrl-C.
        OSError: If a file cannot be written.

    Examples:
        >>> elbos.compare(["iddpm", "edm"], data="digits", seeds=3)  # doctest: +SKIP
    """
    if isinstance(data, str) and data not in PRESETS:
        raise ValueError(f"There is no preset {data!r}: {suggestion(data, PRESETS)}")
    experiment = Experiment(
        config=PRESETS[data] if isinstance(data, str) else data,
        scoring=Scoring() if scoring is None else scoring,
        objectives=tuple(Variant.parse(o) if isinstance(o, str) else o for o in objectives),
        seeds=tuple(seeds if isinstance(seeds, Sequence) else range(seeds)),
    )
    name = f"compare-{data}" if isinstance(data, str) else "compare"
    path = Path(out) if out is not None else Path("runs") / name
    return run_experiment(experiment, path, executor or Local())


def run_experiment(
    experiment: Experiment, path: Path, executor: Executor, *, command: str | None = None
) -> Comparison:
    """Run a comparison of training objectives.

    Models that are not scored yet are trained and scored; the report is written, and the results
    are returned. Several commands may share the work. The report shows the command line.
    """
    dataset = experiment.config.data.load()
    _require_trainable(experiment, dataset)
    extractor = None
    if dataset.num_levels is not None:
        extractor = experiment.scoring.extractor.load(local_device())
    features = extractor.name if extractor else None
    experiment = _settled(experiment, path, executor, digest(dataset.fingerprint()), features)
    if extractor:  # compute once, with all cores, and fail before training
        with progress(Console(stderr=True)) as bar:
            reference(dataset, REFERENCE_SPLIT, extractor, partial(begin, bar))
    jobs = {  # all objectives with one seed, then with the next
        (objective.name, seed): Job(
            path=(path / "runs" / f"{objective.name}-{seed}").absolute(),
            config=experiment.run_config(objective, seed),
            scoring=experiment.scoring,
            weightings=experiment.weightings,
        )
        for seed in experiment.seeds
        for objective in experiment.objectives
    }
    reasons = _done(jobs, executor, f"{printable(str(path))}, {experiment.config.precision}")
    comparison = summarize(
        experiment,
        {key: scores for key, job in jobs.items() if (scores := job.scores())},
        reasons,
        name=printable(str(path)),  # the path may not be valid text
        command=command and printable(command),
        features=features,
        num_levels=dataset.num_levels,
    )
    shown = f"samples/{next(reversed(experiment.scoring.samplings), None)}.png"
    pictures = {
        o.name: jobs[o.name, experiment.seeds[0]].path / shown for o in comparison.objectives
    }
    samples = {name: files.read(file) for name, file in pictures.items() if file.exists()}
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False)
    files.write(path / "report.json", text.encode())
    files.write(path / "report.md", comparison.to_markdown().encode())
    comparison.to_html(path / "report.html", samples=samples)
    return comparison


def _require_trainable(experiment: Experiment, dataset: Dataset) -> None:
    config = experiment.run_config(experiment.objectives[0], experiment.seeds[0])
    require_installed(config.output.trackers)
    config.build_network(dataset.spec)
    for sampling in experiment.scoring.samplings.values():
        config.require_guidable(sampling, dataset.spec)
        sampling.logsnrs(config.schedule)  # raises for an invalid grid


def _settled(
    experiment: Experiment, path: Path, executor: Executor, data: str, features: str | None
) -> Experiment:
    """Return the experiment as all commands in its directory run it, and store its settings.

    Raises:
        ValueError: If the directory belongs to another comparison.
    """
    files.require_folder_of(path, SETTINGS, "--out")
    path.mkdir(parents=True, exist_ok=True)
    with files.lock(path / ".lock"):
        files.remove_leftovers(path, min_age=0)
        config, stored = experiment.config, stored_settings(path)
        if config.precision == "auto":
            precision = stored.config.precision if stored else executor.precision()
            config = replace(config, precision=precision)
        experiment = replace(experiment, config=shared_config(config))
        settings = Settings(
            config=experiment.config,
            scoring=experiment.scoring,
            data=data,
            features=features,
            objectives={objective.name: objective for objective in experiment.objectives},
        )
        if stored:
            settings = _extended(settings, stored, path)
        write_object(path / SETTINGS, encode(settings))
        (path / "runs").mkdir(exist_ok=True)  # `_run_here` fails on machines that do not see it
    return experiment


def stored_settings(path: Path) -> Settings | None:
    """Return the stored settings of a comparison, or None if the directory is new."""
    file = path / SETTINGS
    settings: Settings | None = None
    if file.exists():
        settings = decode(Settings, read_object(file), str(file))
    return settings


def _extended(settings: Settings, stored: Settings, path: Path) -> Settings:
    """Return settings with the objectives of earlier commands, too; nothing else may differ."""
    objectives = {**stored.objectives, **settings.objectives}
    before = {name: objectives[name] for name in stored.objectives}
    if changed := difference(encode(stored), encode(replace(settings, objectives=before))):
        raise ValueError(f"{path} holds a comparison with {changed}: name another one with --out.")
    return replace(settings, objectives=objectives)


def _done(jobs: Mapping[Key, Job], executor: Executor, title: str) -> dict[Key, str]:
    """Execute the jobs that have no scores yet, and return the reasons of failures."""
    left = {key: job for key, job in jobs.items() if job.scores() is None}
    num_done = f"{len(jobs) - len(left)} of {len(jobs)} runs done"
    LOGGER.info("%s", f"{title}: {num_done}, {executor.num_workers} at once")
    started, num_ended = time.monotonic(), 0
    try:
        with progress(Console(stderr=True)) as bar:
            advance = begin(bar, "training", len(jobs), "runs")
            advance(len(jobs) - len(left), True)

            def report_end(key: Key, reason: str | None) -> None:
                nonlocal num_ended
                advance(1)
                num_ended += 1
                outcome = f"failed, {reason.rstrip('.')}" if reason else "done"
                seconds = (time.monotonic() - started) / num_ended * (len(left) - num_ended)
                remaining = f"{num_ended} of {len(left)}, {clock(seconds)} left"
                LOGGER.info("%s", f"{jobs[key].path.name}: {outcome} ({remaining})")

            return do_all(left, executor, report_end)
    except KeyboardInterrupt:
        num = sum(job.scores() is not None for job in jobs.values())
        raise Interrupted(
            f"Stopped with {num} of {len(jobs)} runs done: the same command resumes from there."
        ) from None


def summarize(
    experiment: Experiment,
    scores: Mapping[Key, RunScores],
    reasons: Mapping[Key, str],
    *,
    name: str,
    command: str | None = None,
    features: str | None = None,
    num_levels: int | None = None,
) -> Comparison:
    """Collect the scores of all runs in a table, and curves averaged over seeds."""
    scoring, config = experiment.scoring, experiment.config
    some = next(iter(scores.values()), None)
    by_objective = {
        objective.name: {
            s: scores[objective.name, s] for s in experiment.seeds if (objective.name, s) in scores
        }
        for objective in experiment.objectives
    }
    return Comparison(
        name=name,
        command=command,
        data=some.data if some else None,
        num_test_images=some.num_images if some else None,
        num_samples=scoring.num_samples if some and some.samplers else None,
        num_baseline=some.num_baseline if some else None,
        num_images=config.num_images,
        num_parameters=some.num_parameters if some else None,
        seeds=experiment.seeds,
        logsnr_min=config.schedule.logsnr_min,
        logsnr_max=config.schedule.logsnr_max,
        metrics=measured_metrics(some, scoring.num_samples) if some else (),
        objectives=tuple(
            _objective(objective, experiment, by_objective[objective.name], reasons)
            for objective in experiment.objectives
        ),
        rows=tuple(
            Row(
                objective=objective,
                seed=seed,
                metric=key,
                value=metric.value,
                error=metric.standard_error,
            )
            for objective, runs in by_objective.items()
            for seed, run in runs.items()
            for key, metric in run.metrics.items()
        ),
        protocol=_protocol(experiment, list(scores.values()), features) if some else {},
        num_levels=num_levels,
        long_warmup=config.long_warmup,
    )


def _protocol(
    experiment: Experiment, runs: Sequence[RunScores], features: str | None
) -> dict[str, str]:
    scoring, config = experiment.scoring, experiment.config
    shared = ("network", "optimizer", "batch_size", "precision")
    protocol = {name: setting(getattr(config, name)) for name in shared}
    protocol["likelihood"] = f"variational bound of test images, {runs[0].condition}"
    protocol |= {f"{name} sampler": repr(scoring.samplings[name]) for name in runs[0].samplers}
    if features and runs[0].samplers:
        protocol["features"] = f"{features}, against {REFERENCE_SPLIT} images"
    for name in ("device", "torch", "elbos"):
        protocol[name] = ", ".join(sorted({run.machine[name] for run in runs}))
    return protocol


def _objective(
    objective: Variant,
    experiment: Experiment,
    runs: Mapping[int, RunScores],
    reasons: Mapping[Key, str],
) -> ObjectiveResult:
    low, high = experiment.config.schedule.logsnr_min, experiment.config.schedule.logsnr_max
    levels = torch.linspace(low, high, NUM_WEIGHTS, dtype=torch.float64)
    schedule, w, p = experiment.run_config(objective, 0).schedule, objective.weighting(levels), None
    density = next(iter(runs.values())).density if runs else None
    if not schedule.state_dict():
        p = _curve(levels, schedule.density(levels))
    elif density:
        middle = low + (high - low) * (np.arange(len(density)) + 0.5) / len(density)
        p = _curve(levels, np.interp(levels.numpy(), middle, density))
    learning = [run.learning for run in runs.values() if run.learning.x]
    return ObjectiveResult(
        name=objective.name,
        parameterization=repr(objective.parameterization),
        schedule=repr(schedule),
        weighting=repr(objective.weighting),
        rising=tuple(rising_intervals(objective.weighting, low, high)),
        failures=tuple(
            Failure(seed=seed, reason=reasons.get((objective.name, seed), "it is not done yet"))
            for seed in experiment.seeds
            if seed not in runs
        ),
        w=_curve(levels, w / w.max()),
        p=p,
        elbo=_mean([run.elbo for run in runs.values()]),
        loss=_mean([run.loss for run in runs.values()]),
        learning=_mean([curve for curve in learning if curve.x == learning[0].x]),
    )


def _mean(curves: Sequence[Curve]) -> Curve | None:
    if not curves:
        return None
    return _curve(curves[0].x, np.mean([np.array(c.y, dtype=float) for c in curves], axis=0))


def _curve(x: Sequence[float] | torch.Tensor, y: Sequence[float] | torch.Tensor) -> Curve:
    """Return a curve of numbers with six digits, and None for NaN."""
    levels, values = (np.asarray(numbers, dtype=float).tolist() for numbers in (x, y))
    return Curve(
        x=tuple(float(f"{level:.6g}") for level in levels),
        y=tuple(None if math.isnan(value) else float(f"{value:.6g}") for value in values),
    )
