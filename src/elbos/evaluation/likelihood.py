r"""Measure a run's losses at many noise levels, on all images of a split.

Two measurements with independent noise. The **pilot** is of a few images, at levels uniform in
log-SNR: it decides how the rest is measured, and is later the other side of the theorem. The
**rounds** are of all images (see `likelihood.measurements`).
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.likelihood import (
    Estimate,
    Measurements,
    decoder_loss,
    fit,
    losses_at,
    prior_loss,
    stratified_times,
)
from elbos.likelihood.measurements import NUM_BINS
from elbos.progress import Start
from elbos.runs.store import Store
from elbos.schedules import Linear, Schedule
from elbos.training.data import Split, to_unit
from elbos.training.randomness import generator
from elbos.training.trained import TrainedRun
from elbos.training.validation import BATCH_SIZE

PILOT_TIMES = 32  # of an image, at least
MIN_LOSSES_PER_BIN = 25  # of the pilot: fewer say little about the scatter of losses there
MIN_PILOT_IMAGES = math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / PILOT_TIMES)
ROUND_TIMES = 4
# Measurement errors of these shares of the floor add 3 % and 0.1 % to the standard error: little,
# and nothing that would be worth hundreds of rounds.
LITTLE, NOTHING = 0.25, 0.05
MAX_ROUNDS = 1000  # with a target that few images, all alike, come near to for ever


@dataclass(frozen=True)
class Condition:
    """Images of a split, and what the network is told about them.

    Args:
        name: What the network is told, in a word.
        x: Levels, or points.
        labels: Their classes if the network is told, else None.
    """

    name: str
    x: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Measured:
    """A condition's losses; nats per dimension, float64.

    Args:
        pilot: At evenly spread levels, of the first images.
        rounds: At the levels that matter, of all.
        prior: KL divergence from the prior.
        decoder: Loss of the decoder, a draw in each round.
    """

    pilot: Measurements
    rounds: Measurements
    prior: Float[Tensor, " n"]
    decoder: Float[Tensor, "n r"]

    @property
    def diffusion(self) -> Float[Tensor, "n r"]:
        """The diffusion term of the bound."""
        return self.rounds.integral(torch.ones_like)

    @property
    def bound(self) -> Float[Tensor, "n r"]:
        """The bound on the negative log-likelihood."""
        return self.diffusion + self.decoder + self.prior[:, None]

    @property
    def num_evaluations(self) -> int:
        """Network evaluations made."""
        return self.pilot.loss.numel() + self.rounds.loss.numel()


def conditions(run: TrainedRun, split: Split, rows: Int64[Tensor, " n"]) -> list[Condition]:
    """What the network is told, as in training: nothing, the label, or each in turn."""
    x, labels = split.x[rows], None if split.labels is None else split.labels[rows]
    told = []
    if not run.has_labels or run.config.label_dropout > 0:
        told.append(Condition("unconditional", x, None))
    if run.has_labels and run.config.label_dropout < 1:
        told.append(Condition("given_label", x, labels))
    return told


def num_pilot_times(num_images: int) -> int:
    """Noise levels of an image in a pilot of so many images: each bin gets at least 25 losses."""
    return max(PILOT_TIMES, math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / num_images))


def measure(
    run: TrainedRun,
    condition: Condition,
    store: Store,
    *,
    num_pilot: int,
    num_rounds: int,
    target_se: float | None,
    seed: int,
    start: Start,
) -> Measured:
    """Measure one condition.

    Args:
        run: The run.
        condition: Images and labels.
        store: Where batches are kept.
        num_pilot: Images in the pilot, at most all.
        num_rounds: Rounds; with a target, at least as many.
        target_se: Standard error of the bound to be reached, in nats per dimension. It is not if
            the images alone leave more: rounds stop when more of them would not help.
        seed: Seed of noise and noise levels.
        start: Told of each piece of work.

    Raises:
        ValueError: If a loss is not finite.
    """
    work = _Work(run, condition, store, seed, start)
    ends = run.config.schedule.logsnr_min, run.config.schedule.logsnr_max
    even = Linear(logsnr_min=ends[0], logsnr_max=ends[1])
    logsnr, loss, _ = work.round("pilot", 0, even, num_pilot, num_pilot_times(num_pilot))
    pilot = Measurements(even, logsnr[:, None], loss[:, None])
    schedule, control = fit(pilot)
    prior = prior_loss(to_unit(condition.x, run.dataset.num_levels), ends[0]).double()
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    while True:
        number = 1 + len(rounds)
        rounds.append(work.round(f"round-{number}", number, schedule, len(condition), ROUND_TIMES))
        logsnr, loss, decoder = (torch.stack(parts, 1) for parts in zip(*rounds, strict=True))
        measured = Measured(pilot, Measurements(schedule, logsnr, loss, control), prior, decoder)
        if len(rounds) < num_rounds:
            continue
        if number >= MAX_ROUNDS or is_enough(Estimate.of(measured.bound), target_se):
            return measured


def is_enough(bound: Estimate, target_se: float | None) -> bool:
    """Whether the target is reached, or would not be by measuring these images again."""
    if target_se is None or bound.standard_error <= target_se:
        return True
    share = LITTLE if bound.floor > target_se else NOTHING
    return bound.measurement_error < share * bound.floor


@dataclass(frozen=True)
class _Work:
    """The loop over batches, whose randomness is keyed by (seed, what it is for, batch)."""

    run: TrainedRun
    condition: Condition
    store: Store
    seed: int
    start: Start

    def round(
        self, name: str, key: int, schedule: Schedule, num: int, num_times: int
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"], Float[Tensor, " n"]]:
        """Levels and losses of the first `num` images, and a draw of their decoder's loss."""
        logsnr = schedule.logsnr(stratified_times(num, num_times, generator(self.seed, key)))
        what = f"{self.condition.title}, {name.replace('-', ' ')}"
        advance = self.start(what, num * num_times, "evaluations")
        parts = []
        for batch, begin in enumerate(range(0, num, BATCH_SIZE)):
            levels = logsnr[begin : min(begin + BATCH_SIZE, num)]
            g = generator(self.seed, key, batch)
            compute, part = partial(self._losses, begin, levels, g), f"{name}-{batch:05d}"
            is_kept = part in self.store
            parts.append(self.store.part(part, compute))
            advance(levels.numel(), is_kept)
        loss, decoder = (torch.cat([part[k] for part in parts]) for k in ("loss", "decoder"))
        return logsnr, loss.double(), decoder.double()

    def _losses(
        self, begin: int, logsnr: Float[Tensor, "b m"], g: torch.Generator
    ) -> dict[str, Tensor]:
        rows = slice(begin, begin + len(logsnr))
        labels, num_levels = self.condition.labels, self.run.dataset.num_levels
        x = to_unit(self.condition.x[rows], num_levels).to(self.run.device)
        cond = None if labels is None else labels[rows].to(self.run.device)
        with torch.no_grad(), self.run.autocast():
            loss = losses_at(self.run.denoiser, x, logsnr, cond=cond, generator=g)
        num_bad = int((~loss.isfinite()).sum())
        if num_bad:
            raise ValueError(
                f"{num_bad} of {loss.numel()} losses are NaN or infinity: "
                "look at the data, and at the network."
            )
        logsnr_max = self.run.config.schedule.logsnr_max
        return {"loss": loss, "decoder": decoder_loss(x, logsnr_max, num_levels, generator=g)}
