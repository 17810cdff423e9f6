"""`elbos data pack`: arrays of decoded images."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from elbos.base.checks import require_positive
from elbos.base.errors import UsageError, printable
from elbos.base.hardware import num_cores
from elbos.cli.parse import parse
from elbos.training.data import Images, Packed
from elbos.training.data.dataset import SPLITS


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Decode images into arrays that open at once.

    `data:packed --data.path OUT` loads them. Classes and splits are those of `data:images`.
    """

    pictures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURES")]
    """A folder of pictures, of WebDataset's tars or of parquet files, or the name of a dataset on
    the Hugging Face Hub."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to create."""

    size: int = Images.size
    """Height and width after resizing and cropping, in pixels."""

    jobs: int = field(default_factory=num_cores)
    """Number of decoding threads. Default: one per core."""

    skip_bad: bool = False
    """Leave out pictures that cannot be decoded, with a warning, instead of stopping at the end."""

    image: str = Images.image
    """The column of pictures in parquet files and on the Hub."""

    label: str | None = Images.label
    """The column of class labels in parquet files and on the Hub; in tars the ending of the files
    that hold them, by default cls. None ignores classes."""

    def __post_init__(self) -> None:
        require_positive(size=self.size, jobs=self.jobs)

    def __call__(self) -> None:
        images = Images(
            path=self.pictures,
            size=self.size,
            skip_bad=self.skip_bad,
            image=self.image,
            label=self.label,
        )
        images.pack(self.out, jobs=self.jobs)
        splits = zip(SPLITS, Packed(path=self.out).load().splits, strict=True)
        numbers = ", ".join(f"{name} {len(split):,}" for name, split in splits)
        following = printable(f"Next: elbos train PRESET data:packed --data.path {self.out}")
        sys.stderr.write(f"{numbers}. {following}\n")
        print(printable(str(self.out)))  # noqa: T201


def command(words: list[str]) -> Pack:
    if words[:1] not in (["pack"], ["--help"]):
        raise UsageError("The task comes first: elbos data pack PICTURES OUT [OPTIONS]")
    return parse("data pack", Pack, words[words[0] == "pack" :])
