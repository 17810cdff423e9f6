"""Encoding: the latents of images, made once with a variational autoencoder, into shards.

A shard is made by one process, written beside its place and renamed, and noted as done. Processes
share the shards by their numbers: whatever number of them is started the next time makes what is
left.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from elbos.adapters.diffusers.pipeline import Latents
from elbos.base import files
from elbos.base.codec import digest
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.progress import Advance, Start, silent
from elbos.base.sharing import naming_lost_processes
from elbos.training.data.dataset import Dataset, Split, to_unit
from elbos.training.data.listing import SPLITS
from elbos.training.data.making import Making, Part, num_in_shard, split_index
from elbos.training.data.shards import DTYPES, Index, shard_name
from elbos.training.data.source import digest_of
from elbos.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Piece:
    """What a shard is made of.

    Attributes:
        split: The name of its split.
        number: The number of the shard in it.
        rows: The numbers of its images in the split.
    """

    split: str
    number: int
    rows: Int64[Tensor, " n"]

    @property
    def name(self) -> str:
        """The name of its file."""
        return shard_name(self.split, self.number)

    def key(self) -> str:
        """The identifier of its images, in a folder that is of one data set."""
        return digest([self.number, len(self.rows)])


@dataclass(frozen=True)
class Encoder:
    """Encodes the images of a dataset.

    Attributes:
        dataset: The images.
        vae: The autoencoder, with the scale of its latents.
        out: The folder of the shards, made if it is not there.
        dtype: Of what is stored, "float16" or "bfloat16".
        batch_size: Images at once.
        processes: Those that share the shards, all of which make the same call.
    """

    dataset: Dataset
    vae: Latents
    out: Path
    dtype: Literal["float16", "bfloat16"] = "float16"
    batch_size: int = 32
    processes: Processes = ALONE

    @naming_lost_processes()
    def encode(self, start: Start = silent) -> Index:
        """Make what is not there yet.

        Args:
            start: Begins the progress.

        Returns:
            The index of what is there then.

        Raises:
            ValueError: If the autoencoder does not encode the images, latents are not finite, or
                `out` is of something else.
            OSError: If something cannot be read or written.
        """
        making, processes = self._making(), self.processes
        if (index := processes.together(making.index)) is not None:
            return index
        shape = tuple(self._moments(self.dataset.train.x[:1]).shape[1:])
        with ExitStack() as stack:
            claim = making.claimed() if processes.is_main else nullcontext()
            processes.together(lambda: stack.enter_context(claim))
            own = self._own(making, shape, start)
            processes.together(lambda: None)  # for however long the others take
            parts = dict(processes.lists(list(own.items())))
            labels = [split.labels for split in self._splits.values() if split.labels is not None]
            index = self._index(making, shape, parts, labels)
            processes.together(lambda: making.finish(index, labels) if processes.is_main else None)
            return index

    @property
    def _splits(self) -> dict[str, Split]:
        return {name: getattr(self.dataset, name) for name in SPLITS}

    def _making(self) -> Making:
        """What is done of it."""
        source = {
            "images": self.dataset.fingerprint()["sha256"],
            "shape": "x".join(map(str, self.dataset.shape)),  # `crop` changes it alone
            "vae": digest_of(self.vae.vae.state_dict().values()),
            "scale": str(self.vae.scale.tolist()),
            "shift": str(self.vae.shift.tolist()),
            "dtype": self.dtype,
        }
        return Making(self.out, source)

    def _own(self, making: Making, shape: tuple[int, ...], start: Start) -> dict[str, Part]:
        """This process's shards, by name; those that are not there are made. The progress is that
        of all processes, the others taken to be as fast.
        """
        num, own = sum(map(len, self._splits.values())), {}
        advance = start(f"encoding {self.dataset.name}", num, "images")
        for i, piece in enumerate(self._pieces(shape)):
            part = making.part(piece.split, piece.number)
            part = part if part and part.key == piece.key() else None
            if i % self.processes.num != self.processes.rank:
                advance(len(piece.rows), part is not None)
                continue
            if part is None:
                part = self._make(piece, advance)
                making.keep(piece.split, piece.number, part)
            else:
                advance(part.num, True)
            own[piece.name] = part
        return own

    def _pieces(self, shape: tuple[int, ...]) -> Iterator[Piece]:
        """All shards of latents of a shape."""
        size = num_in_shard(math.prod(shape) * DTYPES[self.dtype].itemsize)
        for name, split in self._splits.items():
            for number, rows in enumerate(torch.split(torch.arange(len(split)), size)):
                yield Piece(name, number, rows)

    def _make(self, piece: Piece, advance: Advance) -> Part:
        """Encode the images of a shard, and write it."""
        path, hashed = self.out / piece.name, hashlib.sha256()
        x = self._splits[piece.split].x
        with files.writing(path) as file:
            for some in torch.split(piece.rows, self.batch_size):
                moments = self._moments(x[some]).to(DTYPES[self.dtype]).cpu().contiguous()
                if not moments.isfinite().all():
                    raise ValueError(
                        f"the autoencoder returned NaN or infinity for images {some[0]} to "
                        f"{some[-1]} of {piece.split}, or more than {self.dtype} holds: check its "
                        "weights, or store bfloat16."
                    )
                content = moments.view(torch.uint8).numpy().tobytes()
                hashed.update(content)
                with files.named_errors(path):
                    file.write(content)
                advance(len(some))
        return Part(key=piece.key(), num=len(piece.rows), sha256=hashed.hexdigest())

    def _index(
        self,
        making: Making,
        shape: tuple[int, ...],
        parts: dict[str, Part],
        labels: list[Int64[Tensor, "_"]],
    ) -> Index:
        """The index of all shards."""
        train, val, test = (
            split_index([parts[p.name] for p in self._pieces(shape) if p.split == name])
            for name in SPLITS
        )
        return Index(
            name=f"{self.dataset.name}-latents",
            shape=shape,
            dtype=self.dtype,
            num_levels=None,
            class_names=self.dataset.class_names,
            splits=(train, val, test),
            source=making.source,
            labels_sha256=tuple(digest_of([some]) for some in labels),
        )

    @torch.no_grad()
    def _moments(self, x: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        device = next(self.vae.vae.parameters()).device
        try:
            return torch.cat(self.vae.moments(to_unit(x.to(device), self.dataset.num_levels)), 1)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            shape = "x".join(map(str, self.dataset.shape))
            raise ValueError(
                f"the autoencoder does not encode images of {shape} ({flat(error)[:200]}): give "
                "another one, or images of another size."
            ) from error
