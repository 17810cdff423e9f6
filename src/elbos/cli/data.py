"""`elbos data pack`, `encode` and `verify`: arrays of decoded images or VAE latents."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from elbos.adapters.diffusers.pipeline import load_vae
from elbos.base.checks import require_positive
from elbos.base.errors import printable
from elbos.base.hardware import num_cores
from elbos.base.processes import Processes
from elbos.base.progress import begin, progress, silent
from elbos.cli.parse import parse
from elbos.training.data import Dataset, Folder, Hub, Latents, Packed, Tar
from elbos.training.data.dataset import SPLITS
from elbos.training.data.encode import encode
from elbos.training.data.pack import Pictures, pack
from elbos.training.data.packed import INDEX, verify


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Decode images into arrays that open at once.

    `data:packed --data.path OUT` loads them. Classes of a folder are the sub-folders; the splits
    are the sub-folders train, val and test, or are divided by the pictures' names, as `data:folder`
    does.
    """

    pictures: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURES")]
    """A folder; or WebDataset's tars, a folder of them or a quoted pattern, 'shards/*.tar'; or
    hub:NAME, a data set of Hugging Face's `datasets`."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to create."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    jobs: int = field(default_factory=num_cores)
    """Number of decoding threads. Default: one per core."""

    skip_bad: bool = False
    """Leave out pictures that cannot be decoded, with a warning, instead of stopping at the end."""

    image: str | None = None
    """For hub:NAME: the column of pictures. Default: image."""

    label: str | None = ""
    """For tars: the file extension of class numbers, cls if empty. For hub:NAME: the column of
    classes, label if empty; None ignores labels."""

    def __post_init__(self) -> None:
        require_positive(size=self.size, jobs=self.jobs)

    def __call__(self) -> None:
        path = Path(self.pictures)
        how: dict[str, Any] = {"size": self.size, "skip_bad": self.skip_bad}
        label: dict[str, Any] = {} if self.label == "" else {"label": self.label}
        image: dict[str, Any] = {} if self.image is None else {"image": self.image}
        is_hub = self.pictures.startswith("hub:")
        is_tar = path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))
        if image and not is_hub:
            raise ValueError("--image is for hub:NAME: leave it out.")
        if label and not (is_hub or is_tar):
            raise ValueError("--label is for tars and hub:NAME, not for a folder: leave it out.")
        if is_hub:
            data: Pictures = Hub(path=self.pictures.removeprefix("hub:"), **image, **label, **how)
        else:
            data = Tar(path=path, **label, **how) if is_tar else Folder(root=path, **how)
        pack(data, self.out, jobs=self.jobs)
        _tell(Packed(path=self.out).load(), "packed", self.out)


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode images into arrays of latents with a diffusers VAE.

    `data:latents --data.path OUT` loads them. Stored are mean and log-variance of the latents,
    scaled as the VAE's config.json says. On several processes:
    `PYTHONSAFEPATH=1 torchrun --nproc-per-node 8 -m -- elbos data encode IMAGES OUT --vae VAE`.
    """

    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """A folder made by `elbos data pack`, or a folder of pictures."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to create."""

    vae: str
    """An AutoencoderKL: the folder that save_pretrained wrote, the folder of a pipeline with a VAE,
    or a name on the Hugging Face Hub."""

    size: int | None = None
    """Height and width to which pictures of a folder are resized and cropped."""

    skip_bad: bool = False
    """Leave out pictures of a folder that cannot be decoded, with a warning."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    """The dtype of the stored latents."""

    batch_size: int = 32
    """Number of images encoded at once."""

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size, size=1 if self.size is None else self.size)

    def __call__(self) -> None:
        processes = Processes.joined()
        if (self.images / INDEX).exists():
            if self.size is not None or self.skip_bad:
                raise ValueError(f"{self.images} is packed: leave out --size and --skip-bad.")
            dataset = Packed(path=self.images).load()
        elif self.size is None:
            raise ValueError(f"{self.images} is not packed: give --size for its pictures.")
        else:
            dataset = Folder(root=self.images, size=self.size, skip_bad=self.skip_bad).load()
        vae = load_vae(self.vae, device=processes.device)
        with progress() as bar:
            encode(
                dataset,
                vae,
                self.out,
                dtype=self.dtype,
                batch_size=self.batch_size,
                processes=processes,
                start=partial(begin, bar) if processes.is_main else silent,
            )
        if processes.is_main:
            _tell(Latents(path=self.out).load(), "latents", self.out)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check the arrays of `elbos data pack` or `elbos data encode` against recorded digests."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to verify."""

    def __call__(self) -> None:
        verify(self.out)
        print(printable(str(self.out)))  # noqa: T201


def _tell(dataset: Dataset, kind: str, out: Path) -> None:
    numbers = ", ".join(
        f"{name} {len(split):,}" for name, split in zip(SPLITS, dataset.splits, strict=True)
    )
    following = printable(f"Next: elbos train PRESET data:{kind} --data.path {out}")
    sys.stderr.write(f"{numbers}. {following}\n")
    print(printable(str(out)))  # noqa: T201


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pack images, or their latents, into arrays that open at once."""

    task: Annotated[Pack | Encode | Verify, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        self.task()


def command(words: list[str]) -> Data:
    return parse("data", Data, words)
