"""The ODE likelihood of some images, next to the variational bound of the same images.

In float32, whatever the run's precision is: the flow's density is that of a smooth map, and a
network that rounds is none. In bfloat16 it came out as much as 0.35 bits/dim too good.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.checks import require_positive
from elbos.evaluation.likelihood import Condition
from elbos.likelihood.flow import Dequantize, flow_likelihood, truncated_normal, uniform
from elbos.progress import Advance
from elbos.runs.store import Store
from elbos.training.data import to_unit
from elbos.training.randomness import generator
from elbos.training.trained import TrainedRun

KEY = 2**32 - 1  # of its randomness; rounds count from 0
BATCH_SIZE = 50  # steps are shared over a batch: its worst image decides how many
DEQUANTIZATIONS: dict[str, Dequantize] = {
    "truncated-normal": truncated_normal,
    "uniform": uniform,
}


@dataclass(frozen=True, kw_only=True)
class Ode:
    """The ODE likelihood."""

    num_images: int = 100
    """On so many images, 0 for none; some hundred evaluations each, with gradient."""

    tolerance: float = 1e-4
    """Relative and absolute tolerance of a step, in nats per dimension."""

    dequantization: Literal["truncated-normal", "uniform"] = "truncated-normal"
    """What discrete data are blurred with: the noise that the network knows, or the whole cell."""

    trace: Literal["hutchinson", "exact"] = "hutchinson"
    """One random probe per image, or one backward pass per dimension."""

    def __post_init__(self) -> None:
        require_positive(tolerance=self.tolerance)
        if self.num_images < 0 or self.num_images == 1:
            raise ValueError(
                f"ode.num_images is {self.num_images}: give at least 2, or 0 to leave it out."
            )


def measure_ode(
    run: TrainedRun,
    condition: Condition,
    bound: Float[Tensor, " n"],
    ode: Ode,
    store: Store,
    seed: int,
    on_images: Advance,
) -> dict[str, Any]:
    """The ODE likelihood in bits per dimension, and its difference to the bound.

    Args:
        run: The run.
        condition: Images and labels.
        bound: The variational bound of each image, nats per dimension.
        ode: How.
        store: Where batches are kept.
        seed: Seed of dequantization and probes.
        on_images: Called with the number of images done after each batch.
    """
    num = min(ode.num_images, len(condition))
    parts = []
    for batch, start in enumerate(range(0, num, BATCH_SIZE)):
        rows = slice(start, min(start + BATCH_SIZE, num))
        g, part = generator(seed, KEY, batch), f"{batch:05d}"
        is_kept = part in store
        parts.append(store.part(part, partial(_solve, run, condition, rows, ode, g)))
        on_images(rows.stop - start, is_kept)
    nats = torch.cat([part["nats"] for part in parts]).double()
    difference = (nats - bound[:num]) / math.log(2)
    is_discrete = run.dataset.num_levels is not None
    return {
        "bits_per_dim": nats.mean().item() / math.log(2),
        "standard_error": nats.std().item() / math.sqrt(num) / math.log(2),
        "bound_bits_per_dim": bound[:num].mean().item() / math.log(2),
        "difference": difference.mean().item(),
        "difference_se": difference.std().item() / math.sqrt(num),
        "num_images": num,
        "dequantization": ode.dequantization if is_discrete else None,
        "trace": ode.trace,
        "precision": "fp32",
        "rtol": ode.tolerance,
        "num_evaluations": torch.cat([part["num_evaluations"] for part in parts]).max().item(),
    }


def _solve(
    run: TrainedRun, condition: Condition, rows: slice, ode: Ode, g: torch.Generator
) -> dict[str, Tensor]:
    labels, schedule = condition.labels, run.config.schedule
    found = flow_likelihood(
        run.denoiser,
        to_unit(condition.x[rows], run.dataset.num_levels).to(run.device),
        logsnr_min=schedule.logsnr_min,
        logsnr_max=schedule.logsnr_max,
        num_levels=run.dataset.num_levels,
        dequantize=DEQUANTIZATIONS[ode.dequantization],
        use_exact_trace=ode.trace == "exact",
        rtol=ode.tolerance,
        atol=ode.tolerance,
        cond=None if labels is None else labels[rows].to(run.device),
        generator=g,
    )
    return {"nats": found.nats, "num_evaluations": torch.tensor([found.num_evaluations])}
