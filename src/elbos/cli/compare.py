"""`elbos compare`: train and compare objectives, with confidence intervals of the differences."""

import json
import shlex
import signal
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from elbos.base.checks import require_positive
from elbos.base.codec import encode
from elbos.base.errors import UsageError, printable
from elbos.base.extras import shown_by
from elbos.base.numbers import count
from elbos.cli.parse import parse
from elbos.comparison.compare import run_experiment
from elbos.comparison.executors import Local, OnRay
from elbos.comparison.experiment import DEFAULT_SAMPLERS, Experiment, Scoring, parse_samplings
from elbos.comparison.variants import DEFAULT_VARIANTS, VARIANTS, Variant
from elbos.training.data import Toy
from elbos.training.presets import PRESETS, SUMMARIES, Chosen


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare several training objectives under equal conditions.

    The same command again resumes; objectives and seeds may be added. Several commands may divide
    the work, as on several machines with one file system. Options of the preset apply to all
    objectives.
    """

    chosen: Annotated[Chosen, tyro.conf.arg(name="")]

    objectives: tuple[str, ...] = DEFAULT_VARIANTS
    """Names of built-in objectives, "all", or your own: "mine=V(),Adaptive(),Sigmoid(k=3)", a
    prediction type, a schedule and a weighting, which may be a function, FILE.py:FUNCTION."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the replicates of every objective. With two objectives, intervals from three
    replicates are 2 times as wide as from five, from two 7 times; one gives no interval."""

    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    """Samplers for the samples that are scored: a name, a sampler and its number of steps."""

    workers: int | None = None
    """Number of runs at the same time. Default: one per accelerator, or per two cores."""

    gpus_per_run: int = 1
    """Accelerators that train and score each run together, all of one machine; without any, as many
    processes, which share the cores."""

    ray: bool = False
    """Run on the Ray cluster at RAY_ADDRESS, or on a local one (`pip install 'elbos[ray]'`)."""

    out: Path | None = None
    """Directory of the comparison. Default: runs/compare-PRESET."""

    scoring: Scoring = field(default_factory=Scoring)

    json: bool = False
    """Print the report as JSON."""

    dry_run: bool = False
    """Print the settings as JSON, and the number of runs and what each takes, and stop."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_positive(workers=self.workers)
        require_positive(gpus_per_run=self.gpus_per_run)

    @cached_property
    def experiment(self) -> Experiment:
        config, preset = self.chosen.config, PRESETS[self.chosen.preset]
        ends = {end: getattr(config.schedule, end) for end in ("logsnr_min", "logsnr_max")}
        output = {name: getattr(config.output, name) for name in ("num_kept", "trackers")}
        single = {
            "seed": (preset.seed, "give --seeds"),
            "parameterization": (preset.parameterization, "give --objectives"),
            "weighting": (preset.weighting, "give --objectives"),
            "schedule": (replace(preset.schedule, **ends), "give --objectives"),
            "output": (replace(preset.output, **output), "the report has its own"),
        }
        for name, (expected, advice) in single.items():
            if getattr(config, name) != expected:
                raise ValueError(f"--{name} is of a single run: {advice}.")
        names = [n for word in self.objectives for n in (VARIANTS if word == "all" else [word])]
        return Experiment(
            config=config,
            scoring=replace(self.scoring, samplings=parse_samplings(self.samplers)),
            objectives=tuple(map(Variant.parse, names)),
            seeds=self.seeds,
        )

    def __call__(self) -> None:
        if self.dry_run:
            _show(self.experiment)
            return
        path = self.out or Path("runs") / f"compare-{self.chosen.preset}"
        # The runs are processes of their own, which have to save and end if this one is terminated.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        comparison = run_experiment(
            self.experiment,
            path,
            (OnRay if self.ray else Local)(self.workers, self.gpus_per_run),
            command=shlex.join(["elbos", *sys.argv[1:]]),
        )
        if self.json:
            print(json.dumps(comparison.to_dict(), indent=2))  # noqa: T201
        else:
            Console().print(shown_by(comparison).terminal(comparison).rich())
            print(printable(f"Report: {path / 'report.html'}"))  # noqa: T201
        failures = [(o.name, failure) for o in comparison.objectives for failure in o.failures]
        if failures:
            name, failure = failures[0]
            raise ValueError(
                f"{len(failures)} of the runs could not be scored, as {name}-{failure.seed}: "
                f"{failure.reason.rstrip('.')}. The same command tries again."
            )


def _show(experiment: Experiment) -> None:
    """Print what would be run: the settings as JSON, and the number of runs and what each takes."""
    config, scoring, seeds = experiment.config, experiment.scoring, experiment.seeds
    objectives = {}
    for objective in experiment.objectives:
        of_run = experiment.run_config(objective, seeds[0])
        parts = of_run.parameterization, of_run.schedule, of_run.weighting
        objectives[objective.name] = ", ".join(map(repr, parts))
    print(json.dumps(encode(experiment) | {"objectives": objectives}, indent=2))  # noqa: T201
    runs, each = count(len(objectives) * len(seeds), "runs"), count(len(seeds), "seeds")
    line = (
        f"{runs}: {count(len(objectives), 'objectives')}, {each} each, {config.num_images:,} images"
    )
    if not isinstance(config.data, Toy):
        samplings = scoring.samplings.values()
        num = sum(sampling.num_evaluations for sampling in samplings)
        line += f" and then {num * scoring.num_samples:,} evaluations for samples in each run"
    sys.stderr.write(f"{line}.\n")


def command(words: list[str]) -> Compare:
    words = ["digits", *words] if words == ["--help"] else words
    chosen = Chosen.from_words(words)
    verb, summary = f"compare {chosen.preset}", SUMMARIES[chosen.preset]
    compare = parse(verb, Compare, words[1:], Compare(chosen=chosen), summary=summary)
    try:
        compare.experiment  # noqa: B018
    except ValueError as error:
        raise UsageError(str(error)) from error
    return compare
