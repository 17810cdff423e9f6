r"""Measurement of the noise levels, coefficients and targets of a loss, for `probe`.

Each call of the loss gives the coefficient $c$, the target's $(a, b)$ and $\alpha, \sigma$ of every
sample, and hence the noise level and the coefficient of $\|\hat\epsilon - \epsilon\|^2$,

$$\lambda = \log\frac{\alpha^2}{\sigma^2}, \qquad
  k = c\,\Bigl(b - a\,\frac{\sigma}{\alpha}\Bigr)^2.$$

A pilot of a few batches tests that the loss is a squared error, and finds the noise and the data.
Later batches are measured with three calls each or, if the loss is plain and its noise known, with
one.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.probing import scatter, squared_error
from elbos.audit.probing.arguments import Arguments, Slot
from elbos.audit.probing.data import centred_noise, reference_data
from elbos.audit.probing.decompose import are_some_enough, paired_grams, single_grams, solve
from elbos.audit.probing.draws import even_quantiles
from elbos.audit.probing.instrument import LossFunction
from elbos.audit.probing.noise import find_noise, is_summed, of_the_target
from elbos.audit.probing.queries import PairedCalls, Queries
from elbos.audit.probing.refusals import clipped, is_rounded, reason, require_explained
from elbos.audit.probing.rng import Design, Quantiles, distant_seed, preserved_random_states
from elbos.audit.probing.scales import Process, given_scale, process_of
from elbos.audit.probing.scatter import Conditions
from elbos.base.arrays import Array
from elbos.base.checks import require_positive

_ONE_AT_A_TIME = threading.RLock()  # random states are global
NUM_BLOCKS = 10  # blocks of samples, each spread evenly by itself
_MIN_BATCHES = 8  # least number that shows a place in the batch that is never trained
_MAX_CHANCE = 1e-3  # expected number of such places if samples have no weight at random
_NUM_ELEMENTS = 2**17  # largest size of repeated data
_SOLVED_ROUNDING = 100  # relative to float32, if the spread of sampled data was fitted
_NUM_PILOT_SAMPLES = 256
_MIN_DIMENSIONS = 32  # enough for data, noise and signs to be nearly orthogonal


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


@dataclass(frozen=True)
class Batch:
    grams: Float[Tensor, "b r r"]  # `paired_grams`, or `single_grams` for a plain loss
    coefficient: Float[Tensor, " b"]  # $c$
    designs: list[Design]  # draws that may determine the noise levels
    inputs: Mapping[Slot, Tensor]  # the network's inputs of one number per sample
    number: int  # index of the call of the loss


class Pilot:
    """Properties of a loss found on its first few batches."""

    def __init__(self, loss_fn: LossFunction, x: Tensor, seed: int) -> None:
        queries = Queries(loss_fn, x, seed)
        data, data_other = queries.select_noised(x), queries.select_noised(queries.x_other)
        num_batches = min(64, max(4, -(-_NUM_PILOT_SAMPLES // len(x))))
        seeds = [seed + i for i in range(num_batches)]
        zeros = {s: queries.zeros.get(s) or queries.instrument(x, s) for s in seeds}
        first = {s: zeros[s] for s in seeds[:4]}
        diagnostics, queries.ignored = squared_error.of_the_error(queries, first)
        paired = [
            calls
            for s, zero in zeros.items()
            for calls in queries.paired(s, zero=zero, with_other_moved=True)
        ]
        paired = [calls for calls in paired if calls.is_finite()] or paired
        z = torch.cat([calls.z for calls in paired]).cpu()
        if how := clipped(torch.unique(z, dim=0)):  # calls may share their data
            raise ValueError(
                f"The network's input is {how}: give the network the noisy data themselves."
            )
        is_uneven = any(isinstance(d, kinds.Uneven | kinds.UntrainedElements) for d in diagnostics)
        diagnostics += squared_error.of_the_calls(queries, zeros)
        if data is not x:
            diagnostics.append(kinds.CleanElements(1 - data.numel() / x.numel()))
        axis, data, data_other = centred_noise(paired, data, data_other)
        centred = paired
        if axis is not None:
            centred = [replace(calls, moved=calls.moved.centred(axis)) for calls in paired]
            diagnostics.append(kinds.CentredNoise(axis))
        reference = reference_data(centred, data, data_other)
        if reference is None:
            raise ValueError(reason(centred, data, data_other))
        reference = replace(reference, centred_axis=axis)
        if reference.x is not data:
            diagnostics.append(kinds.Encoded())
        if reference.draw is not None:
            diagnostics.append(reference.diagnostic)
        noise = find_noise(paired, reference, is_uneven=is_uneven)
        diagnostics += noise.diagnostics
        draws = [draw for calls in paired for draw in calls.moved.normals]
        if noise.is_known and len(x) > 1 and any((draw[1:] == draw[0]).all() for draw in draws):
            diagnostics.append(kinds.SharedNoise())
        c, c_other = (
            torch.cat([value(calls) for calls in paired]).cpu()
            for value in (PairedCalls.coefficient, PairedCalls.coefficient_other)
        )
        numbers = [list(scatter.numbers(calls.moved.conditions, len(x))) for calls in paired]
        conditions = Conditions(numbers, [len(x)] * len(paired))
        depends_on_x = _median((c_other / c - 1)[c != 0].abs()) > 1e-3
        if depends_on_x:
            diagnostics.append(kinds.DataDependent())
        measured, size = noise.coefficients, noise.reference.x[0].numel()
        logsnr = 2 * (measured.alpha / measured.sigma).log()  # up to the scale of the data
        if not any(diagnostic.is_fatal for diagnostic in diagnostics):
            error = 0.0 if noise.is_known else (2 / size) ** 0.5
            diagnostics += conditions.diagnostics(logsnr, measured.alpha, error=error)
            if noise.is_known and size >= _MIN_DIMENSIONS:
                diagnostics += scatter.of_the_coefficient(logsnr, c, measured.noise_power)
        if is_uneven and not any(diagnostic.is_fatal for diagnostic in diagnostics):
            diagnostics += scatter.of_the_elements(logsnr, _shares(paired))
        is_target_known = _median(measured.unexplained_target[c != 0]) < 1e-4
        is_noise_plain = noise.is_known and not is_summed(diagnostics)
        is_loss_plain = is_target_known and not (is_uneven or depends_on_x)
        self.queries, self.noise, self.diagnostics = queries, noise, diagnostics
        self._seed = seed
        self.draws = zeros[seeds[-1]].draws  # draws of one call of the loss
        # The loss diffuses the given data, without encoding them.
        self.is_given = noise.reference.x is data
        self.given_scale = given_scale(logsnr, conditions.single) if noise.is_known else None
        self.time_sign = scatter.time_sign(logsnr, conditions.single)
        self.depends_on_x, self.is_uneven = depends_on_x, is_uneven  # its coefficient
        # Neither inputs of the network nor gradients are in half precision.
        calls = [call for zero in queries.zeros.values() for call in zero.calls]
        parts = [part for call in calls for part in (call.z, call.gradient) if part is not None]
        self.is_exact = not any(map(is_rounded, parts))
        # Dot products may be computed on a subset of the vector elements.
        self.is_part_enough = are_some_enough(noise.reference.x)
        # One call of the loss per batch suffices.
        self.is_plain = is_noise_plain and is_loss_plain and x[0].numel() >= _MIN_DIMENSIONS

    def batches(self, number: int, quantiles: Quantiles) -> list[Batch]:
        seed = self._seed + number
        reference, measured = self.noise.reference, list[Batch]()
        if self.is_plain:
            offset = self.noise.coefficients.offset
            for call in map(reference.prepare, self.queries.single(seed, quantiles)):
                grams, c = single_grams(
                    call, reference.at(call)[0], offset, is_part_enough=self.is_part_enough
                )
                measured.append(Batch(grams, c, call.designs, call.inputs, number))
            return measured
        for calls in self.queries.paired(seed, quantiles, with_other_moved=self.depends_on_x):
            prepared = self.noise.prepare(calls)
            moved = prepared.moved
            grams = paired_grams(prepared, reference.at(moved), is_uneven=self.is_uneven)
            c = calls.coefficient().cpu()
            measured.append(Batch(grams, c, moved.designs, moved.inputs, number))
        return measured


def _shares(paired: list[PairedCalls]) -> Float[Tensor, "n d"]:
    every = []
    for change in ([p.change for p in paired], [p.change_other for p in paired]):
        c = torch.stack([dg * p.moved.answer for dg, p in zip(change, paired, strict=True)])
        c = c.flatten(2).double().cpu()
        every.append(c / c.mean(2, keepdim=True))
    share, other = every
    if (share - other).abs().nanmedian() > 1e-3:  # the share depends on the data
        share = share - share.mean(0) + 1
    return share.flatten(0, 1)


def _median(values: Tensor) -> float:
    return values.nan_to_num().median().item()


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
        self._pilot = Pilot(loss_fn, x, seed)
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
        pilot, noise = self._pilot, self._pilot.noise
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
        diagnostics = list(pilot.diagnostics)
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
            network_scale=pilot.given_scale if data_scale is None else data_scale,
        )
        if data_scale is not None:
            process = process._replace(scale=data_scale)
        logsnr = process.logsnr(solved.alpha, solved.sigma)
        if noise.is_known and pilot.is_given:
            require_explained(solved.unexplained_noise, logsnr)
        factor = solved.b - solved.a * solved.sigma / solved.alpha
        if not any(diagnostic.is_fatal for diagnostic in diagnostics):
            has_target = logsnr.isfinite() & (c != 0)
            diagnostics += of_the_target(
                solved.unexplained_target[has_target], is_exact=pilot.is_exact
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
            example=pilot.queries.example,
            time_sign=pilot.time_sign,
            diagnostics=diagnostics,
        )
