"""`elbos export`: the averaged weights of a run, in a folder for diffusers or elbos."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from elbos.adapters.diffusers.pipeline import load_vae
from elbos.base.errors import printable
from elbos.cli.parse import first_path, parse
from elbos.runs.export import export
from elbos.runs.run import Run
from elbos.training.execution import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export a trained model to a folder for diffusers or elbos.

    The folder holds the averaged weights and the model card. A network of diffusers opens with
    diffusers' `from_pretrained`, with the scheduler that it was trained with. Any other opens with
    `elbos.Run`, `elbos sample` and `elbos evaluate`.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory."""

    to: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder: a new or empty one, or an earlier export of the same run."""

    vae: str | None = None
    """The AutoencoderKL of a diffusers network trained on latents, written beside the network: a
    folder, or a name on the Hugging Face Hub."""

    network: Annotated[str | None, tyro.conf.arg(name="network.function")] = None
    """FILE.py:FUNCTION of a user-defined network, as in its training."""

    json: bool = False
    """Print folder and files as JSON."""

    def __call__(self) -> None:
        keep_freed_memory()
        run = Run.with_function(self.run, self.network)
        vae = None if self.vae is None else load_vae(self.vae)
        names = export(run, self.to, vae=vae)
        content = json.dumps({"folder": str(self.to), "files": names})
        print(content if self.json else printable(str(self.to)))  # noqa: T201


def command(words: list[str]) -> Export:
    first_path("export", words)
    return parse("export", Export, words)
