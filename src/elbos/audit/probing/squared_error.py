r"""Tests that a loss is a squared error with one coefficient for all elements, in each network
call.

If the loss is $c\,\|\hat y - y\|^2$ for every sample, a three times larger network output changes
the gradient three times as much; the coefficient is the same at any distance from the target, in
each sample another; the output at some elements does not change the gradient at other elements; and
the target is no output of the network. Weak terms, or those of some noise levels, show in single
samples (`_is_off`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.calls.instrument import SIGNS, ZERO, Answer, Call, Observation
from elbos.audit.calls.queries import Queries, is_same, unlike
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.probing.refusals import is_rounded
from elbos.theory.process import align

MAX_OTHER = (0.005, 0.05)  # share of another term in a gradient; where it is in half precision
_MAX_COUPLING = (2e-6, 0.05)  # likewise; sums over elements round
_MAX_OFF = 0.01  # share of tested samples


class _Response(NamedTuple):
    bend: float  # growth of the gradient relative to a squared error
    coupling: float  # change of the gradient of elements by the error of other elements
    spread: float  # spread of the coefficient over the elements of a sample
    learned: float  # change of a sample's coefficient with the predicted variance
    is_graded: bool  # the coefficient changes with the sizes of the errors
    is_off: Tensor  # the samples whose gradient shows another term
    untrained: Tensor  # the elements of a sample at which no sample has a gradient
    z: Tensor
    gradient: Tensor  # gradient at output 0

    @property
    def is_linear(self) -> bool:
        return self.bend < 1e-3 and bool(self.gradient.any())


def of_the_error(
    queries: Queries, observations: Mapping[int, Observation]
) -> tuple[list[Diagnostic], tuple[int, ...]]:
    """Test, on calls with output 0 by seed, whether the loss is a squared error per sample.

    Returns:
        The diagnostics, and the network calls to ignore: they enter the loss linearly and average
        out, so that the expected loss is the same without them.
    """
    responses = (_responses(queries, *response) for response in observations.items())
    of_calls = list(zip(*responses, strict=False))
    linear = [i for i, some in enumerate(of_calls) if all(response.is_linear for response in some)]
    if linear and (len(linear) == len(of_calls) or not all(map(_averages_out, of_calls))):
        return [kinds.LinearTerm()], ()
    diagnostics: list[Diagnostic] = [kinds.ControlVariate()] if linear else []
    counted = [response for i, some in enumerate(of_calls) if i not in linear for response in some]
    off = torch.cat([response.is_off for response in counted]).double().mean().item()
    medians = torch.tensor([response[:3] for response in counted]).median(0)[0]
    bend, coupling, spread = medians.tolist()
    if coupling > 0.01:
        diagnostics.append(kinds.Coupled(coupling))
    elif abs(bend - 1) > 0.02:
        diagnostics.append(kinds.NotSquared(bend))
    elif any(response.is_graded for response in counted):
        diagnostics.append(kinds.ErrorDependent())
    elif off > _MAX_OFF:
        diagnostics.append(kinds.NotQuadratic(off))
    else:
        if max(response.learned for response in counted) > 0.01:
            diagnostics.append(kinds.LearnedCoefficient())
        if spread > 0.02:
            diagnostics.append(kinds.Uneven(spread))
        masks = [
            response.untrained for some in of_calls for response in some if not response.is_linear
        ]
        share = masks[0].double().mean().item()
        if share > 0 and all(torch.equal(mask, masks[0]) for mask in masks):
            diagnostics.append(kinds.UntrainedElements(share))
    return diagnostics, tuple(linear)


def _averages_out(responses: tuple[_Response, ...]) -> bool:
    first, *rest = responses
    if not first.is_linear:
        return True
    gradients = torch.stack([response.gradient for response in responses])
    power = gradients.mean(0).square().mean() / gradients.square().mean() * len(gradients)
    # The input has no noise if it is the same up to a factor, as data that the level scales.
    is_clean = all(
        unlike(response.z, first.z) < 1e-6 and bool((response.z * first.z >= 0).all())
        for response in rest
    )
    return is_clean and bool((power - 1).abs() < 0.5)


def _responses(queries: Queries, seed: int, zero: Observation) -> list[_Response]:
    def called(answer: Answer) -> list[Call]:
        return queries.instrument(queries.x, seed, answer).calls

    moved = called(SIGNS)
    places = [i for i in range(len(moved) + len(zero.untrained)) if i not in zero.untrained]
    graded = {i: _near_target(*calls) for i, *calls in zip(places, zero.calls, moved, strict=False)}
    runs = [zero.calls, moved, called(Answer(scale=3.0)), called(Answer(outputs=graded))]
    runs.append(called(replace(SIGNS, is_masked=True)))
    if queries.instrument.form.multiple > 1:
        runs += [called(replace(answer, second=1.0)) for answer in (ZERO, SIGNS)]

    def ratio(above: Tensor, below: Tensor, rounding: Tensor) -> float:
        return float(above.norm() / (below.norm() + rounding))

    responses = []
    for calls in zip(*runs, strict=True):
        parts = [tuple(part.double() for part in queries.in_layout(call)) for call in calls]
        (z, g_0, _), (_, g_1, answer), (_, g_3, _), (_, g_graded, near), *rest = parts
        (_, g_masked, masked), *with_variance = rest
        change, of_half, is_kept = g_1 - g_0, g_masked - g_0, masked != 0
        rounding = 1e-6 * (g_0.norm() + g_1.norm() + g_3.norm())
        element = (change / answer).flatten(1)
        # Rounding errors of the gradients must not count as a spread.
        noise = 1e-6 * (g_0.flatten(1).abs().mean(1) + g_1.flatten(1).abs().mean(1))
        untrained = (element == 0).all(0) & change.any()
        trained = element[:, ~untrained]
        deviation = (trained.std(1, correction=0) - 10 * noise).clamp(min=0)
        # A squared error has the gradient 2 c (y_hat - y), however near the target its output is.
        y = (-g_0.flatten(1) / element).nan_to_num(0.0, 0.0, 0.0)
        error = near.flatten(1) - y
        change_of_c = (g_graded.flatten(1) / error).nan_to_num(0.0, 0.0, 0.0) - element
        sizes = (1 + y.abs().mean(1)) / error.abs().mean(1)
        deviation_of_c = change_of_c.std(1, correction=0) / element.shape[1] ** 0.5
        tolerance = 0.01 * element.mean(1).abs() + 10 * noise * (1 + sizes) + 6 * deviation_of_c
        changes = [part[1] for part in with_variance] or [g_0, g_1]
        difference = (changes[1] - changes[0] - change).flatten(1).norm(dim=1)
        response = _Response(
            bend=ratio(g_3 - g_0, change, rounding) / 3,
            coupling=ratio(of_half[~is_kept], of_half[is_kept], rounding),
            spread=(deviation / trained.mean(1).abs()).nan_to_num().quantile(0.95).item(),
            learned=(difference / change.flatten(1).norm(dim=1)).nan_to_num().max().item(),
            is_graded=bool((change_of_c.mean(1).abs() > tolerance).any()),
            is_off=_is_off(g_0, g_1, g_3, of_half * ~is_kept),
            untrained=untrained,
            z=z,
            gradient=g_0,
        )
        responses.append(response)
    return responses


def _is_off(g_0: Tensor, g_1: Tensor, g_3: Tensor, coupled: Tensor) -> Tensor:
    """Return which samples' gradients at the outputs 0, 1 and 3 times the signs are on no line, or
    change at elements whose output does not, which rounding cannot cause.
    """
    size, bend, coupling = (
        part.flatten(1).norm(dim=1)
        for part in (g_0.abs() + g_1.abs() + g_3.abs(), g_3 - g_0 - 3 * (g_1 - g_0), coupled)
    )
    is_half = all(map(is_rounded, (g_0, g_1, g_3)))
    off: Tensor = (bend > MAX_OTHER[is_half] * size) | (coupling > _MAX_COUPLING[is_half] * size)
    return off.cpu()


def _near_target(zero: Call, moved: Call) -> Tensor:
    """Return outputs at 0.01 to 10 times the target's size from the target, in each sample more."""
    assert zero.gradient is not None
    assert moved.gradient is not None
    signs = moved.answer.detach()
    y = (-zero.gradient * signs / (moved.gradient - zero.gradient)).nan_to_num(0.0, 0.0, 0.0)
    sizes = y.flatten(1).square().mean(1).sqrt()
    sizes = torch.where(sizes > 0, sizes, 1.0) * torch.logspace(-2, 1, len(y)).to(y)
    return y + align(sizes, y) * signs


