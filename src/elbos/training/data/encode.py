"""Encoding of images into latents by a variational autoencoder, once, before training on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.adapters.diffusers.latents import Latents
from elbos.base.codec import digest
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Start, silent
from elbos.base.sharing import naming_lost_processes
from elbos.training.data import packed
from elbos.training.data.dataset import SPLITS, Dataset, digest_of, to_unit
from elbos.training.data.packed import DTYPES


@naming_lost_processes()
def encode(
    dataset: Dataset,
    vae: Latents,
    out: Path,
    *,
    dtype: Literal["float16", "bfloat16"] = "float16",
    batch_size: int = 32,
    processes: Processes = ALONE,
    start: Start = silent,
) -> None:
    """Write the VAE latents of images to a folder of arrays, one per split.

    A folder that is complete is not changed. Processes, which all make the same call, encode a
    batch of `batch_size` images each at a time; the main process writes them.

    Raises:
        ConnectionError: If another process has failed.
        ValueError: If the autoencoder does not encode the images, latents are not finite, or `out`
            belongs to other data.
        OSError: If a file cannot be read or written.
    """
    weights, ends = digest_of(vae.vae.state_dict().values()), (vae.scale, vae.shift)
    source = digest([dataset.fingerprint(), weights, *(end.tolist() for end in ends), dtype])
    batches = [torch.split(torch.arange(len(split)), batch_size) for split in dataset.splits]

    def latents(split: int, first: int) -> list[bytes]:
        """Return the latents of as many batches of a split as there are processes."""

        def compute() -> list[bytes]:
            parts, turn = [], first + processes.rank
            for rows in batches[split][turn : turn + 1]:
                moments = _moments(dataset, vae, dataset.splits[split].x[rows])
                moments = moments.to(DTYPES[dtype][0]).cpu()
                if not moments.isfinite().all():
                    raise ValueError(
                        f"the autoencoder returned NaN or infinity for images {rows[0]} to "
                        f"{rows[-1]} of {SPLITS[split]}, or a number too large for {dtype}: check "
                        "its weights, or store bfloat16."
                    )
                parts.append(moments.contiguous().view(torch.uint8).numpy().tobytes())
            return parts

        return processes.lists(processes.together(compute))

    def build(folder: Path) -> None:
        advance = start(f"encoding {dataset.name}", sum(map(len, dataset.splits)), "images")

        def blocks(split: int) -> Iterator[bytes]:
            for first in range(0, len(batches[split]), processes.num):
                yield from latents(*processes.from_main((split, first)))
                advance(sum(map(len, batches[split][first : first + processes.num])))

        packed.write(
            folder,
            [(len(split), blocks(number)) for number, split in enumerate(dataset.splits)],
            [split.labels for split in dataset.splits if split.labels is not None],
            tuple(_moments(dataset, vae, dataset.train.x[:1]).shape[1:]),
            dtype=dtype,
            name=f"{dataset.name}-latents",
            num_levels=None,
            class_names=dataset.class_names,
            source=source,
        )

    if processes.is_main:
        content = "latents of other images, another VAE or dtype: name a new folder."
        packed.build_new(out, source, build, content)
    end: tuple[int, int] | None = None
    while batch := processes.from_main(end):  # the other processes' batches
        latents(*batch)


@torch.no_grad()
def _moments(
    dataset: Dataset, vae: Latents, x: UInt8[Tensor, "b c h w"]
) -> Float[Tensor, "b d i j"]:
    device = next(vae.vae.parameters()).device
    try:
        return torch.cat(vae.moments(to_unit(x.to(device), dataset.num_levels)), 1)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        shape = "x".join(map(str, dataset.shape))
        raise ValueError(
            f"the autoencoder does not encode images of {shape} ({flat(error)[:200]}): give "
            "another autoencoder, or images of another size."
        ) from error
