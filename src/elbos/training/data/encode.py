"""Encoding: the latents of images, made once with a variational autoencoder, into shards."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from elbos import files
from elbos.adapters.diffusers.pipeline import Latents
from elbos.codec import digest
from elbos.progress import Advance, Start, silent
from elbos.training.data.dataset import Dataset, Split, to_unit
from elbos.training.data.listing import SPLITS
from elbos.training.data.making import Making, Part, num_in_shard, split_index
from elbos.training.data.shards import DTYPES, Index, shard_name
from elbos.training.data.source import digest_of


@dataclass(frozen=True)
class Encoder:
    """Encodes the images of a dataset.

    Attributes:
        dataset: The images.
        vae: The autoencoder, with the scale of its latents.
        out: The folder of the shards, made if it is not there.
        dtype: Of what is stored, "float16" or "bfloat16".
        batch_size: Images at once.
    """

    dataset: Dataset
    vae: Latents
    out: Path
    dtype: Literal["float16", "bfloat16"] = "float16"
    batch_size: int = 32

    def encode(self, start: Start = silent) -> Index:
        """Make what is not there yet.

        Args:
            start: Begins the progress.

        Returns:
            The index of what is there then.

        Raises:
            ValueError: If latents are not finite, or `out` is of something else.
            OSError: If something cannot be read or written.
        """
        making = Making(
            self.out,
            {
                "images": self.dataset.fingerprint()["sha256"],
                "vae": digest_of(self.vae.vae.state_dict().values()),
                "scale": str(self.vae.scale.tolist()),
                "shift": str(self.vae.shift.tolist()),
                "dtype": self.dtype,
            },
        )
        if (index := making.index()) is not None:
            return index
        shape = tuple(self._moments(self.dataset.train.x[:1]).shape[1:])
        with making.claimed():
            num = sum(len(split) for _, split in self._splits)
            advance = start(f"encoding {self.dataset.name}", num, "images")
            train, val, test = (
                split_index(list(self._parts(making, name, split, shape, advance)))
                for name, split in self._splits
            )
            index = Index(
                name=f"{self.dataset.name}-latents",
                shape=shape,
                dtype=self.dtype,
                num_levels=None,
                class_names=self.dataset.class_names,
                splits=(train, val, test),
                source=making.source,
            )
            labels = [split.labels for _, split in self._splits if split.labels is not None]
            making.finish(index, labels)
            return index

    @property
    def _splits(self) -> list[tuple[str, Split]]:
        return [(name, getattr(self.dataset, name)) for name in SPLITS]

    def _parts(
        self, making: Making, name: str, split: Split, shape: tuple[int, ...], advance: Advance
    ) -> Iterator[Part]:
        size = num_in_shard(math.prod(shape) * DTYPES[self.dtype].itemsize)
        for number in range(math.ceil(len(split) / size)):
            rows = torch.arange(number * size, min((number + 1) * size, len(split)))
            key = digest([number, len(rows)])
            part = making.part(name, number, key)
            if part is None:
                part = self._make(self.out / shard_name(name, number), split, rows, key, advance)
                making.keep(name, number, part)
            else:
                advance(part.num, True)
            yield part

    def _make(
        self, path: Path, split: Split, rows: Int64[Tensor, " n"], key: str, advance: Advance
    ) -> Part:
        hashed = hashlib.sha256()
        with files.writing(path) as file:
            for some in torch.split(rows, self.batch_size):
                moments = self._moments(split.x[some]).to(DTYPES[self.dtype]).cpu().contiguous()
                if not moments.isfinite().all():
                    raise ValueError(
                        f"the autoencoder returned NaN or infinity for images {some[0]} to "
                        f"{some[-1]} of {path.stem.split('-')[0]}, or more than {self.dtype} "
                        "holds: check its weights, or store bfloat16."
                    )
                content = moments.view(torch.uint8).numpy().tobytes()
                hashed.update(content)
                with files.named_errors(path):
                    file.write(content)
                advance(len(some))
        return Part(key=key, num=len(rows), sha256=hashed.hexdigest())

    @torch.no_grad()
    def _moments(self, x: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        device = next(self.vae.vae.parameters()).device
        return torch.cat(self.vae.moments(to_unit(x.to(device), self.dataset.num_levels)), dim=1)