def of_the_calls(queries: Queries, observations: Mapping[int, Observation]) -> list[Diagnostic]:
    """Diagnose several network calls, their use in targets, derivatives and further outputs."""
    instrument, x = queries.instrument, queries.x
    num_trained, num_untrained, is_finite = 0, 0, True
    is_self_target = is_derived = is_of_derivative = False
    for seed, zero in observations.items():
        calls, untrained = zero.calls, zero.untrained
        is_finite = is_finite and zero.is_finite
        num_trained = max(num_trained, len(calls) - len(queries.ignored))
        num_untrained = max(num_untrained, len(untrained))
        if untrained and not is_self_target:
            moved = instrument(x, seed, Answer(always_moved=untrained)).calls
            is_self_target = _differ(calls, moved)
        if zero.is_differentiated and not is_derived:
            sloping = instrument(x, seed, Answer(slope=1.0))
            is_derived = _differ(calls, sloping.calls)
            is_of_derivative |= sloping.is_of_derivative
    several = [(s, zero) for s, zero in observations.items() if len(zero.calls) > 1][:1]
    are_coupled = any(_are_coupled(queries, *item) for item in several)
    findings: list[tuple[bool, Diagnostic]] = [
        (not is_finite, kinds.NotFinite()),
        (num_trained > 1, kinds.SeveralCalls(num_trained)),
        (is_self_target, kinds.SelfTarget()),
        (is_derived, kinds.DerivativeTarget()),
        (is_of_derivative and not is_derived, kinds.DerivativeTerm()),
        (are_coupled, kinds.CoupledCalls()),
        (num_untrained > 0 and not is_self_target, kinds.UntrainedCalls(num_untrained)),
        (instrument.form.multiple == 2, kinds.LearnedVariance()),
        (instrument.form.container == "pair", kinds.SecondOutput()),
    ]
    return [item for is_found, item in findings if is_found]


def _are_coupled(queries: Queries, seed: int, zero: Observation) -> bool:
    numbers = range(len(zero.calls) + len(zero.untrained))
    for place, number in enumerate(i for i in numbers if i not in zero.untrained):
        moved = queries.instrument(queries.x, seed, Answer(always_moved=(number,))).calls
        rest = [[*calls[:place], *calls[place + 1 :]] for calls in (zero.calls, moved)]
        if len(moved) == len(zero.calls) and _differ(*rest):
            return True
    return False


def _differ(calls: list[Call], moved: list[Call]) -> bool:
    pairs = zip(calls, moved, strict=True)
    return not all(is_same(call.gradient, other.gradient) for call, other in pairs)
