"""Comparison of training objectives: train each with every seed, score the models, and write a
report.
"""

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from elbos.base import files
from elbos.base.checks import require_finite, require_positive, typed
from elbos.base.codec import digest
from elbos.base.errors import Interrupted, printable, suggestion
from elbos.base.processes import local_device
from elbos.base.progress import LOGGER, begin, clock, progress
from elbos.comparison.directory import ComparisonDirectory, Stored
from elbos.comparison.executors import Executor, Key, Local, do_all
from elbos.comparison.experiment import Experiment, Scoring, shared_config
from elbos.comparison.job import Job
from elbos.comparison.objective_result import Failure
from elbos.comparison.result import Comparison
from elbos.comparison.summary import summarize
from elbos.comparison.timing import hardware, resolved
from elbos.comparison.variants import Variant
from elbos.evaluation.quality import REFERENCE_SPLIT
from elbos.evaluation.reference import reference
from elbos.training.config import Config
from elbos.training.data import Dataset
from elbos.training.monitor import require_installed
from elbos.training.presets import PRESETS
from elbos.training.state import build_network, require_guidable


@typed
def compare(
    objectives: Sequence[Variant | str],
    *,
    data: str | Config,
    seeds: int | Sequence[int] = 5,
    out: str | Path | None = None,
    scoring: Scoring | None = None,
    minutes: float | None = None,
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
        minutes: Training time of a run, which determines the number of training images. Default:
            the configuration's number of images.
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
    if isinstance(objectives, str) or not isinstance(objectives, Sequence):
        raise ValueError(f"objectives is {objectives!r}: give a list of them.")
    if not isinstance(seeds, Sequence):
        if seeds < 1:
            raise ValueError(f"seeds is {seeds!r}: give their number, or a list of whole numbers.")
        seeds = range(seeds)
    experiment = Experiment(
        config=PRESETS[data] if isinstance(data, str) else data,
        scoring=Scoring() if scoring is None else scoring,
        objectives=tuple(Variant.parse(o) if isinstance(o, str) else o for o in objectives),
        seeds=tuple(seeds),
    )
    name = f"compare-{data}" if isinstance(data, str) else "compare"
    path = Path(out) if out is not None else Path("runs") / name
    return run_experiment(experiment, path, executor or Local(), minutes=minutes)


def run_experiment(
    experiment: Experiment,
    path: Path,
    executor: Executor,
    *,
    minutes: float | None = None,
    command: str | None = None,
) -> Comparison:
    """Run a comparison of training objectives.

    Models that are not scored yet are trained and scored; the report is written, and the results
    are returned. Several commands may share the work. The report shows the command line.
    """
    directory = ComparisonDirectory(path)
    if minutes is not None:
        require_positive(minutes=minutes)
        require_finite(minutes, "minutes")
    dataset = experiment.config.data.load()
    config = experiment.run_config(experiment.objectives[0], experiment.seeds[0])
    require_installed(config.output.trackers)
    network = build_network(config, dataset.spec, torch.device("cpu"))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    for sampling in experiment.scoring.samplings.values():
        require_guidable(config, dataset.spec, sampling)
        sampling.logsnrs(config.schedule)  # raises for an invalid grid
    extractor = None
    if dataset.num_levels is not None:
        extractor = experiment.scoring.extractor.load(local_device())
    features = extractor.name if extractor else None
    is_new = directory.stored() is None
    experiment = _claimed(experiment, directory, dataset, features, minutes, executor)
    jobs = {  # all objectives with one seed, then with the next
        (one.name, seed): Job.from_experiment(
            experiment, directory.run(one, seed).absolute(), one, seed
        )
        for seed in experiment.seeds
        for one in experiment.objectives
    }
    left = {key: job for key, job in jobs.items() if job.scores() is None}
    if left:
        machine = executor.call(hardware, next(iter(left.values())).config)
        LOGGER.info(
            "%s",
            f"{machine}, {num_parameters:,} parameters, {printable(str(path))}: "
            f"{'new' if is_new else 'resumed'}, {len(jobs) - len(left)} of {len(jobs)} runs "
            f"done, {executor.num_workers} at once",
        )
        if experiment.config.long_warmup:
            LOGGER.info("%s", f"{experiment.config.long_warmup} (--optimizer.warmup-images)")
    try:
        if extractor:  # compute once, with all cores, and fail before training
            with progress(Console(stderr=True)) as bar:
                reference(dataset, REFERENCE_SPLIT, extractor, partial(begin, bar))
        failures = do_all(left, executor, _reporter(jobs, left))
    except KeyboardInterrupt:
        done = [seed for (_, seed), job in jobs.items() if job.scores() is not None]
        num = len(experiment.objectives)
        complete = [str(seed) for seed in experiment.seeds if done.count(seed) == num]
        early = f", and --seeds {' '.join(complete)} reports on these" if complete else ""
        raise Interrupted(
            f"Stopped with {len(done)} of {len(jobs)} runs done: the same command resumes from "
            f"there{early}."
        ) from None
    about = {
        "command": command and printable(command),
        "features": features,
        "num_levels": dataset.num_levels,
    }
    return _report(experiment, directory, jobs, failures, about)


def _reporter(
    jobs: Mapping[Key, Job], left: Mapping[Key, Job]
) -> Callable[[Key, Failure | None], None]:
    start, ended = time.monotonic(), itertools.count(1)

    def on_end(key: Key, failure: Failure | None) -> None:
        num = next(ended)
        num_left = len(left) - num
        seconds = (time.monotonic() - start) / num * num_left
        what = f"failed, {failure.reason.rstrip('.')}" if failure else "done"
        LOGGER.info(
            "%s",
            f"{jobs[key].path.name}: {what}; {len(jobs) - num_left} of {len(jobs)} runs"
            + (f"; about {clock(seconds)} left" if num_left else ""),
        )

    return on_end


def _claimed(
    experiment: Experiment,
    directory: ComparisonDirectory,
    dataset: Dataset,
    features: str | None,
    minutes: float | None,
    executor: Executor,
) -> Experiment:
    with directory.lock():
        config = experiment.config
        if stored := directory.stored():
            chosen = stored.config
        else:
            first = experiment.objectives[0].config(config)
            chosen = executor.call(
                resolved, first, minutes, executor.num_threads, executor.num_processes
            )
        if config.precision == "auto":
            config = replace(config, precision=chosen.precision)
        if minutes is not None:
            config = replace(config, num_images=chosen.num_images)
        experiment = replace(experiment, config=shared_config(config))
        wanted = Stored(
            minutes=minutes,
            config=experiment.config,
            scoring=experiment.scoring,
            data=digest(dataset.fingerprint()),
            features=features,
        )
        directory.claim(wanted)
        directory.require_same_objectives(experiment)
    return experiment


def _report(
    experiment: Experiment,
    directory: ComparisonDirectory,
    jobs: Mapping[Key, Job],
    failures: Mapping[Key, Failure],
    about: dict[str, Any],
) -> Comparison:
    comparison = summarize(
        experiment,
        {key: scores for key, job in jobs.items() if (scores := job.scores())},
        failures,
        name=printable(str(directory.path)),  # the path may not be valid text
        **about,
    )
    samples = {}
    for sampler in list(experiment.scoring.samplings)[-1:]:
        for (name, seed), job in jobs.items():
            picture = job.path / "samples" / f"{sampler}.png"
            if seed == experiment.seeds[0] and picture.exists():
                samples[name] = files.read(picture)
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False)
    files.write(directory.path / "report.json", text.encode())
    files.write(directory.path / "report.md", comparison.to_markdown().encode())
    comparison.to_html(directory.path / "report.html", samples=samples)
    return comparison
