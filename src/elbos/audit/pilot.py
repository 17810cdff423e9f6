"""Pilot: a few batches of a loss, measured with all paired calls.

The pilot tests whether the loss is a squared error, and finds the noise and the data. The result
determines how later batches are measured: with three calls each, or, for a plain loss whose noise
is known, with one.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import scatter, squared_error
from elbos.audit.data import centred_noise, reference_data
from elbos.audit.decompose import are_some_enough, paired_grams, single_products
from elbos.audit.diagnostics import (
    CentredNoise,
    CleanElements,
    DataDependent,
    Diagnostic,
    Encoded,
    Uneven,
)
from elbos.audit.instrument import LossFunction
from elbos.audit.noise import Noise, find_noise
from elbos.audit.queries import PairedCalls, Queries
from elbos.audit.refusals import reason
from elbos.audit.scales import given_scale
from elbos.audit.scatter import Conditions

_NUM_PILOT_SAMPLES = 256
_MIN_DIMENSIONS = 32  # enough for data, noise and signs to be nearly orthogonal


@dataclass(frozen=True)
class Batch:
    """Dot products and random draws of one batch of samples."""

    products: Float[Tensor, "b r r"]  # Gram matrices; of a plain loss, those of `single_products`
    coefficient: Float[Tensor, " b"]  # $c$; of a plain loss, it follows from the products
    quantiles: list[Tensor]  # of the numbers drawn for each sample
    number: int = 0
    places: list[int | None] = field(default_factory=list)  # of these numbers, in `Recorder`


@dataclass(frozen=True)
class Pilot:
    """The findings on the first batches, which determine how later batches are measured."""

    queries: Queries
    noise: Noise
    is_given: bool  # the loss diffuses the given data, not encoded ones
    given_scale: float | None  # of the data, from the level that the network is given (`scales`)
    depends_on_x: bool  # the coefficient depends on the data
    is_uneven: bool  # the coefficient differs between the elements of a sample
    is_plain: bool  # one call of the loss per batch suffices
    time_sign: int  # as `scatter.time_sign`
    diagnostics: list[Diagnostic]

    @classmethod
    def of_loss(cls, loss_fn: LossFunction, x: Tensor, seed: int) -> "Pilot":
        """Measure a few batches of a loss with all paired calls, and test the assumptions of the
        audit.

        Raises:
            ValueError: In one line, if the loss cannot be measured at all.
        """
        queries = Queries.for_loss(loss_fn, x, seed)
        data, data_other = queries.seen(x), queries.seen(queries.x_other)
        num_batches = min(64, max(4, -(-_NUM_PILOT_SAMPLES // len(x))))
        seeds = [seed + i for i in range(num_batches)]
        zeros = {s: queries.zeros.get(s) or queries.instrument.observed(x, s) for s in seeds}
        found, ignored = squared_error.of_the_error(queries, {s: zeros[s] for s in seeds[:4]})
        queries = replace(queries, ignored=ignored)
        paired = [
            calls
            for s, zero in zeros.items()
            for calls in queries.paired(s, with_other_moved=True, zero=zero)
        ]
        paired = [calls for calls in paired if calls.is_finite()] or paired
        is_uneven = any(isinstance(one, Uneven) for one in found)
        found += squared_error.of_the_calls(queries.instrument, x, zeros, len(queries.ignored))
        if data is not x:
            found.append(CleanElements(1 - data.numel() / x.numel()))
        axis, centred = None, paired
        with_axis = centred_noise(paired, data, data_other)
        if with_axis is not None:
            axis, data, data_other = with_axis
            centred = [replace(calls, moved=calls.moved.centred(axis)) for calls in paired]
            found.append(CentredNoise(axis))
        reference = reference_data(centred, data, data_other)
        if reference is None:
            raise ValueError(reason(centred, data, data_other))
        reference = replace(reference, centred_axis=axis)
        if reference.x is not data:
            found.append(Encoded())
        if reference.draw is not None:
            found.append(reference.diagnostic)
        noise = find_noise(paired, reference, is_uneven=is_uneven)
        found += noise.diagnostics
        c, c_other = (
            torch.cat([value(calls) for calls in paired]).cpu()
            for value in (PairedCalls.coefficient, PairedCalls.coefficient_other)
        )
        numbers = [list(scatter.numbers(calls.moved.conditions, len(x))) for calls in paired]
        conditions = Conditions.from_batches(numbers, [len(x)] * len(paired))
        depends_on_x = _median((c_other / c - 1)[c != 0].abs()) > 1e-3
        if depends_on_x:
            found.append(DataDependent())
        if not any(one.is_fatal for one in found):
            found += _of_the_levels(noise, c, conditions)
        if is_uneven and not any(one.is_fatal for one in found):
            found += scatter.of_the_elements(_logsnr(noise), _shares(paired))
        is_target_known = _median(noise.coefficients.unexplained_target[c != 0]) < 1e-4
        is_plain = (
            noise.is_known
            and not noise.is_summed
            and is_target_known
            and not is_uneven
            and not depends_on_x
        )
        return cls(
            queries,
            noise,
            noise.reference.x is data,
            given_scale(_logsnr(noise), conditions.single) if noise.is_known else None,
            depends_on_x,
            is_uneven,
            is_plain and x[0].numel() >= _MIN_DIMENSIONS,
            scatter.time_sign(_logsnr(noise), conditions.single),
            found,
        )

    @cached_property
    def is_part_enough(self) -> bool:
        """True if a subset of the elements of a sample suffices when the noise is known."""
        return are_some_enough(self.noise.reference.x)

    def taken_apart(self, seed: int) -> list[Batch]:
        """Measure one batch of samples with the given seed; one `Batch` per network call."""
        reference = self.noise.reference
        if self.is_plain:
            offset, empty = self.noise.coefficients.offset, torch.empty(len(self.queries.x))
            return [
                Batch(
                    single_products(
                        call, reference.at(call)[0], offset, is_part_enough=self.is_part_enough
                    ),
                    empty.double(),
                    call.quantiles,
                )
                for call in map(self.noise.prepare, self.queries.single(seed))
            ]
        paired = [
            replace(calls, moved=self.noise.prepare(calls.moved))
            for calls in self.queries.paired(seed, with_other_moved=self.depends_on_x)
        ]
        return [
            Batch(
                paired_grams(calls, reference.at(calls.moved), is_uneven=self.is_uneven),
                calls.coefficient().cpu(),
                calls.moved.quantiles,
            )
            for calls in paired
        ]


def _logsnr(noise: Noise) -> Tensor:
    """Return the log-SNR of all samples, up to the unknown scale of the data."""
    return 2 * (noise.coefficients.alpha / noise.coefficients.sigma).log()


def _shares(paired: list[PairedCalls]) -> Float[Tensor, "n d"]:
    """Return the coefficient of each element divided by the mean over elements; if the coefficient
    depends on the data, relative to each sample's mean over calls.
    """
    every = []
    for change in ([p.change for p in paired], [p.change_other for p in paired]):
        c = torch.stack([one * p.moved.answer for one, p in zip(change, paired, strict=True)])
        c = c.flatten(2).double().cpu()
        every.append(c / c.mean(2, keepdim=True))
    share, other = every
    if (share - other).abs().nanmedian() > 1e-3:
        share = share - share.mean(0) + 1
    return share.flatten(0, 1)


def _of_the_levels(noise: Noise, c: Tensor, conditions: Conditions) -> list[Diagnostic]:
    """Test that the noise level determines the loss and that the network is conditioned on the
    level.
    """
    found, dimensions = noise.coefficients, noise.reference.x[0].numel()
    logsnr = _logsnr(noise)
    error = 0.0 if noise.is_known else (2 / dimensions) ** 0.5
    diagnostics = conditions.diagnostics(logsnr, found.alpha, error=error)
    if noise.is_known and dimensions >= _MIN_DIMENSIONS:
        diagnostics += scatter.of_the_coefficient(logsnr, c, found.noise_power)
    return diagnostics


def _median(values: Tensor) -> float:
    return values.nan_to_num().median().item()
