r"""A run's losses at many noise levels, on all images of a split, and what follows from them.

Two measurements with independent noise. The **pilot** is of a few images, at levels uniform in
log-SNR: it decides how the rest is measured, and is later the other side of the theorem. The
**rounds** are of all images (see `likelihood.measurements`).

The theorem checks them,

$$\int w\,\ell\,d\lambda
  = \int -w'(\lambda)\, L(\lambda)\, d\lambda
  + w(\lambda_\max) L(\lambda_\max) - w(\lambda_\min) L(\lambda_\min).$$

The left side weighs losses: those of the rounds, drawn from the fitted density. The right side
mixes ELBOs: $L$ at a thousand noise levels, integrated from the losses of the pilot. The two share
images, weighting and network, and no code but the loss at a noise level: an error in a density, a
control variate or an end term sets them apart.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos import weightings
from elbos.analysis import is_monotone
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.result import Curve, Likelihood, TheoremCheck
from elbos.evaluation.stores import run_store
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
from elbos.runs.store import Part, Store, Tensors
from elbos.schedules import Linear, Schedule
from elbos.training.data import Split, to_unit
from elbos.training.randomness import generator
from elbos.training.run import Run
from elbos.training.validation import BATCH_SIZE
from elbos.weightings import WeightFunction

NATS_PER_BIT = math.log(2)
MIN_PILOT_LEVELS = 32  # of an image
MIN_LOSSES_PER_BIN = 25  # of the pilot: fewer say little about the scatter of losses there
MIN_PILOT_IMAGES = math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / MIN_PILOT_LEVELS)
ROUND_LEVELS = 4  # of an image
# Measurement errors of these shares of the floor add 3 % and 0.1 % to the standard error: little,
# and nothing that would be worth hundreds of rounds.
LITTLE, NOTHING = 0.25, 0.05
MAX_ROUNDS = 1000  # with a target that few images, all alike, come near to for ever

NUM_ELBOS = 1001

CHECKED: dict[str, WeightFunction] = {
    "ELBO": weightings.ELBO(),
    "sigmoid(2)": weightings.Sigmoid(k=2.0),
    "v-cosine": weightings.Exponential(rate=0.5),
    "EDM": weightings.EDM(),
    "EDM-monotonic": weightings.Monotone(weightings.EDM()),
    "Min-SNR(5)": weightings.MinSNR(gamma=5.0),
}
"""Monotone and not, flat and steep."""


@dataclass(frozen=True)
class ConditionedImages:
    """Images of a split, and what the network is told about them.

    Args:
        name: "unconditional" or "given_label".
        x: Pixel values, or points.
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

    def batch(self, run: Run, images: slice) -> tuple[Tensor, Tensor | None]:
        """Some images, in [-1, 1], and their labels, where the network is."""
        x = to_unit(self.x[images], run.dataset.num_levels).to(run.device)
        return x, None if self.labels is None else self.labels[images].to(run.device)


