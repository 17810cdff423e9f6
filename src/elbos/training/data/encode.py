"""Encoding of images into latents by a variational autoencoder, once, before training on them."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
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
from elbos.training.data.packed import DTYPES, INDEX, Index
from elbos.training.directory import locked

_PARTS = ".parts"  # folder of the latents that each process computed


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

    A folder that is complete is not changed. Processes, which all make the same call, divide the
    batches, and encode `batch_size` images at once; the main process joins their parts.

    Raises:
        ValueError: If the autoencoder does not encode the images, latents are not finite, or `out`
            belongs to other data.
        OSError: If a file cannot be read or written.
    """
    weights, ends = digest_of(vae.vae.state_dict().values()), (vae.scale, vae.shift)
    source = digest([dataset.fingerprint(), weights, *(end.tolist() for end in ends), dtype])

    def is_complete() -> bool:
        if (out / INDEX).exists() and Index.read(out).source != source:
            raise ValueError(
                f"{out} holds latents of other images, another VAE or dtype: name a new folder."
            )
        return (out / INDEX).exists()

    if processes.together(is_complete):
        return
    shape = tuple(_moments(dataset, vae, dataset.train.x[:1]).shape[1:])
    with ExitStack() as stack:

        def claim() -> None:
            if processes.is_main:
                stack.enter_context(locked(out, f"Another process writes {out}: wait for it."))
                shutil.rmtree(out / _PARTS, ignore_errors=True)
                (out / _PARTS).mkdir()

        processes.together(claim)
        advance = start(f"encoding {dataset.name}", sum(map(len, dataset.splits)), "images")
        named = list(zip(SPLITS, dataset.splits, strict=True))

        def compute() -> None:
            for name, split in named:
                batches = torch.split(torch.arange(len(split)), batch_size)
                with (out / _PARTS / f"{name}-{processes.rank:05d}").open("wb") as file:
                    for rows in batches[processes.share(len(batches))]:
                        moments = _moments(dataset, vae, split.x[rows]).to(DTYPES[dtype][0]).cpu()
                        if not moments.isfinite().all():
                            raise ValueError(
                                "the autoencoder returned NaN or infinity for images "
                                f"{rows[0]} to {rows[-1]} of {name}, or a number too large for "
                                f"{dtype}: check its weights, or store bfloat16."
                            )
                        file.write(moments.contiguous().view(torch.uint8).numpy().tobytes())
                        advance(len(rows) * processes.num)

        def parts(name: str) -> Iterator[bytes]:
            for path in sorted((out / _PARTS).glob(f"{name}-*")):
                if path.stat().st_size:
                    yield np.memmap(path, mode="r").data  # type: ignore[misc]

        def finish() -> None:
            if processes.is_main:
                packed.write(
                    out,
                    [(len(split), parts(name)) for name, split in named],
                    [split.labels for split in dataset.splits if split.labels is not None],
                    shape,
                    dtype=dtype,
                    name=f"{dataset.name}-latents",
                    num_levels=None,
                    class_names=dataset.class_names,
                    source=source,
                )
                shutil.rmtree(out / _PARTS)

        processes.together(compute)
        processes.together(finish)


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
