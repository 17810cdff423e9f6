"""Encoding of images into latents by a variational autoencoder, once, before training on the
latents.

Processes share the shards by their numbers: the next call, on any number of processes, writes the
missing shards.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
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
from elbos.training.data.dataset import SPLITS, Dataset, digest_of, to_unit
from elbos.training.data.pack import PackWriter, ShardPlan, shard_plans
from elbos.training.data.shards import DTYPES, Index


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
) -> Index:
    """Write the VAE latents of images to a folder of shards.

    Shards that are complete are skipped; the index of the folder is returned. Processes, which all
    make the same call, divide the shards, and encode `batch_size` images at once. The progress bar
    counts the images of all processes, assuming equal speed.

    Raises:
        ValueError: If the autoencoder does not encode the images, latents are not finite, or `out`
            belongs to other data.
        OSError: If a file cannot be read or written.
    """
    identity = {
        "images": dataset.fingerprint()["sha256"],
        "shape": "x".join(map(str, dataset.shape)),  # `crop` changes the shape alone
        "vae": digest_of(vae.vae.state_dict().values()),
        "scale": str(vae.scale.tolist()),
        "shift": str(vae.shift.tolist()),
        "dtype": dtype,
    }
    writer = PackWriter(out, identity)
    if (index := processes.together(writer.index)) is not None:
        return index

    def contents(plan: ShardPlan) -> Iterator[bytes]:
        x = dataset.splits[SPLITS.index(plan.split)].x
        for some in torch.split(plan.rows, batch_size):
            moments = _moments(dataset, vae, x[some]).to(DTYPES[dtype]).cpu().contiguous()
            if not moments.isfinite().all():
                raise ValueError(
                    f"the autoencoder returned NaN or infinity for images {some[0]} to "
                    f"{some[-1]} of {plan.split}, or a number too large for {dtype}: check "
                    "its weights, or store bfloat16."
                )
            yield moments.view(torch.uint8).numpy().tobytes()
            advance(len(some))

    shape = tuple(_moments(dataset, vae, dataset.train.x[:1]).shape[1:])
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    plans = shard_plans([torch.arange(len(split)) for split in dataset.splits], num_bytes)
    advance = start(f"encoding {dataset.name}", sum(len(plan.rows) for plan in plans), "images")
    with ExitStack() as stack:
        claim = writer.claimed() if processes.is_main else nullcontext()
        processes.together(lambda: stack.enter_context(claim))
        own = {}
        for i, plan in enumerate(plans):
            key = digest([plan.number, len(plan.rows)])
            record = writer.record(plan, key)
            if i % processes.num != processes.rank:
                advance(len(plan.rows), record is not None)
                continue
            if record is None:
                record = writer.write(plan, key, contents(plan))
            else:
                advance(record.num, True)
            own[plan.name] = record
        processes.together(lambda: None)  # a barrier without a timeout
        made = dict(processes.lists(list(own.items())))

        def finish() -> Index | None:
            if not processes.is_main:
                return None
            return writer.finish(
                {plan.name: made[plan.name] for plan in plans},
                [split.labels for split in dataset.splits if split.labels is not None],
                name=f"{dataset.name}-latents",
                shape=shape,
                dtype=dtype,
                num_levels=None,
                class_names=dataset.class_names,
            )

        index = processes.from_main(processes.together(finish))
        assert index is not None
        return index


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