@dataclass(frozen=True)
class Measured:
    """The losses of a condition; nats per dimension, float64.

    Args:
        pilot: At levels uniform in log-SNR, of the first images.
        rounds: At levels drawn from the fitted density, of all.
        prior: KL divergence from the prior.
        decoder: Loss of the decoder, estimated in each round.
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


def chosen_images(run: Run, config: EvaluationConfig) -> Int64[Tensor, " n"]:
    """The indices of the images to be measured, in a random order that is the same for every run.

    Raises:
        ValueError: If there are fewer images, or fewer than 2.
    """
    split: Split = getattr(run.dataset, config.split)
    num_images = config.num_images or len(split)
    if not 2 <= num_images <= len(split):
        raise ValueError(
            f"The {config.split} split has {len(split)} images: "
            f"{num_images} of them cannot be measured with a standard error."
        )
    return torch.randperm(len(split), generator=generator(0))[:num_images]


def conditions(run: Run, split: Split, images: Int64[Tensor, " n"]) -> list[ConditionedImages]:
    """What the network was told in training: nothing, the label, or each in turn."""
    x, labels = split.x[images], None if split.labels is None else split.labels[images]
    told = []
    if not run.has_labels or run.config.label_dropout > 0:
        told.append(ConditionedImages("unconditional", x, None))
    if run.has_labels and run.config.label_dropout < 1:
        told.append(ConditionedImages("given_label", x, labels))
    return told


def num_pilot_levels(num_images: int) -> int:
    """Noise levels of each of so many images in the pilot: each bin gets at least 25 losses."""
    return max(MIN_PILOT_LEVELS, math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / num_images))


def measure(
    run: Run, condition: ConditionedImages, config: EvaluationConfig, start: Start
) -> Measured:
    """Measure a condition: the pilot, then rounds until the target is reached or out of reach.

    Args:
        run: The run.
        condition: Images and labels.
        config: What to measure.
        start: Begins the progress of each piece of work.

    Raises:
        ValueError: If a loss is not finite.
    """
    num_pilot = min(config.num_pilot_images, len(condition))
    num_levels = num_pilot_levels(num_pilot)
    key = [config.split, len(condition), num_pilot, num_levels]
    store = run_store(run, condition.name, images=key, seed=config.seed)
    losses = _Losses(run, condition, store, config.seed, start)
    ends = run.config.schedule.logsnr_min, run.config.schedule.logsnr_max
    even = Linear(logsnr_min=ends[0], logsnr_max=ends[1])
    logsnr, loss, _ = losses.measure("pilot", 0, even, num_pilot, num_levels)
    pilot = Measurements(even, logsnr[:, None], loss[:, None])
    schedule, control = fit(pilot)
    prior = prior_loss(to_unit(condition.x, run.dataset.num_levels), ends[0]).double()
    target = None if config.target_se is None else config.target_se * NATS_PER_BIT
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    while True:
        number = 1 + len(rounds)
        rounds.append(
            losses.measure(f"round-{number}", number, schedule, len(condition), ROUND_LEVELS)
        )
        logsnr, loss, decoder = (torch.stack(parts, 1) for parts in zip(*rounds, strict=True))
        measured = Measured(pilot, Measurements(schedule, logsnr, loss, control), prior, decoder)
        if number < config.num_rounds:
            continue
        if number >= MAX_ROUNDS or is_enough(Estimate.from_rounds(measured.bound), target):
            return measured


def is_enough(bound: Estimate, target_se: float | None) -> bool:
    """Whether the bound has the standard error `target_se`, or would not have it after more rounds
    on these images.
    """
    if target_se is None or bound.standard_error <= target_se:
        return True
    share = LITTLE if bound.sampling_error > target_se else NOTHING
    return bound.measurement_error < share * bound.sampling_error


@dataclass(frozen=True)
class _Losses:
    """The loop over batches, whose randomness is keyed by (seed, pilot or round, batch)."""

    run: Run
    condition: ConditionedImages
    store: Store
    seed: int
    start: Start

    def measure(
        self, name: str, key: int, schedule: Schedule, num: int, num_levels: int
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"], Float[Tensor, " n"]]:
        """Levels and losses of the first `num` images, and an estimate of their decoder's loss."""
        logsnr = schedule.logsnr(stratified_times(num, num_levels, generator(self.seed, key)))
        what = f"{self.condition.title}, {name.replace('-', ' ')}"
        advance = self.start(what, num * num_levels, "evaluations")
        parts = (
            Part(
                f"{name}-{batch:05d}",
                levels.numel(),
                partial(self._batch, batch, levels, generator(self.seed, key, batch)),
            )
            for batch, levels in enumerate(torch.split(logsnr, BATCH_SIZE))
        )
        found = self.store.concatenated(parts, advance)
        return logsnr, found["loss"].double(), found["decoder"].double()

    def _batch(self, batch: int, logsnr: Float[Tensor, "b m"], g: torch.Generator) -> Tensors:
        begin, schedule = batch * BATCH_SIZE, self.run.config.schedule
        x, cond = self.condition.batch(self.run, slice(begin, begin + len(logsnr)))
        with torch.no_grad(), self.run.autocast():
            loss = losses_at(self.run.denoiser, x, logsnr, cond=cond, generator=g)
        num_bad = int((~loss.isfinite()).sum())
        if num_bad:
            raise ValueError(
                f"{num_bad} of {loss.numel()} losses are NaN or infinity: "
                "check the data and the network."
            )
        num_levels = self.run.dataset.num_levels
        decoder = decoder_loss(x, schedule.logsnr_max, num_levels, generator=g)
        return {"loss": loss, "decoder": decoder}


