"""`elbos evaluate FOLDER --latents CACHE`: score pipelines on cached latents and embeddings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from elbos.base import files
from elbos.base.errors import Interrupted, printable
from elbos.base.numbers import count, plus_minus
from elbos.base.processes import Processes
from elbos.base.progress import Advance, begin, progress
from elbos.base.tables import Table
from elbos.cli.results import STOPPED, claim, named, require_own
from elbos.runs.latents import evaluate_latents


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Evaluate diffusers pipelines on cached latents and text embeddings.

    The results are written to latents.json, and each validation to latents-N.safetensors. The same
    command again resumes where it was interrupted. The cache is one that sd-scripts, musubi-tuner
    or ai-toolkit wrote, or a safetensors file with `latents` and the network's keywords. The bound
    on latents is known up to a constant; all models and adapters see the same images, noise and
    noise levels, and differences to the first are paired. Nothing is unpickled, and no code of a
    folder is run.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Folders that diffusers' `save_pretrained` wrote, or OWNER/NAME on the Hugging Face Hub."""

    latents: Path
    """Folder of the cache, or a safetensors file."""

    adapter: tuple[Path, ...] = ()
    """LoRA adapters of the first model, safetensors files, each compared with the model alone."""

    num_images: int | None = None
    """Number of images, a random subset. Default: all."""

    guidance: float | None = None
    """Guidance scale for a guidance-distilled network such as Flux dev, as in its training, mostly
    1. Default: none is given."""

    num_evaluations: int = 8
    """Function evaluations of each image, a multiple of 4 from 8 on."""

    batch_size: int = 8
    """Function evaluations at once, which does not affect results."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network."""

    seed: int = 0
    """Seed of the choice of images, the noise and the noise levels."""

    out: Path | None = None
    """Directory of the results, which belongs to these models and this cache: an earlier result of
    theirs is replaced. Default: runs/latents-NAME."""

    json: bool = False
    """Print the results as JSON."""

    def __call__(self) -> None:
        processes = Processes.joined()
        name = f"latents-{self.models[0].resolve().name}"
        out = (self.out or Path("runs") / name).expanduser()
        models = [*map(named, self.models)]
        owner = {"models": models, "latents": str(self.latents.resolve())}
        if processes.is_main:
            require_own(out, models, owner)
            existing = next(path for path in (out, *out.parents) if path.exists())
            files.require_writable(existing / "latents.json")

        def start(what: str, total: int, unit: str) -> Advance:
            if processes.is_main:
                claim(out, owner)  # not before the cache fits the models
            return begin(bar, what, total, unit)

        try:
            with progress() as bar:
                result, validations = evaluate_latents(
                    self.models,
                    self.latents,
                    adapters=self.adapter,
                    num_images=self.num_images,
                    guidance=self.guidance,
                    num_evaluations=self.num_evaluations,
                    batch_size=self.batch_size,
                    precision=self.precision,
                    seed=self.seed,
                    processes=processes,
                    start=start,
                    directory=out / "evaluation",
                )
        except KeyboardInterrupt:
            raise Interrupted(STOPPED) from None
        if not processes.is_main:
            return
        text = json.dumps(result.to_dict(), indent=2)
        for i, validation in enumerate(validations):
            validation.save(out / f"latents-{i}.safetensors")
        files.write(out / "latents.json", text.encode())
        for path in out.glob("latents-*.safetensors"):  # left by a command with more adapters
            if path.stem not in {f"latents-{i}" for i in range(len(validations))}:
                path.unlink()
        if self.json:
            print(text)  # noqa: T201
            return
        rows = []
        for score in result.scores:
            bound, gap = score.bound, score.difference
            difference = "" if gap is None else plus_minus(gap.mean, gap.standard_error)
            rows.append([score.name, plus_minus(bound.mean, bound.standard_error), difference])
        titles = [count(result.num_images, "images"), "bound, nats/dim", "minus the first"]
        Console().print(Table(titles, rows).without_empty_columns().rich())
        print(printable(f"Written to {out / 'latents.json'}."))  # noqa: T201
