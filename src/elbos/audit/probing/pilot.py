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
from elbos.audit.probing import scatter, squared_error
from elbos.audit.probing.arguments import Slot
from elbos.audit.probing.data import centred_noise, reference_data
from elbos.audit.probing.decompose import are_some_enough, paired_grams, single_grams
from elbos.audit.probing.instrument import LossFunction
from elbos.audit.probing.noise import find_noise, is_summed
from elbos.audit.probing.queries import PairedCalls, Queries
from elbos.audit.probing.refusals import clipped, is_rounded, reason
from elbos.audit.probing.rng import Design, Quantiles
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
    number: int  # of the call of the loss


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
        self.draws = zeros[seeds[-1]].draws  # of one call of the loss
        # The loss diffuses the given data, without encoding them.
        self.is_given = noise.reference.x is data
        self.given_scale = given_scale(logsnr, conditions.single) if noise.is_known else None
        self.time_sign = scatter.time_sign(logsnr, conditions.single)
        self.depends_on_x, self.is_uneven = depends_on_x, is_uneven  # its coefficient
        # One call of the loss per batch suffices.
        self.is_plain = is_noise_plain and is_loss_plain and x[0].numel() >= _MIN_DIMENSIONS

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
