"""First batches of a loss: whether it is a squared error, which draws are its noise, what its data.

Later batches are measured as the pilot says: with three or four calls each or, if the loss is plain
and its noise known, with one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.calls.arguments import Slot
from elbos.audit.calls.instrument import LossFunction, Observation
from elbos.audit.calls.queries import PairedCalls, Queries
from elbos.audit.calls.rng import Design, Draws, Quantiles
from elbos.audit.diagnostics import Diagnostic, scatter
from elbos.audit.diagnostics.scatter import Conditions
from elbos.audit.probing import squared_error
from elbos.audit.probing.data import Reference, centred_noise, reference_data
from elbos.audit.probing.decompose import are_some_enough, paired_grams, single_grams
from elbos.audit.probing.noise import Noise, find_noise
from elbos.audit.probing.refusals import altered, is_rounded, reason
from elbos.audit.probing.scales import given_scale

_NUM_SAMPLES = 256
_NUM_TESTED = 4  # batches on which the loss is tested for being a squared error
_MIN_DIMENSIONS = 32  # enough for data, noise and signs to be nearly orthogonal


@dataclass(frozen=True)
class Batch:
    grams: Float[Tensor, "b r r"]  # `paired_grams`, or `single_grams` for a plain loss
    coefficient: Float[Tensor, " b"]  # $c$
    designs: list[Design]  # draws that may determine the noise levels
    inputs: Mapping[Slot, Tensor]  # the network's inputs of one number per sample
    number: int  # index of the call of the loss


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Properties of a loss, and how its batches are measured."""

    queries: Queries
    seed: int
    noise: Noise
    diagnostics: list[Diagnostic]
    draws: Draws  # draws of one call of the loss
    given_scale: float | None  # see `scales.given_scale`
    time_sign: int  # see `scatter.time_sign`
    is_given: bool  # the loss diffuses the given data, without encoding them
    is_uneven: bool  # the coefficient differs between the elements of a sample
    depends_on_x: bool  # the coefficient depends on the data
    is_exact: bool  # neither inputs of the network nor gradients are in half precision
    is_part_enough: bool  # dot products may be computed on a subset of the vector elements
    is_plain: bool  # one call of the loss per batch suffices

    def batches(self, number: int, quantiles: Quantiles) -> list[Batch]:
        seed = self.seed + number
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


