"""`elbos evaluate`: how good trained runs are, with errors."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from elbos import files
from elbos.cli.parse import first_run, parse
from elbos.errors import Interrupted
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.evaluate import evaluate, samples_picture
from elbos.evaluation.result import Evaluation
from elbos.progress import begin, progress
from elbos.report.evaluation import evaluation_tables, runs_table
from elbos.runs.directory import RunDirectory
from elbos.training.config import run_config
from elbos.training.machine import keep_freed_memory
from elbos.training.run import Run
from elbos.training.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure likelihood, noise levels and samples of trained runs; writes RUN/eval.json and .html.

    The same command again resumes where it was interrupted. Several runs end in one table; each is
    sampled as it says, or with an option of sampling, all as the first says but for the option.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """The run directories."""

    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluationConfig
    )
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)

    network: Annotated[str | None, tyro.conf.arg(name="network.function")] = None
    """FILE.py:FUNCTION of a user-defined network, as in its training."""

    json: bool = False
    """Print the results as JSON."""

    def __call__(self) -> None:
        keep_freed_memory()
        runs = [Run.with_function(path, self.network) for path in self.runs]
        _ = [run.dataset for run in runs]  # fails here, if it does, and not after hours
        is_changed = self.sampling != runs[0].config.sampling
        try:
            results = [
                self._measure(run, self.sampling if is_changed else run.config.sampling)
                for run in runs
            ]
        except KeyboardInterrupt:
            raise Interrupted(
                "Stopped: what was measured is kept, and the same command resumes."
            ) from None
        if self.json:
            found = [result.to_dict() for result in results]
            print(json.dumps(found if len(found) > 1 else found[0], indent=2))  # noqa: T201
        elif len(results) > 1:
            Console().print(runs_table(results).rich())

    def _measure(self, run: Run, sampling: Sampling) -> Evaluation:
        path = run.directory.path
        files.require_writable(path / "eval.json")
        files.require_writable(path / "eval.html")
        with progress() as bar:
            result = evaluate(run, self.config, sampling, partial(begin, bar))
        try:
            files.write(path / "eval.json", json.dumps(result.to_dict(), indent=2).encode())
            picture = samples_picture(run, self.config, sampling)
            command = shlex.join(["elbos", *sys.argv[1:]])
            result.to_html(path / "eval.html", samples=picture, command=command)
        finally:  # minutes of work, shown even where it cannot be written
            if not self.json:
                Console().print(*(table.rich() for table in evaluation_tables(result)))
        if not self.json:
            print(f"Written to {path / 'eval.json'} and {path / 'eval.html'}.")  # noqa: T201
        return result


def command(words: list[str]) -> Evaluate:
    """The command that the words stand for; the run's sampling is the default."""
    path = first_run("evaluate", words)
    if path is None:
        return parse("evaluate", Evaluate, words)
    sampling = run_config(RunDirectory(path)).sampling
    default = Evaluate(runs=(path,), sampling=sampling)
    return parse("evaluate", Evaluate, words, default, start=words[:1])
