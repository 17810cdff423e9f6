"""`elbos sample`: samples of a trained model, as a PNG grid and an .npz file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from elbos.base.errors import UsageError, printable
from elbos.base.processes import Processes
from elbos.base.progress import progress
from elbos.cli.parse import first_path, parse
from elbos.runs.pretrained import is_pipeline
from elbos.runs.run import Run
from elbos.runs.samples import write_samples
from elbos.training.directory import RunDirectory
from elbos.training.execution import keep_freed_memory
from elbos.training.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a trained model.

    A PNG grid and an .npz file are written. On several processes:
    `PYTHONSAFEPATH=1 torchrun --nproc-per-node 2 -m -- elbos sample RUN`.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory."""

    network: Annotated[str | None, tyro.conf.arg(name="network.function")] = None
    """FILE.py:FUNCTION of a user-defined network, as in its training."""

    json: bool = False
    """Print the paths as JSON."""

    num: int = 100
    """Number of samples."""

    seed: int = 0
    """Seed of the noise."""

    label: int | None = None
    """Class of all samples. Default: cycle through the classes of a conditional network."""

    out: Path | None = None
    """Output path without suffix; `.png` and `.npz` are added. Default: in RUN/samples."""

    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(default_factory=Sampling)

    def __call__(self) -> None:
        keep_freed_memory()
        run = Run.with_function(self.run, self.network)
        is_main = Processes.joined().is_main
        with progress(Console(stderr=True, quiet=not is_main)) as bar:
            task = bar.add_task("sampling", total=self.num, unit="images", note="")
            picture, archive = write_samples(
                run,
                self.sampling,
                num=self.num,
                seed=self.seed,
                label=self.label,
                out=self.out,
                on_images=lambda num: bar.advance(task, num),
            )
        if is_main:
            named = {"png": picture, "npz": archive}
            paths = {name: str(path) for name, path in named.items() if path is not None}
            print(json.dumps(paths) if self.json else "\n".join(map(printable, paths.values())))  # noqa: T201


def command(words: list[str]) -> Sample:
    path = first_path("sample", words)
    if path is None:
        return parse("sample", Sample, words)
    if is_pipeline(path):
        raise ValueError(
            f"{path} is a pipeline of diffusers: sample it there, or measure it with "
            "`elbos evaluate`."
        )
    sampling = RunDirectory(path).config().sampling
    sample = parse("sample", Sample, words, Sample(run=path, sampling=sampling))
    if sample.num < 1:
        raise UsageError(f"num is {sample.num}: give a number above 0.")
    return sample
