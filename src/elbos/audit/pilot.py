r"""A first look at a loss: whether it is a squared error, and how it has to be asked.

A weighting describes a loss if that loss is, for every sample, $c\,\|\hat y - y\|^2$ with standard
normal noise in $z$. Everything else is found here, on a few batches, and put into words: an answer
moved three times as far must change the gradient three times as much; one half of an answer must
not change the gradient of the other; the noise must be white and normal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from elbos.audit.ask import (
    Asker,
    Look,
    in_its_form,
    is_same,
    other_data,
    require_repeatable,
)
from elbos.audit.layout import first_channel, order_of
from elbos.audit.noise import noise_of
from elbos.audit.oddity import Oddity
from elbos.audit.reference import reference_of
from elbos.audit.watch import LossFunction, Output, Watch

_NUM_SAMPLES = 256
_MIN_DIMENSIONS = 32  # in which data, noise and random signs are far from dependent


@dataclass(frozen=True)
class Pilot:
    """What the first look has found.

    Args:
        asker: How the loss is asked.
        reference: The clean batch as the process sees it, and the other one; up to a scale.
        offset: What is added to the data.
        with_other_moved: Whether the coefficient depends on the data.
        is_noise_known: Whether the noise is one of the draws that were seen.
        is_uneven: Whether the coefficient differs between the elements of a sample.
        is_target_known: Whether the target is a combination of data and noise.
        oddities: What was found besides.
    """

    asker: Asker
    reference: tuple[Tensor, Tensor]
    offset: float
    with_other_moved: bool
    is_noise_known: bool
    is_uneven: bool
    is_target_known: bool
    oddities: list[Oddity]

    @property
    def is_plain(self) -> bool:
        """Whether one call of the loss shows all there is; in few dimensions it does not."""
        is_known = self.is_noise_known and self.is_target_known
        is_even = not self.is_uneven and not self.with_other_moved
        return is_known and is_even and self.asker.x[0].numel() >= _MIN_DIMENSIONS


def first_look(loss_fn: LossFunction, x: Tensor, seed: int) -> Pilot:
    """Ask a few batches every question there is.

    Raises:
        ValueError: If the loss cannot be measured at all; in one line.
    """
    asker = _asker_of(loss_fn, x, seed)
    num_batches = min(64, max(4, -(-_NUM_SAMPLES // len(x))))
    seeds = [seed + i for i in range(num_batches)]
    looks = [look for s in seeds for look in asker.looks(s, with_other_moved=True)]
    looks = [look for look in looks if look.is_finite()] or looks
    oddities = _about_the_error(asker, seeds[:4])
    oddities += _about_the_calls(asker.watch, x, seeds)
    is_uneven = _UNEVEN in oddities
    reference = reference_of(looks, x, asker.x_other)
    if reference[0] is not x:
        oddities.append(_ENCODED)
    noise = noise_of(looks, asker, reference, is_uneven=is_uneven)
    oddities += noise.oddities
    c, c_other = (
        torch.cat([value(look) for look in looks]).cpu()
        for value in (Look.coefficient, Look.coefficient_other)
    )
    depends_on_x = _median((c_other / c - 1)[c != 0].abs()) > 1e-3
    if depends_on_x:
        oddities.append(_DATA_DEPENDENT)
    return Pilot(
        asker,
        reference,
        noise.coefficients.offset,
        depends_on_x,
        noise.is_known,
        is_uneven,
        _median(noise.coefficients.strange_target[c != 0]) < 1e-4,
        oddities,
    )


def _asker_of(loss_fn: LossFunction, x: Tensor, seed: int) -> Asker:
    """How to ask a loss: what output it takes, and where in the network's input the data are."""
    asker = Asker(in_its_form(loss_fn, x, seed), x, other_data(x))
    require_repeatable(asker, seed)
    asker.first_channel, asker.order = first_channel(asker, seed), order_of(asker, seed)
    return asker