def pilot(loss_fn: LossFunction, x: Float[Tensor, "b *d"], seed: int) -> Pilot:
    """Measure the first batches of a loss, one stage after the other.

    Raises:
        ValueError: In one line, if the network's input is not scaled data plus noise.
    """
    queries = Queries(loss_fn, x, seed)
    seeds = range(seed, seed + min(64, max(_NUM_TESTED, -(-_NUM_SAMPLES // len(x)))))
    zeros = {s: queries.zeros.get(s) or queries.instrument(x, s) for s in seeds}
    tested = {s: zeros[s] for s in seeds[:_NUM_TESTED]}
    diagnostics, queries.ignored = squared_error.of_the_error(queries, tested)
    is_uneven = any(isinstance(d, kinds.Uneven | kinds.UntrainedElements) for d in diagnostics)
    paired = _paired(queries, zeros)
    diagnostics += squared_error.of_the_calls(queries, zeros)
    reference, of_the_data = _reference(queries, paired)
    noise = find_noise(paired, reference, is_uneven=is_uneven)
    diagnostics += [*of_the_data, *noise.diagnostics]
    if noise.is_known and len(x) > 1 and _shares_noise(paired):
        diagnostics.append(kinds.SharedNoise())

    c, c_other = (
        torch.cat([value(calls) for calls in paired]).cpu()
        for value in (PairedCalls.coefficient, PairedCalls.coefficient_other)
    )
    depends_on_x = _median((c_other / c - 1)[c != 0].abs()) > 1e-3
    if depends_on_x:
        diagnostics.append(kinds.DataDependent())
    numbers = [list(scatter.numbers(calls.moved.conditions, len(x))) for calls in paired]
    conditions = Conditions(numbers, [len(x)] * len(paired))
    measured, size = noise.coefficients, noise.reference.x[0].numel()
    logsnr = 2 * (measured.alpha / measured.sigma).log()  # up to the scale of the data
    if not any(diagnostic.is_fatal for diagnostic in diagnostics):
        error = 0.0 if noise.is_known else (2 / size) ** 0.5
        diagnostics += conditions.diagnostics(logsnr, measured.alpha, error=error)
        if noise.is_known and size >= _MIN_DIMENSIONS:
            diagnostics += scatter.of_the_coefficient(logsnr, c, measured.noise_power)
    if is_uneven and not any(diagnostic.is_fatal for diagnostic in diagnostics):
        diagnostics += scatter.of_the_elements(logsnr, _shares(paired))

    calls = [call for zero in queries.zeros.values() for call in zero.calls]
    parts = [part for call in calls for part in (call.z, call.gradient) if part is not None]
    is_target_known = _median(measured.unexplained_target[c != 0]) < 1e-4
    is_noise_plain = noise.is_known and not noise.summed
    is_loss_plain = is_target_known and not (is_uneven or depends_on_x)
    return Pilot(
        queries=queries,
        seed=seed,
        noise=noise,
        diagnostics=diagnostics,
        draws=zeros[seeds[-1]].draws,
        given_scale=given_scale(logsnr, conditions.single) if noise.is_known else None,
        time_sign=scatter.time_sign(logsnr, conditions.single),
        is_given=not any(isinstance(d, kinds.Encoded) for d in of_the_data),
        is_uneven=is_uneven,
        depends_on_x=depends_on_x,
        is_exact=not any(map(is_rounded, parts)),
        is_part_enough=are_some_enough(noise.reference.x),
        is_plain=is_noise_plain and is_loss_plain and x[0].numel() >= _MIN_DIMENSIONS,
    )


def _paired(queries: Queries, zeros: Mapping[int, Observation]) -> list[PairedCalls]:
    paired = [
        calls
        for seed, zero in zeros.items()
        for calls in queries.paired(seed, zero=zero, with_other_moved=True)
    ]
    paired = [calls for calls in paired if calls.is_finite()] or paired
    z = torch.cat([calls.z for calls in paired]).cpu()
    if how := altered(torch.unique(z, dim=0)):  # calls may share their data
        raise ValueError(
            f"The network's input is {how}: give the network the noisy data themselves."
        )
    return paired


def _reference(queries: Queries, paired: list[PairedCalls]) -> tuple[Reference, list[Diagnostic]]:
    """Find the data that are diffused, and what there is to say about them."""
    diagnostics: list[Diagnostic] = []
    x = queries.x
    data, data_other = queries.select_noised(x), queries.select_noised(queries.x_other)
    if queries.noised is not None:
        diagnostics.append(kinds.CleanElements(1 - data.numel() / x.numel()))
    axis, data, data_other = centred_noise(paired, data, data_other)
    if axis is not None:
        paired = [replace(calls, moved=calls.moved.centred(axis)) for calls in paired]
        diagnostics.append(kinds.CentredNoise(axis))
    reference = reference_data(paired, data, data_other)
    if reference is None:
        raise ValueError(reason(paired, data, data_other))
    if reference.x is not data:
        diagnostics.append(kinds.Encoded())
    if reference.draw is not None:
        diagnostics.append(reference.diagnostic)
    return replace(reference, centred_axis=axis), diagnostics


def _shares_noise(paired: list[PairedCalls]) -> bool:
    """Return whether some call has one normal draw for all samples of a batch."""
    draws = [draw for calls in paired for draw in calls.moved.normals]
    return any(bool((draw[1:] == draw[0]).all()) for draw in draws)


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
