r"""Measurement of the noise levels, coefficients and targets of a loss, for `probe`.

Each call of the loss gives the coefficient $c$, the target's $(a, b)$ and $\alpha, \sigma$ of every
sample, and hence the noise level and the coefficient of $\|\hat\epsilon - \epsilon\|^2$,

$$\lambda = \log\frac{\alpha^2}{\sigma^2}, \qquad
  k = c\,\Bigl(b - a\,\frac{\sigma}{\alpha}\Bigr)^2.$$

`pilot` says how a batch is measured; here the draws are spread evenly over the batches, and their
dot products solved.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.calls.arguments import Arguments, Slot
from elbos.audit.calls.draws import even_quantiles
from elbos.audit.calls.instrument import LossFunction
from elbos.audit.calls.rng import distant_seed, preserved_random_states
from elbos.audit.diagnostics import Diagnostic, scatter
from elbos.audit.probing.decompose import solve
from elbos.audit.probing.noise import of_the_target
from elbos.audit.probing.pilot import Batch, pilot
from elbos.audit.probing.refusals import require_explained
from elbos.audit.probing.scales import Process, process_of
from elbos.audit.probing.squared_error import MAX_OTHER
from elbos.base.arrays import Array
from elbos.base.checks import require_positive

_ONE_AT_A_TIME = threading.RLock()  # random states are global
NUM_BLOCKS = 10  # blocks of samples, each spread evenly by itself
_MIN_BATCHES = 8  # least number that shows a place in the batch that is never trained
_MAX_CHANCE = 1e-3  # expected number of such places if samples have no weight at random
_NUM_ELEMENTS = 2**17  # largest size of repeated data
_SOLVED_ROUNDING = 100  # relative to float32, if the spread of sampled data was fitted


@dataclass(frozen=True, kw_only=True)
class Samples:
    r"""Measured noise levels and coefficients of a loss for each training sample.

    Log-SNR is $\pm\infty$ for clean data and pure noise; the target is $a x + b\epsilon$ with the
    data in the scale of the process.
    """

    logsnr: Float[Tensor, " n"]
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]
    coefficient: Float[Tensor, " n"]  # $c$, for the squared error of the target
    eps_coefficient: Float[Tensor, " n"]  # $k$, for the squared error of the noise
    batch: Float[Tensor, " n"]  # number of the batch
    block: Float[Tensor, " n"]  # number of the independent block of samples
    process: Process
    data_offset: float  # number added to the data before scaling
    logsnr_error: float  # standard error of a single log-SNR; 0 if the noise is known
    rounding: Float[Tensor, " n"]  # rounding error of each log-SNR
    quantiles: Float[Tensor, "n draws"]  # logits of the draws for each sample (`rng`)
    places: list[int | None]  # indices of these draws for `Measurement.at`
    alpha: Float[Tensor, " n"]  # scale of the data before `data_scale`
    sigma: Float[Tensor, " n"]
    inputs: Mapping[Slot, Float[Tensor, " n"]]  # the network's inputs of one number per sample
    example: Arguments | None  # arguments of one network call; None if it gets another layout
    time_sign: int  # see `scatter.time_sign`
    hidden_share: float  # see `Audit`
    diagnostics: list[Diagnostic]


@contextlib.contextmanager
def measuring(
    loss_fn: LossFunction,
    x: Float[Tensor, "b *d"],
    num_samples: int,
    seed: int,
    data_scale: float | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator["Measurement"]:
    """Context manager that measures a loss with a stand-in network.

    Small data are repeated to a larger batch, to save calls of the loss, unless the loss accepts no
    other batch size, or draws numbers once per batch.
    """
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"The data have shape {list(x.shape)} and type {x.dtype}: give floating-point data, "
            "[batch, ...]."
        )
    if not x.isfinite().all():
        raise ValueError("The data are not finite: give data without NaN or infinity.")
    if data_scale is not None:
        require_positive(data_scale=data_scale)
    if num_samples < 100:
        raise ValueError(f"num_samples is {num_samples}: give at least 100.")
    x, settings = x.detach(), (num_samples, distant_seed(seed), data_scale, advance)
    num_times = min(_NUM_ELEMENTS // x.numel(), num_samples // (4 * NUM_BLOCKS * len(x)))
    measurement = None
    with _ONE_AT_A_TIME, preserved_random_states():
        if num_times > 1:
            with contextlib.suppress(ValueError):
                repeated = Measurement(
                    loss_fn, x.repeat(num_times, *(1,) * (x.ndim - 1)), *settings
                )
                measurement = None if repeated.has_draws_per_batch else repeated
        yield measurement or Measurement(loss_fn, x, *settings)


class Measurement:
    """Quasi-Monte Carlo measurement of a loss, whose draws are spread evenly over the calls."""

    def __init__(
        self,
        loss_fn: LossFunction,
        x: Tensor,
        num_samples: int,
        seed: int,
        data_scale: float | None,
        advance: Callable[[int], None] | None,
    ) -> None:
        self.batch_size = len(x)
        self._pilot = pilot(loss_fn, x, seed)
        self.is_cheap = self._pilot.is_plain and len(x) > 1  # one call measures a whole batch
        self._seed, self._data_scale, self._advance = seed, data_scale, advance
        drawn = self._pilot.draws
        self._num_batches = -(-num_samples // (NUM_BLOCKS * len(x)))  # batches per block
        self._num_draws = max(drawn.num_per_sample, drawn.num_per_batch, 1)
        self._batches: list[Batch] = []
        self._num_calls = 0

    @property
    def has_draws_per_batch(self) -> bool:
        """True if the samples of a batch are not independent."""
        logsnr = self.samples(self.batch_size).logsnr
        is_one_level = bool((logsnr - logsnr[0]).abs().max() < 1e-4)
        return self._pilot.draws.num_per_batch > 0 or is_one_level

    def samples(self, num: int) -> Samples:
        while self.batch_size * len(self._batches) < num:
            self._batches += self._next()
        return self._solved(self._batches, num, self._data_scale)

    def at(self, place: int, quantiles: Float[Array, " n"], data_scale: float) -> Samples:
        """Measure a loss at quantiles, repeated up to full batches, of the draw at `place`."""
        padded = np.resize(quantiles, -(-len(quantiles) // self.batch_size) * self.batch_size)
        parts = torch.from_numpy(padded).reshape(-1, self.batch_size)
        batches = [batch for part in parts for batch in self._next(place, part)]
        return self._solved(batches, len(padded), data_scale)

    def _next(self, place: int = 0, quantile: Tensor | None = None) -> list[Batch]:
        number = self._num_calls
        self._num_calls += 1
        per_sample, per_batch = even_quantiles(
            number,
            batch_size=self.batch_size,
            num_batches=self._num_batches,
            num_draws=self._num_draws,
            seed=distant_seed(self._seed),
        )
        if quantile is not None:
            per_sample = per_sample.clone()
            per_sample[:, place] = quantile
        batches = self._pilot.batches(number, (per_sample, per_batch))
        if self._advance:
            self._advance(self.batch_size * len(batches))
        return batches

    def _solved(self, batches: list[Batch], num: int, data_scale: float | None) -> Samples:
        noise = self._pilot.noise
        grams = torch.cat([batch.grams for batch in batches])[:num]
        c = torch.cat([batch.coefficient for batch in batches])[:num]
        # Those drawn in every batch.
        designs = list(zip(*(batch.designs for batch in batches), strict=False))
        columns = [torch.cat([design.logits for design in same])[:, None] for same in designs]
        quantiles = torch.cat([torch.empty(self.batch_size * len(batches), 0), *columns], 1)
        slots = set.intersection(*(set(batch.inputs) for batch in batches))
        inputs = {
            slot: torch.cat([batch.inputs[slot] for batch in batches])[:num] for slot in slots
        }
        numbers = torch.tensor([batch.number for batch in batches], dtype=torch.float64)
        numbers = numbers.repeat_interleave(self.batch_size)[:num]
        is_finite = grams.isfinite().flatten(1).all(1) & c.isfinite()
        if not is_finite.any():
            raise ValueError("The loss is not finite: its gradient is NaN for every sample.")
        if not c[is_finite].any():
            raise ValueError("The loss is zero: so is its gradient, for every sample.")
        diagnostics = list(self._pilot.diagnostics)
        if not is_finite.all():
            diagnostics.append(kinds.NotFinite(1 - is_finite.double().mean().item()))
        is_used = is_finite
        rows = c[: len(c) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
        is_trained = rows.any(0)
        by_chance = (rows[:, is_trained] == 0).double().mean() ** len(rows) * self.batch_size
        if len(rows) >= _MIN_BATCHES and not is_trained.all() and by_chance < _MAX_CHANCE:
            diagnostics.append(kinds.UntrainedSamples(1 - is_trained.double().mean().item()))
            is_used = is_finite & is_trained.repeat(len(rows) + 1)[: len(c)]
        grams, c, numbers, quantiles = (
            column[is_used] for column in (grams, c, numbers, quantiles[:num])
        )
        inputs = {slot: values[is_used] for slot, values in inputs.items()}
        solved = solve(grams, is_noise_known=noise.is_known)
        rtol = 0.0 if noise.is_known else (2 / noise.reference.x[0].numel()) ** 0.5
        process = process_of(
            solved.alpha,
            solved.sigma / (1 + noise.gamma**2) ** 0.5,  # input perturbation is left out
            offset=solved.offset,
            rtol=rtol,
            network_scale=self._pilot.given_scale if data_scale is None else data_scale,
        )
        if data_scale is not None:
            process = process._replace(scale=data_scale)
        logsnr = process.logsnr(solved.alpha, solved.sigma)
        if noise.is_known and self._pilot.is_given:
            require_explained(solved.unexplained_noise, logsnr)
        factor = solved.b - solved.a * solved.sigma / solved.alpha
        if not any(diagnostic.is_fatal for diagnostic in diagnostics):
            has_target = logsnr.isfinite() & (c != 0)
            diagnostics += of_the_target(
                solved.unexplained_target[has_target], is_exact=self._pilot.is_exact
            )
            diagnostics += scatter.of_the_target(logsnr[has_target], factor[has_target], error=rtol)
            diagnostics += scatter.of_the_times(logsnr, inputs.values(), error=rtol)
        is_spread_fitted = noise.reference.draw is not None
        return Samples(
            logsnr=logsnr,
            a=solved.a / process.scale,
            b=solved.b,
            coefficient=c,
            eps_coefficient=c * factor**2,
            batch=numbers,
            block=numbers // self._num_batches,
            process=process,
            data_offset=solved.offset,
            logsnr_error=rtol,
            rounding=solved.rounding * (_SOLVED_ROUNDING if is_spread_fitted else 1),
            quantiles=quantiles,
            places=[same[0].place for same in designs],
            alpha=solved.alpha,
            sigma=solved.sigma,
            inputs=inputs,
            example=self._pilot.queries.example,
            time_sign=self._pilot.time_sign,
            hidden_share=MAX_OTHER[not self._pilot.is_exact],
            diagnostics=diagnostics,
        )
