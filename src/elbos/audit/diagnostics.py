r"""What a weighting does not show: findings about a loss, and the first tests of it.

A weighting describes a loss if that loss is, for every sample, $c\,\|\hat y - y\|^2$ with standard
normal noise in $z$. So an answer moved three times as far must change the gradient three times as
much; one half of an answer must not change the gradient of the other; the target must not be the
network's own output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from elbos.audit.instrument import Instrument
from elbos.audit.queries import Queries, is_same

FATAL = frozenset(
    {
        "not-squared",
        "coupled",
        "self-target",
        "offset-noise",
        "coloured-noise",
        "not-normal",
        "negative",
        "declared-not-squared",
        "declared-noise",
        "declared-target",
        "strange-target",
        "target-noise",
    }
)
"""Kinds that mean that no weighting describes the loss."""


@dataclass(frozen=True)
class Diagnostic:
    """A finding about a loss that its weighting does not show.

    Attributes:
        kind: One of those that `templates/audit.html` has a sentence for.
        values: Numbers, and sometimes names, of that sentence.
    """

    kind: str
    values: Mapping[str, float | str | list[float]] = field(default_factory=dict)

    @property
    def is_fatal(self) -> bool:
        """Whether it means that no weighting describes the loss."""
        return self.kind in FATAL


def of_the_error(queries: Queries, seeds: list[int]) -> list[Diagnostic]:
    """Whether the loss is a squared error, the same in all elements."""
    bends, couplings, spreads = [], [], []
    for seed in seeds:
        runs = [
            queries.instrument(queries.x, seed),
            queries.instrument(queries.x, seed, scale=1.0),
            queries.instrument(queries.x, seed, scale=3.0),
            queries.instrument(queries.x, seed, scale=1.0, is_masked=True),
        ]
        for calls in zip(*runs, strict=True):
            (_, g_0, _), (_, g_1, answer), (_, g_3, _), (_, g_masked, half) = (
                tuple(part.double() for part in queries.in_layout(call)) for call in calls
            )
            is_kept = half != 0
            rounding = 1e-6 * (g_0.norm() + g_1.norm() + g_3.norm())
            bends.append(_ratio(g_3 - g_0, g_1 - g_0, rounding) / 3)
            change = g_masked - g_0
            couplings.append(_ratio(change[~is_kept], change[is_kept], rounding))
            element = ((g_1 - g_0) / answer).flatten(1)
            # rounding of the gradients themselves is no variation
            noise = 1e-6 * (g_0.flatten(1).abs().mean(1) + g_1.flatten(1).abs().mean(1))
            deviation = (element.std(1, correction=0) - 10 * noise).clamp(min=0)
            spreads.append((deviation / element.mean(1).abs()).nan_to_num().median().item())
    bend, coupling, spread = (
        torch.tensor(values).median().item() for values in (bends, couplings, spreads)
    )
    if coupling > 0.01:
        return [Diagnostic("coupled", {"share": coupling})]
    if abs(bend - 1) > 0.02:
        return [Diagnostic("not-squared", {"growth": bend})]
    return [Diagnostic("uneven", {"spread": spread})] if spread > 0.02 else []


def _ratio(above: Tensor, below: Tensor, rounding: Tensor) -> float:
    return float(above.norm() / (below.norm() + rounding))


def of_the_calls(instrument: Instrument, x: Tensor, seeds: list[int]) -> list[Diagnostic]:
    """Several calls of the network in one loss, and outputs of more than one part."""
    num_trained, num_untrained, is_self_target, is_finite = 0, 0, False, True
    for seed in seeds:
        calls = instrument(x, seed)
        untrained = instrument.untrained
        is_finite = is_finite and instrument.is_finite
        num_trained = max(num_trained, len(calls))
        num_untrained = max(num_untrained, len(untrained))
        if untrained and not is_self_target:
            moved = instrument(x, seed, always_moved=untrained)
            is_self_target = not all(
                is_same(call.gradient, other.gradient)
                for call, other in zip(calls, moved, strict=True)
            )
    found = {
        "not-finite": not is_finite,
        "several-calls": num_trained > 1,
        "self-target": is_self_target,
        "untrained-calls": num_untrained > 0 and not is_self_target,
        "learned-variance": instrument.form.multiple == 2,
        "second-output": instrument.form.container == "pair",
    }
    num = {"several-calls": num_trained, "untrained-calls": num_untrained}
    return [
        Diagnostic(kind, {"num_calls": num[kind]} if kind in num else {})
        for kind, is_found in found.items()
        if is_found
    ]
