"""Pilot: the first batches of a loss, on which all tests and diagnostics are run.

The pilot tests that the loss is a squared error, and finds the noise and the data. Later batches
are measured with three calls each or, if the loss is plain and its noise known, with one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.probing import scatter, squared_error
from elbos.audit.probing.arguments import Slot
from elbos.audit.probing.data import centred_noise, reference_data
from elbos.audit.probing.decompose import are_some_enough, paired_grams, single_grams
from elbos.audit.probing.instrument import LossFunction
from elbos.audit.probing.noise import Noise, find_noise, is_summed
from elbos.audit.probing.queries import PairedCalls, Queries
from elbos.audit.probing.refusals import clipped, is_rounded, reason
from elbos.audit.probing.rng import Design, Draws, Quantiles
from elbos.audit.probing.scales import given_scale
from elbos.audit.probing.scatter import Conditions

_NUM_PILOT_SAMPLES = 256
_MIN_DIMENSIONS = 32  # enough for data, noise and signs to be nearly orthogonal


@dataclass(frozen=True)
class Batch:
    grams: Float[Tensor, "b r r"]  # of `paired_grams`, or `single_grams` for a plain loss
    coefficient: Float[Tensor, " b"]  # $c$
    designs: list[Design]  # of draws that may determine the noise levels
    inputs: Mapping[Slot, Tensor]  # of the network, of one number per sample
    number: int = 0


@dataclass(frozen=True)
class Pilot:
    """Properties of a loss found on its first few batches."""

    queries: Queries
    noise: Noise
    draws: Draws  # of one call of the loss
    is_given: bool  # the loss diffuses the given data, without encoding them
    given_scale: float | None  # of the data, from the network's time input (`scales`)
    depends_on_x: bool  # the coefficient depends on the data
    is_uneven: bool  # the coefficient differs between the elements of a sample
    is_plain: bool  # one call of the loss per batch suffices
    time_sign: int  # as `scatter.time_sign`
    diagnostics: list[Diagnostic]

    @classmethod
    def of_loss(cls, loss_fn: LossFunction, x: Tensor, seed: int) -> "Pilot":
        queries = Queries.for_loss(loss_fn, x, seed)
        data, data_other = queries.select_noised(x), queries.select_noised(queries.x_other)
        num_batches = min(64, max(4, -(-_NUM_PILOT_SAMPLES // len(x))))
        seeds = [seed + i for i in range(num_batches)]
        zeros = {s: queries.zeros.get(s) or queries.instrument(x, s) for s in seeds}
        diagnostics, ignored = squared_error.of_the_error(queries, {s: zeros[s] for s in seeds[:4]})
        queries = replace(queries, ignored=ignored)
        paired = [
            calls
            for s, zero in zeros.items()
            for calls in queries.paired(s, zero=zero, with_other_moved=True)
        ]
        paired = [calls for calls in paired if calls.is_finite()] or paired
        if how := clipped(torch.cat([calls.z for calls in paired])):
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
        conditions = Conditions.from_batches(numbers, [len(x)] * len(paired))
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
        return cls(
            queries=queries,
            noise=noise,
            draws=zeros[seeds[-1]].draws,
            is_given=noise.reference.x is data,
            given_scale=given_scale(logsnr, conditions.single) if noise.is_known else None,
            depends_on_x=depends_on_x,
            is_uneven=is_uneven,
            is_plain=is_noise_plain and is_loss_plain and x[0].numel() >= _MIN_DIMENSIONS,
            time_sign=scatter.time_sign(logsnr, conditions.single),
            diagnostics=diagnostics,
        )

    @cached_property
    def is_exact(self) -> bool:
        """True if neither inputs of the network nor gradients are in half precision."""
        calls = [call for zero in self.queries.zeros.values() for call in zero.calls]
        return not any(
            is_rounded(part) for c in calls for part in (c.z, c.gradient) if part is not None
        )

    @cached_property
    def is_part_enough(self) -> bool:
        """True if dot products may be computed on a subset of the vector elements."""
        return are_some_enough(self.noise.reference.x)

    def batches(self, seed: int, quantiles: Quantiles) -> list[Batch]:
        reference, measured = self.noise.reference, list[Batch]()
        if self.is_plain:
            offset = self.noise.coefficients.offset
            for call in map(reference.prepare, self.queries.single(seed, quantiles)):
                grams, c = single_grams(
                    call, reference.at(call)[0], offset, is_part_enough=self.is_part_enough
                )
                measured.append(Batch(grams, c, call.designs, call.inputs))
            return measured
        for calls in self.queries.paired(seed, quantiles, with_other_moved=self.depends_on_x):
            prepared = self.noise.prepare(calls)
            moved = prepared.moved
            grams = paired_grams(prepared, reference.at(moved), is_uneven=self.is_uneven)
            c = calls.coefficient().cpu()
            measured.append(Batch(grams, c, moved.designs, moved.inputs))
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
