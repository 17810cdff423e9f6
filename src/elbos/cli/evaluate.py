"""`elbos evaluate`: evaluate trained models, with standard errors."""

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from elbos.base import files
from elbos.base.errors import Interrupted, printable
from elbos.base.processes import Processes
from elbos.base.progress import begin, progress
from elbos.cli.parse import first_path, parse
from elbos.cli.results import STOPPED, absolute, claim, require_own
from elbos.evaluation import report
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.evaluate import evaluate, require_measurable
from elbos.evaluation.model import Model
from elbos.evaluation.result import Evaluation
from elbos.runs.pretrained import Pretrained, is_pipeline
from elbos.runs.run import Run
from elbos.training.data import KnownData
from elbos.training.directory import RunDirectory
from elbos.training.execution import keep_freed_memory
from elbos.training.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure likelihood, loss by noise level and sample quality of models.

    A model is a run directory, or the folder of a diffusers pipeline. A run is evaluated on its
    training data, or on data:TYPE; a pipeline needs data:TYPE.

    Results are written to eval.json and eval.html, in the run directory or in --out. The same
    command again resumes where it was interrupted. For several models, the first's page shows the
    paired differences of the others from the first, also by noise level. Each model is sampled by
    its own sampler, but with an option of sampling all use the first's, with that option.

    On several processes: `PYTHONSAFEPATH=1 torchrun --nproc-per-node 2 -m -- elbos evaluate MODEL`.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Run directories, and folders that diffusers' `save_pretrained` wrote."""

    data: KnownData | None = None
    """The images for the evaluation, whose training split is the reference for sample quality.
    Required for a folder. Default for a run: the training data."""

    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluationConfig
    )
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)

    network: Annotated[str | None, tyro.conf.arg(name="network.function")] = None
    """FILE.py:FUNCTION of a user-defined network, as in its training."""

    out: Path | None = None
    """Directory of results for a folder, or for a run on data other than its training data.
    Default: runs/evaluate-NAME."""

    batch_size: int | None = None
    """For a folder: images per network call, which does not affect results. Default: 64."""

    json: bool = False
    """Print the results as JSON."""

    def __post_init__(self) -> None:
        pipelines = [path for path in self.models if is_pipeline(path)]
        if self.batch_size is not None and not pipelines:
            raise ValueError("--batch-size is for the folder of a pipeline: leave it out.")
        if self.out is not None and self.data is None and self.models[0].exists():
            raise ValueError("--out is for a folder, or a run with data:TYPE: leave it out.")
        if pipelines and self.data is None:
            raise ValueError(
                f"{pipelines[0]} is a diffusers pipeline: give its images, as data:fashion or "
                "data:images --data.path PATH."
            )

    def __call__(self) -> None:
        keep_freed_memory()
        processes = Processes.joined()
        if not processes.is_main:
            warnings.simplefilter("ignore")  # the main process warns
        opened = [self._opened(path) for path in self.models]
        models, outs = [m.shared_by(processes) for m, _ in opened], [out for _, out in opened]
        if len(set(outs)) < len(set(self.models)):
            raise ValueError(
                "Several models, of one name or with --out, would have one directory of results: "
                "evaluate them one by one, with --out."
            )
        is_given = self.sampling != models[0].sampling  # an option was given: it is for all models
        samplings = [self.sampling if is_given else model.sampling for model in models]
        for model, sampling in zip(models, samplings, strict=True):
            require_measurable(model, self.config, sampling)  # early, not after hours
        measured, failures = [], []
        for model, out, sampling in zip(models, outs, samplings, strict=True):
            try:
                measured.append((self._measure(model, out, sampling), out))
            except KeyboardInterrupt:
                raise Interrupted(STOPPED) from None
            except ValueError as error:
                failures.append(f"{model.name}: {error}")
        if measured and processes.is_main:
            results, folders = zip(*measured, strict=True)
            self._report(results, folders[0] / "eval.html")
        if failures:
            raise ValueError(" ".join(failures))

    def _report(self, results: Sequence[Evaluation], page: Path) -> None:
        report.page(results, shlex.join(["elbos", *sys.argv[1:]])).write_html(page)
        if self.json:
            content = [result.to_dict() for result in results]
            print(json.dumps(content if len(content) > 1 else content[0], indent=2))  # noqa: T201
            return
        if len(results) > 1:
            Console().print(report.terminal_of_several(results).rich())
        print(printable(f"Written to {page}."))  # noqa: T201

    def _opened(self, path: Path) -> tuple[Run | Pretrained, Path]:
        """Return a model and the directory of its results, its own if the data are its own."""
        out = (self.out or Path("runs") / f"evaluate-{path.resolve().name}").expanduser()
        if is_pipeline(path):
            assert self.data is not None
            require_own(out, [name := absolute(path)], {"folder": name})
            size = {} if self.batch_size is None else {"batch_size": self.batch_size}
            return Pretrained(path, self.data, out, **size), out
        run = Run.with_function(path, self.network)
        run = run if self.data is None else run.with_data(self.data)
        if path.exists() and (self.data is None or run.directory.is_trained_on(run.dataset)):
            return run, path
        require_own(out, [name := absolute(path)], {"folder": name})
        return run, out

    def _measure(self, model: Model, path: Path, sampling: Sampling) -> Evaluation:
        if not model.processes.is_main:
            return evaluate(model, self.config, sampling)
        if path != Path(model.name):
            claim(path, {"folder": absolute(model.name)})
        files.require_writable(path / "eval.json")
        files.require_writable(path / "eval.html")
        with progress() as bar:
            result = evaluate(model, self.config, sampling, partial(begin, bar))
        try:
            files.write(path / "eval.json", json.dumps(result.to_dict(), indent=2).encode())
        finally:  # minutes of work, shown even where it cannot be written
            if not self.json:
                Console().print(report.terminal(result).rich())
        if not self.json:
            print(printable(f"Written to {path / 'eval.json'}."))  # noqa: T201
        return result


def command(words: list[str]) -> Evaluate:
    path = first_path("evaluate", words, "run directory, or the folder of a pipeline,")
    if path is None or is_pipeline(path):
        return parse("evaluate", Evaluate, words)
    if not (path / "config.json").exists():
        raise FileNotFoundError(f"{path} is not a run directory, nor the folder of a pipeline.")
    sampling = RunDirectory(path).config().sampling
    return parse("evaluate", Evaluate, words, Evaluate(models=(path,), sampling=sampling))