def _about_the_calls(watch: Watch, x: Tensor, seeds: list[int]) -> list[Oddity]:
    """Several calls of the network in one loss, and outputs of more than one part."""
    oddities, trained, untrained, is_own_target, is_finite = [], 0, 0, False, True
    for seed in seeds:
        calls = watch(x, seed)
        is_finite = is_finite and watch.is_finite
        trained, untrained = max(trained, len(calls)), max(untrained, len(watch.untrained))
        if watch.untrained and not is_own_target:
            moved = watch(x, seed, moved=watch.untrained)
            is_own_target = not all(
                is_same(call.gradient, other.gradient)
                for call, other in zip(calls, moved, strict=True)
            )
    if not is_finite:
        text = "The loss is NaN or infinite in some batches; only samples with a gradient count."
        oddities.append(Oddity("not-finite", text))
    if trained > 1:
        text = f"The network is called {_times(trained)} in one loss; all calls are counted."
        oddities.append(Oddity("several-calls", text))
    if is_own_target:
        oddities.append(_OWN_TARGET)
    elif untrained > 0:
        text = (
            f"Besides, the network is called {_times(untrained)} in one loss without gradient, "
            "as in self-conditioning; that does not count."
        )
        oddities.append(Oddity("untrained-calls", text))
    if watch.form.multiple == 2:
        text = (
            "The output has twice the channels of the data, as where a variance is learned; the "
            "first half is audited, a term for the other half is not."
        )
        oddities.append(Oddity("learned-variance", text))
    if watch.form.output is Output.PAIR:
        text = (
            "The output is a pair, as where a second head learns the loss's weight; the first is "
            "audited, with zeros for the second."
        )
        oddities.append(Oddity("second-output", text))
    return oddities


def _times(num: int) -> str:
    return "once" if num == 1 else f"{num} times"


_OWN_TARGET = Oddity(
    "self-target",
    "The target holds an output of the network itself, taken without gradient, as in consistency "
    "training or distillation: no weighting of ELBOs describes such a loss.",
    is_fatal=True,
)


def _median(values: Tensor) -> float:
    return values.nan_to_num().median().item()


def _about_the_error(asker: Asker, seeds: list[int]) -> list[Oddity]:
    """Whether the loss is a squared error, the same in all elements."""
    bends, couplings, spreads = [], [], []
    for seed in seeds:
        runs = [
            asker.watch(asker.x, seed),
            asker.watch(asker.x, seed, scale=1.0),
            asker.watch(asker.x, seed, scale=3.0),
            asker.watch(asker.x, seed, scale=1.0, is_masked=True),
        ]
        for calls in zip(*runs, strict=True):
            (_, g_0, _), (_, g_1, answer), (_, g_3, _), (_, g_masked, half) = (
                tuple(part.double() for part in asker.seen(call)) for call in calls
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
            spreads.append(_median(deviation / element.mean(1).abs()))
    bend, coupling, spread = (
        torch.tensor(values).median().item() for values in (bends, couplings, spreads)
    )
    if coupling > 0.01:
        return [_COUPLED]
    if abs(bend - 1) > 0.02:
        return [_BENT_DOWN if bend < 1 else _BENT_UP]
    if spread > 0.02:
        return [_UNEVEN]
    return []


_COUPLED = Oddity(
    "coupled",
    "The error of one element changes the gradient of others, as in an adversarial, perceptual or "
    "spectral loss, or in a norm or RMSE of a sample or a batch: not a plain squared error, so no "
    "weighting of ELBOs describes it exactly.",
    is_fatal=True,
)
_BENT_DOWN = Oddity(
    "not-squared",
    "The gradient grows more slowly than the error, as in a Huber, pseudo-Huber or L1 loss: not a "
    "squared error, so no weighting of ELBOs describes it exactly.",
    is_fatal=True,
)
_BENT_UP = Oddity(
    "not-squared",
    "The gradient grows faster than the error: not a squared error, so no weighting of ELBOs "
    "describes it exactly.",
    is_fatal=True,
)
_UNEVEN = Oddity(
    "uneven",
    "The coefficient differs between the elements of one sample, as with a mask or weights per "
    "pixel or channel; its mean is shown.",
)


_ENCODED = Oddity(
    "encoded",
    "The loss encodes its data or normalizes them by channel first; log-SNR is that of the result.",
)
_DATA_DEPENDENT = Oddity(
    "data-dependent",
    "The coefficient depends on the data, not on the noise level alone; its mean is shown.",
)


def _ratio(above: Tensor, below: Tensor, rounding: Tensor) -> float:
    return float(above.norm() / (below.norm() + rounding))
