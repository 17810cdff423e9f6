"""`elbos data pack`: pictures as shards that are opened at once."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from elbos import files
from elbos.checks import require_positive
from elbos.cli.parse import parse
from elbos.errors import UsageError, suggestion
from elbos.progress import begin, progress
from elbos.training.data.listing import SPLITS
from elbos.training.data.pack import Packer
from elbos.training.data.shards import Index
from elbos.training.machine import num_cores


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Decode a folder of pictures once and for all, for `data:packed --data.path OUT`.

    Classes are the sub-folders; the splits are the sub-folders train, val and test, or are divided
    by the pictures' names, as `data:folder` does. ImageNet is taken as it is distributed. The same
    command again goes on where it was stopped.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The pictures."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to be made."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    jobs: int = field(default_factory=num_cores)
    """Processes that decode. Default: one per core."""

    skip_bad: bool = False
    """Leave out files that cannot be decoded, with a warning, instead of stopping at the end."""

    def __post_init__(self) -> None:
        require_positive(size=self.size, jobs=self.jobs)

    def __call__(self) -> None:
        packer = Packer(files.expanded(self.folder), self.out, self.size, self.skip_bad)
        with progress() as bar:
            index = packer.pack(jobs=self.jobs, start=partial(begin, bar))
        _tell(index, self.out, "packed")


def _tell(index: Index, out: Path, kind: str) -> None:
    """Say what is there now, and print where."""
    parts = ", ".join(
        f"{name} {sum(split.nums):,}" for name, split in zip(SPLITS, index.splits, strict=True)
    )
    classes = "" if index.class_names is None else f", {len(index.class_names):,} classes"
    sys.stderr.write(
        f"{'x'.join(map(str, index.shape))}: {parts}{classes}. "
        f"Next: elbos train PRESET data:{kind} --data.path {out}\n"
    )
    print(out)  # noqa: T201


KINDS: dict[str, type[Callable[[], None]]] = {"pack": Pack}


def command(words: list[str]) -> Callable[[], None]:
    """The command that the words stand for."""
    kind, *rest = words or [""]
    if kind == "--help":
        return _help
    if kind not in KINDS:
        what = f"There is no {kind!r}" if kind else "What to do is missing"
        raise UsageError(f"{what}: {suggestion(kind, KINDS)}")
    return parse(f"data {kind}", KINDS[kind], rest)


def _help() -> None:
    """Print what there is."""
    lines = [f"  {kind:8}{(cls.__doc__ or '').splitlines()[0]}" for kind, cls in KINDS.items()]
    text = "usage: elbos data KIND ...; `elbos data KIND --help` has its options"
    print("\n".join([text, "", *lines]))  # noqa: T201
