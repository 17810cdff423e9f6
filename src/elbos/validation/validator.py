"""Validator: the ELBO of any denoiser on a held-out set, callable from any training loop."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from elbos.base.checks import Typed, require_positive, typed
from elbos.base.conditions import Condition, cond_at, map_tensors, to_device
from elbos.base.items import Batched, Items, first_item
from elbos.base.processes import require_alike, share, summed, together, warn_if_several
from elbos.base.progress import Start, silent
from elbos.models.likelihood import prior_loss, warn_if_unresolved
from elbos.models.likelihood.terms import eps_errors, loss_of_levels
from elbos.theory.denoiser import Denoise
from elbos.theory.schedules import Linear, Schedule
from elbos.validation.diagnostics import (
    check,
    check_data,
    require_finite_losses,
    warn_if_missed,
    warn_if_poor,
)
from elbos.validation.draws import FIXED, PILOT, Draws
from elbos.validation.estimate import Estimate
from elbos.validation.execution import Execution, Parts, Tensors, evaluating, mean
from elbos.validation.measurements import (
    MIN_TUNING_SAMPLES,
    ControlVariate,
    Measurements,
    fit,
    num_pilot_times,
)
from elbos.validation.result import NATS_PER_BIT, Validation

ROUND_TIMES = 4  # evaluations per sample and round
NUM_SPREAD = 32  # samples of the checks before a validation
MAX_ROUNDS = 1000  # few, nearly equal samples approach a target only slowly


@dataclass(frozen=True)
class Validator(Typed):
    r"""Fixed held-out data and noise for validating denoisers.

    Called with a denoiser, it measures the variational bound of every sample,

    $$-\log p(x) \le \text{decoder} + \int_{\lambda_\min}^{\lambda_\max}
      \tfrac12\,\mathbb E\|\hat\epsilon - \epsilon\|^2\,d\lambda + \text{prior},$$

    without bias, at stratified noise levels. Levels and noise of a sample are a function of the
    seed and its index: the result does not depend on the batch size, the device or the number of
    processes, and two denoisers are compared on the same draws (`Validation.difference`).

    Attributes:
        data: Held-out data in [-1, 1], or latents: a tensor `[n, ...]` or a dataset whose `data[i]`
            is `x` or `(x, cond)`, without augmentation, or a `DataLoader` of one, in any order.
            With a single sample the standard error is NaN.
        to_item: Makes `x` or `(x, cond)` of an item of the dataset, such as `lambda item:
            (item["image"], item["label"])`. Default: the item itself.
        mask_of: Returns which values of a batch count, by its condition, without or with the last
            axes: `lambda cond: ~cond["is_pad"]`. Bits/dim of a sample are of these. Default: all.
        num_levels: $K$, if the data are discrete, $2k/(K-1) - 1$. Default: continuous data.
        logsnr_min: $\lambda_\min$. Default: -10, where the prior's loss is below 1e-4 bits/dim.
        logsnr_max: $\lambda_\max$. Default: 13.3, VDM's for 8-bit images. A denoiser trained on a
            table of steps may end earlier: give the end of its table.
        num_evaluations: Function evaluations of each sample, a multiple of 4. Default: 8.
        seed: Seed of noise and noise levels.
        schedule: Distribution of the noise levels; it affects errors, not the mean. Default:
            uniform in log-SNR. `tuned` fits a better one.
        control: The control variate, which affects errors, not the mean. Default: none.

    Raises:
        ValueError: If the log-SNR range is empty or infinite, numbers are out of range, there is no
            sample, or a `DataLoader` has a `collate_fn` or a sampler that changes the samples.

    Examples:
        >>> from elbos import oracles
        >>> one = torch.ones(1)
        >>> denoiser = oracles.GaussianMixture(one, torch.zeros(1, 2), one)
        >>> x, _ = denoiser.sample(1000)
        >>> result = Validator(x)(denoiser)
        >>> abs(result.bits_per_dim - 2.047) < 4 * result.standard_error  # the entropy of N(0, 1)
        True

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """

    data: Any
    _: KW_ONLY
    to_item: Callable[[Any], Any] | None = None
    mask_of: Callable[[Any], Tensor] | None = None
    num_levels: int | None = None
    logsnr_min: float = -10.0
    logsnr_max: float = 13.3
    num_evaluations: int = 2 * ROUND_TIMES
    seed: int = 0
    schedule: Schedule | None = None
    control: ControlVariate | None = None

    def __post_init__(self) -> None:
        require_positive(num_evaluations=self.num_evaluations)
        if self.num_evaluations % ROUND_TIMES:
            raise ValueError(
                f"num_evaluations is {self.num_evaluations}: give a multiple of {ROUND_TIMES}."
            )
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**63):
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")
        if self.num_levels is not None and self.num_levels < 2:
            raise ValueError(f"num_levels is {self.num_levels}: give 2 or more, or None.")
        schedule = copy.deepcopy(self.schedule)  # the original may go on learning
        object.__setattr__(self, "schedule", schedule)
        ends = [(self._schedule.logsnr_min, self._schedule.logsnr_max)]
        if self.control is not None:
            ends.append(tuple(self.control.logsnr[[0, -1]].tolist()))
        for other in ends:
            if other != self._ends:
                raise ValueError(
                    f"schedule or control variate are of log-SNRs in {other}, the validator's are "
                    f"in {self._ends}: give all the same ends."
                )
        if isinstance(self._source, Items):
            first_item(self._source)
        if self.control is None:  # the validator before it was `tuned` has warned
            warn_if_unresolved(self.logsnr_max, self.num_levels)

    def __len__(self) -> int:
        return len(self._source)

    def __repr__(self) -> str:
        names = "num_levels", "logsnr_min", "logsnr_max", "num_evaluations", "seed"
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        is_tuned = "" if self.control is None else ", tuned"
        return f"Validator({len(self)} samples, {settings}{is_tuned})"

    @cached_property
    def _source(self) -> Batched:
        if isinstance(self.data, Batched) and not hasattr(self.data, "__getitem__"):
            return self.data  # other libraries' datasets have a method `batch`, too
        data = self.data
        if isinstance(data, DataLoader):
            is_collated = data.collate_fn not in (default_collate, default_convert)
            in_any_order = SequentialSampler, RandomSampler, DistributedSampler
            if (is_collated and self.to_item is None) or not isinstance(data.sampler, in_any_order):
                raise ValueError(
                    "the DataLoader has its own collate_fn or sampler, and a validator reads the "
                    "dataset: give the dataset, with to_item, or the Subset that is held out."
                )
            data = data.dataset
        is_double = isinstance(data, Tensor) and data.dtype == torch.float64
        dtype = torch.float64 if is_double else torch.float32
        return Items(data, is_bounded=False, dtype=dtype, to_item=self.to_item)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.logsnr_min, self.logsnr_max

    @property
    def _schedule(self) -> Schedule:
        return self.schedule or Linear(logsnr_min=self.logsnr_min, logsnr_max=self.logsnr_max)

    @cached_property
    def _draws(self) -> Draws:
        return Draws(self.seed, len(self))

    @typed
    def __call__(
        self,
        denoiser: Denoise,
        *,
        cond: Condition = None,
        batch_size: int = 64,
        target_se: float | None = None,
        is_shared: bool | None = None,
        device: torch.device | str | None = None,
        parts: Parts | None = None,
        start: Start = silent,
    ) -> Validation:
        """Measure the variational bound of every sample under a denoiser.

        Args:
            denoiser: Estimates data and noise, such as `elbos.Denoiser(network, V())` or an adapter
                of `elbos.adapters` for other projects' networks.
            cond: The condition of all samples, `[n, ...]`. Default: the condition in the data.
            batch_size: Function evaluations at once.
            target_se: Target standard error in bits/dim: rounds of 4 evaluations are added until it
                is reached. If the scatter of the samples alone exceeds the target, rounds stop,
                with a warning, once the measurement error is half of the sampling error.
            is_shared: Whether all processes of `torch.distributed` make this call and share the
                work; all get the same result. Default: each calling process does all the work,
                with a warning if there are several processes.
            device: Device of the denoiser. Default: the device of its parameters, or the CPU.
            parts: Store of finished parts, so that the same call resumes; use one store per
                denoiser and dataset. Processes that share the work store their own parts, and need
                unsharded copies of the network. Default: no store.
            start: Starts a progress display. Default: none.

        Raises:
            ValueError: If a loss is not finite, the denoiser does not return a pair of estimates in
                the shape of the data, discrete data have other values, or `cond` does not cover all
                samples.
        """
        if target_se is not None:
            require_positive(target_se=target_se)
        if is_shared is None:
            is_shared = False
            warn_if_several()
        target = None if target_se is None else target_se * NATS_PER_BIT
        rounds: list[Tensors] = []
        ends, settings = self._ends, (cond, batch_size, is_shared, device, parts, start)
        with self._evaluation(ends, denoiser, *settings) as (execution, precision):
            while True:
                number = len(rounds)
                levels = self._logsnr(len(self), number, ROUND_TIMES)
                rounds.append(self._round(execution, f"round-{number + 1}", number, levels))
                if len(rounds) * ROUND_TIMES < self.num_evaluations:
                    continue
                logsnr, loss, decoder = (
                    torch.stack([measured[name] for measured in rounds], 1)
                    for name in ("logsnr", "loss", "decoder")
                )
                result = Validation(
                    measurements=Measurements(self._schedule, logsnr, loss, self.control),
                    prior=rounds[0]["prior"],
                    decoder=decoder,
                    num_levels=self.num_levels,
                    precision=precision,
                )
                if len(rounds) >= MAX_ROUNDS or result.nats.is_enough(target):
                    break
        warn_if_poor(result)
        if target_se is not None:
            warn_if_missed(result.bits, target_se, len(rounds) * ROUND_TIMES)
        return result

    @typed
    def pilot(
        self,
        denoiser: Denoise,
        *,
        num_samples: int = 500,
        num_times: int | None = None,
        cond: Condition = None,
        batch_size: int = 64,
        is_shared: bool = False,
        device: torch.device | str | None = None,
        parts: Parts | None = None,
        start: Start = silent,
    ) -> Measurements:
        """Measure the losses of a few samples at evenly spread noise levels.

        The noise is not that of the validation. The default of 500 samples takes as many
        evaluations as a validation of 2,000. Each sample has `num_times` noise levels: 32 by
        default, more for few samples. The other arguments are those of a validation.
        """
        require_positive(num_samples=num_samples)
        if num_times is not None:
            require_positive(num_times=num_times)
        num = min(num_samples, len(self))
        even = self if self.schedule is None else replace(self, schedule=None, control=None)
        logsnr = even._logsnr(num, PILOT, num_times or num_pilot_times(num))
        settings = cond, batch_size, is_shared, device, parts, start
        with self._evaluation(self._ends, denoiser, *settings) as (execution, _):
            measured = self._round(execution, "pilot", PILOT, logsnr)
        loss = measured["loss"][:, None]
        is_lattice = num == len(self)
        return Measurements(even._schedule, logsnr[:, None], loss, is_lattice=is_lattice)

    @typed
    def at_levels(
        self,
        denoiser: Denoise,
        logsnr: Sequence[float],
        *,
        cond: Condition = None,
        batch_size: int = 64,
        is_shared: bool = False,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, "n m"]:
        """Measure the loss of each sample at given noise levels.

        They are in nats per dimension and unit of log-SNR. Other arguments are a validation's.
        """
        require_positive(num_levels=len(logsnr))
        levels = torch.tensor(logsnr, dtype=torch.float64).expand(len(self), -1)
        ends, settings = (min(logsnr), max(logsnr)), (cond, batch_size, is_shared, device)
        with self._evaluation(ends, denoiser, *settings) as (execution, _):
            return self._round(execution, "levels", FIXED, levels)["loss"]

    @typed
    def tuned(self, pilot: Measurements) -> "Validator":
        """Return a validator whose noise levels are adapted to a pilot measurement.

        The returned validator needs fewer evaluations for the same error, for every denoiser that
        is compared with it.

        Raises:
            ValueError: If the pilot has fewer than 8 samples although the dataset has more.
        """
        if len(pilot) < min(MIN_TUNING_SAMPLES, len(self)):
            raise ValueError(
                f"the pilot has {len(pilot)} of {len(self)} samples: give {MIN_TUNING_SAMPLES}."
            )
        schedule, control = fit(pilot)
        return replace(self, schedule=schedule, control=control)

    @typed
    def compare(self, before: Validation, after: Validation) -> Estimate:
        """Return the paired difference in bits/dim, positive if the second bound is lower."""
        return before.difference(after)

    def has_levels_of(self, result: Validation) -> bool:
        """Return whether the noise levels of a validation are those of this validator."""
        rounds = range(self.num_evaluations // ROUND_TIMES)
        levels = torch.stack([self._logsnr(len(self), i, ROUND_TIMES) for i in rounds], 1)
        return torch.equal(levels, result.measurements.logsnr)

    @contextmanager
    def _evaluation(
        self, ends: tuple[float, float], denoiser: Denoise, *settings: Any
    ) -> Iterator[tuple[Execution, str]]:
        """Evaluate a denoiser within the block, after tests; gives the precision, too."""
        execution = Execution(denoiser, self._source, self.num_levels, self.mask_of, *settings)
        if isinstance(self._source, Items):
            check_data(self._source)
        rows = torch.linspace(0, len(self) - 1, NUM_SPREAD).long()  # the data may be sorted
        with evaluating(denoiser):
            x, cond, mask = execution.batch(rows)
            eps = self._draws.noise(rows, FIXED, x.shape[1:]).to(x)
            yield execution, check(denoiser, x, cond, mask, eps, ends, execution.batch_size)

    def _round(
        self, execution: Execution, name: str, number: int, logsnr: Float[Tensor, "n m"]
    ) -> Tensors:
        is_shared, parts = execution.is_shared, execution.parts
        num_samples, num_times = logsnr.shape
        if is_shared:
            first, _ = self._source.batch(torch.arange(1))
            sums = (logsnr.sum().item(), first.double().sum().item())
            require_alike((num_samples, execution.batch_size, self.seed, *sums), execution.device)
        blocks = torch.split(torch.arange(num_samples), max(1, execution.batch_size // num_times))
        pieces = list(share(len(blocks), is_shared))
        total = sum(len(blocks[i]) for i, _ in pieces) * num_times
        advance = execution.start(name.replace("-", " "), total, "evaluations")
        key = repr((self.seed, self.num_levels, self.logsnr_min, self.logsnr_max)).encode()
        computed: list[tuple[Tensor, Tensors]] = []

        def compute() -> None:
            for i, is_own in pieces:
                levels, is_stored = logsnr[blocks[i]], False
                block = partial(self._block, execution, blocks[i], number, levels)
                if parts is None or not is_own:
                    tensors = block()
                else:
                    digest = hashlib.sha256(key + levels.numpy().tobytes()).hexdigest()[:12]
                    part = f"{name}-{i:05d}-{digest}"
                    is_stored = part in parts
                    tensors = parts.part(part, block)
                owned = slice(None if is_own else 0)
                computed.append((blocks[i][owned], {n: v[owned] for n, v in tensors.items()}))
                advance(levels.numel(), is_stored)

        if is_shared and parts is not None:  # some may find theirs finished
            together(compute)
        else:
            compute()
        merged = summed(computed, num_samples, is_shared, execution.device)
        require_finite_losses(merged["loss"], logsnr)
        return {**merged, "logsnr": logsnr}

    def _logsnr(self, num: int, number: int, num_times: int) -> Float[Tensor, "n m"]:
        return self._schedule.logsnr(self._draws.times(torch.arange(num), number, num_times))

    @torch.no_grad()
    def _block(
        self,
        execution: Execution,
        rows: Int64[Tensor, " b"],
        number: int,
        logsnr: Float[Tensor, "b m"],
    ) -> Tensors:
        denoiser, num_times, size = execution.denoiser, logsnr.shape[1], execution.batch_size
        x, cond, mask = execution.batch(rows)
        numbers = to_device(rows, execution.device)
        noise = self._draws.noise(numbers, number, (num_times + 1, *x.shape[1:])).to(x.dtype)
        levels = to_device(logsnr.flatten().to(x.dtype), execution.device)
        eps = noise[:, :-1].flatten(0, 1)
        many = map_tensors(
            lambda part: part.repeat_interleave(num_times, 0), {"x": x, "cond": cond, "mask": mask}
        )
        many |= {"logsnr": levels, "eps": eps}
        parts = [cond_at(many, slice(k, k + size)) for k in range(0, len(levels), size)]
        errors = (eps_errors(denoiser, p["x"], p["logsnr"], p["cond"], p["eps"]) for p in parts)
        losses = torch.cat([mean(e, p["mask"]) for e, p in zip(errors, parts, strict=True)])
        single = x.reshape(-1, 1)  # prior and decoder, by element
        prior = prior_loss(single, self.logsnr_min)
        noise = noise[:, -1].reshape(-1, 1)
        decoder = loss_of_levels(single, self.logsnr_max, self.num_levels, noise)
        return {
            "loss": losses.reshape(len(rows), num_times),
            "prior": mean(prior.view_as(x), mask),
            "decoder": mean(decoder.view_as(x), mask),
        }