def summary(measured: Measured, target_se: float | None = None) -> Likelihood:
    """The bound and its terms, and the loss and the ELBO at every noise level."""
    bound = Estimate.from_rounds(measured.bound)
    standard_error = bound.standard_error / NATS_PER_BIT
    curve, elbo = _by_level(measured)
    return Likelihood(
        bits_per_dim=bound.mean / NATS_PER_BIT,
        standard_error=standard_error,
        measurement_error=bound.measurement_error / NATS_PER_BIT,
        floor=bound.sampling_error / NATS_PER_BIT,
        target_se=target_se,
        is_target_reached=None if target_se is None else standard_error <= target_se,
        nats_per_dim=bound.mean,
        decoder_bpd=measured.decoder.mean().item() / NATS_PER_BIT,
        diffusion_bpd=measured.diffusion.mean().item() / NATS_PER_BIT,
        prior_bpd=measured.prior.mean().item() / NATS_PER_BIT,
        num_rounds=measured.bound.shape[1],
        num_evaluations=measured.num_evaluations,
        curve=curve,
        elbo=elbo,
    )


def _by_level(measured: Measured) -> tuple[Curve, Curve]:
    """The loss by noise level, and its integral, the loss of the ELBO at every noise level."""
    rounds = measured.rounds
    edges = torch.linspace(
        rounds.schedule.logsnr_min, rounds.schedule.logsnr_max, NUM_BINS + 1, dtype=torch.float64
    )
    middle, width = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]).item()
    losses = [Estimate.from_rounds(rounds.curve(level, width)) for level in middle.tolist()]
    elbos = [Estimate.from_rounds(rounds.elbo(level, measured.prior)) for level in edges.tolist()]
    return _curve(middle, losses), _curve(edges, elbos)


def _curve(logsnr: Float[Tensor, " k"], estimates: list[Estimate]) -> Curve:
    return Curve(
        logsnr=tuple(logsnr.tolist()),
        nats_per_dim=tuple(estimate.mean for estimate in estimates),
        standard_error=tuple(estimate.standard_error for estimate in estimates),
        measurement_error=tuple(estimate.measurement_error for estimate in estimates),
    )


def mixed_elbos(
    measurements: Measurements, weighting: WeightFunction, prior: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""The right side for each image, as a Stieltjes sum over noise levels.

    Args:
        measurements: One round of losses.
        weighting: $w$.
        prior: $L(\lambda_\min)$ of each image.
    """
    schedule, num_times = measurements.schedule, measurements.logsnr.shape[2]
    levels = torch.linspace(
        schedule.logsnr_min, schedule.logsnr_max, NUM_ELBOS, dtype=torch.float64
    )
    logsnr, loss = measurements.logsnr[:, 0], measurements.loss[:, 0]
    cell = torch.searchsorted(levels, logsnr).clamp(1, NUM_ELBOS - 1)  # counts from this level on
    gains = torch.zeros(len(loss), NUM_ELBOS, dtype=torch.float64)
    gains.scatter_add_(1, cell, loss / schedule.density(logsnr) / num_times)
    elbos = prior[:, None] + gains.cumsum(1)  # L at every level
    w = weighting(levels)
    between = (elbos[:, 1:] + elbos[:, :-1]) / 2
    return w[-1] * elbos[:, -1] - w[0] * elbos[:, 0] - (between * w.diff()).sum(1)


def check_theorem(measured: Measured, trained: WeightFunction) -> tuple[TheoremCheck, ...]:
    """Both sides for some weightings, on the pilot's images, and the z score of their difference.

    Args:
        measured: A condition's losses.
        trained: The run's own weighting, which is checked besides.
    """
    own = {} if trained in CHECKED.values() else {repr(trained): trained}
    return tuple(_check(measured, *named) for named in (CHECKED | own).items())


def _check(measured: Measured, name: str, weighting: WeightFunction) -> TheoremCheck:
    schedule, num = measured.rounds.schedule, len(measured.pilot.loss)
    loss = measured.rounds.integral(weighting)[:num].mean(1)
    mixture = mixed_elbos(measured.pilot, weighting, measured.prior[:num])
    difference = loss - mixture
    error = _standard_error(difference)
    return TheoremCheck(
        name=name,
        is_monotone=is_monotone(weighting, schedule.logsnr_min, schedule.logsnr_max),
        loss=loss.mean().item(),
        loss_se=_standard_error(loss),
        mixture=mixture.mean().item(),
        mixture_se=_standard_error(mixture),
        difference_se=error,
        z=difference.mean().item() / error,
    )


def _standard_error(values: Float[Tensor, " n"]) -> float:
    return values.std().item() / math.sqrt(len(values))
