"""Encoding of images into shards of latents, computed once by a variational autoencoder.

Processes share the shards by their numbers: the next call, on any number of processes, writes the
missing shards.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.adapters.diffusers.pipeline import Latents
from elbos.base.codec import digest
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.progress import Advance, Start, silent
from elbos.base.sharing import naming_lost_processes
from elbos.training.data.dataset import SPLITS, Dataset, digest_of, to_unit
from elbos.training.data.pack import PackWriter, Piece, pieces
from elbos.training.data.shards import DTYPES, Index
from elbos.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Encoder:
    """Encoder of a dataset's images into shards of VAE latents, in the folder `out`.

    The processes divide the shards, and encode `batch_size` images at once.
    """

    dataset: Dataset
    vae: Latents
    out: Path
    dtype: Literal["float16", "bfloat16"] = "float16"
    batch_size: int = 32
    processes: Processes = ALONE

    @naming_lost_processes()
    def encode(self, start: Start = silent) -> Index:
        """Encode images into the missing shards of the output folder; return the folder's index.

        The progress bar counts the images of all processes, assuming equal speed.

        Raises:
            ValueError: If the autoencoder does not encode the images, latents are not finite, or
                `out` belongs to other data.
            OSError: If a file cannot be read or written.
        """
        processes, dataset = self.processes, self.dataset
        identity = {
            "images": dataset.fingerprint()["sha256"],
            "shape": "x".join(map(str, dataset.shape)),  # `crop` changes the shape alone
            "vae": digest_of(self.vae.vae.state_dict().values()),
            "scale": str(self.vae.scale.tolist()),
            "shift": str(self.vae.shift.tolist()),
            "dtype": self.dtype,
        }
        writer = PackWriter(self.out, identity)
        if (index := processes.together(writer.index)) is not None:
            return index
        shape = tuple(self._moments(dataset.train.x[:1]).shape[1:])
        num_bytes = math.prod(shape) * DTYPES[self.dtype].itemsize
        plan = pieces([torch.arange(len(split)) for split in dataset.splits], num_bytes)
        advance = start(f"encoding {dataset.name}", sum(len(p.rows) for p in plan), "images")
        with ExitStack() as stack:
            claim = writer.claimed() if processes.is_main else nullcontext()
            processes.together(lambda: stack.enter_context(claim))
            own = {}
            for i, piece in enumerate(plan):
                key = digest([piece.number, len(piece.rows)])
                part = writer.part(piece, key)
                if i % processes.num != processes.rank:
                    advance(len(piece.rows), part is not None)
                    continue
                if part is None:
                    part = writer.write(piece, key, self._contents(piece, advance))
                else:
                    advance(part.num, True)
                own[piece.name] = part
            processes.together(lambda: None)  # a barrier without a timeout
            made = dict(processes.lists(list(own.items())))

            def finish() -> Index | None:
                if not processes.is_main:
                    return None
                return writer.finish(
                    {piece.name: made[piece.name] for piece in plan},
                    [split.labels for split in dataset.splits if split.labels is not None],
                    name=f"{dataset.name}-latents",
                    shape=shape,
                    dtype=self.dtype,
                    num_levels=None,
                    class_names=dataset.class_names,
                )

            index = processes.from_main(processes.together(finish))
            assert index is not None
            return index

    def _contents(self, piece: Piece, advance: Advance) -> Iterator[bytes]:
        x = self.dataset.splits[SPLITS.index(piece.split)].x
        for some in torch.split(piece.rows, self.batch_size):
            moments = self._moments(x[some]).to(DTYPES[self.dtype]).cpu().contiguous()
            if not moments.isfinite().all():
                raise ValueError(
                    f"the autoencoder returned NaN or infinity for images {some[0]} to "
                    f"{some[-1]} of {piece.split}, or a number too large for {self.dtype}: check "
                    "its weights, or store bfloat16."
                )
            yield moments.view(torch.uint8).numpy().tobytes()
            advance(len(some))

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
