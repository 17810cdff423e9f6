r"""A first look at a loss: whether it is a squared error, and how it has to be asked.

A weighting describes a loss if that loss is, for every sample, $c\,\|\hat y - y\|^2$ with standard
normal noise in $z$. Everything else is found here, on a few batches, and put into words: an answer
moved three times as far must change the gradient three times as much; one half of an answer must
not change the gradient of the other; the noise must be white and normal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from elbos.audit.algebra import Coefficients
from elbos.audit.ask import (
    Asker,
    Look,
    in_its_form,
    is_same,
    other_data,
    require_repeatable,
    solve_looks,
)
from elbos.audit.layout import first_channel, order_of
from elbos.audit.reference import reference_of
from elbos.audit.watch import LossFunction, Output, Watch

_NUM_SAMPLES = 256
_MIN_DIMENSIONS = 32  # in which data, noise and random signs are far from dependent


@dataclass(frozen=True)
class Oddity:
    """Something about a loss that its weighting does not tell.

    Args:
        kind: One word, for programs.
        text: One sentence, for people.
        is_fatal: Whether it means that no weighting describes the loss.
    """

    kind: str
    text: str
    is_fatal: bool = False


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
        oddities: What was found besides.
    """

    asker: Asker
    reference: tuple[Tensor, Tensor]
    offset: float
    with_other_moved: bool
    is_noise_known: bool
    is_uneven: bool
    oddities: list[Oddity]

    @property
    def is_plain(self) -> bool:
        """Whether one call of the loss shows all there is; in few dimensions it does not."""
        is_known = self.is_noise_known and not self.is_uneven and not self.with_other_moved
        return is_known and self.asker.x[0].numel() >= _MIN_DIMENSIONS


def first_look(loss_fn: LossFunction, x: Tensor, seed: int) -> Pilot:
    """Ask a few batches every question there is.

    Raises:
        ValueError: If the loss cannot be measured at all; in one line.
    """
    watch = in_its_form(loss_fn, x, seed)
    asker = Asker(watch, x, other_data(x))
    require_repeatable(asker, seed)
    asker.first_channel, asker.order = first_channel(asker, seed), order_of(asker, seed)
    num_batches = min(64, max(4, -(-_NUM_SAMPLES // len(x))))
    seeds = [seed + i for i in range(num_batches)]
    looks = [look for s in seeds for look in asker.looks(s, with_other_moved=True)]
    oddities = _about_the_error(asker, seeds[:4])
    oddities += _about_the_calls(watch, x, seeds)
    is_uneven = _UNEVEN in oddities
    if not watch.is_finite:
        text = "The loss is NaN or infinite in some batches; only samples with a gradient count."
        oddities.append(Oddity("not-finite", text))
    reference = reference_of(looks, x, asker.x_other)
    if reference[0] is not x:
        text = (
            "The loss encodes its data or normalizes them by channel first; log-SNR is that of the "
            "result."
        )
        oddities.append(Oddity("encoded", text))
    coefficients = solve_looks(looks, reference, is_noise_known=True, is_uneven=is_uneven)
    is_noise_known = _median(coefficients.strange_noise) < 2e-3
    if not is_noise_known or coefficients.strange_offset > 1e-4:
        is_noise_known = False
        if x[0].numel() == 1:
            raise ValueError(_ONE_NUMBER)
        coefficients = solve_looks(looks, reference, is_noise_known=False, is_uneven=is_uneven)
        oddities += _about_the_noise(looks, reference, coefficients)
    change = torch.cat([look.coefficient_other() / look.coefficient() - 1 for look in looks])
    depends_on_x = _median(change[change.isfinite()].abs()) > 1e-3
    if depends_on_x:
        text = (
            "The coefficient depends on the data, not on the noise level alone; its mean is shown."
        )
        oddities.append(Oddity("data-dependent", text))
    offset = coefficients.offset
    return Pilot(asker, reference, offset, depends_on_x, is_noise_known, is_uneven, oddities)


def _about_the_calls(watch: Watch, x: Tensor, seeds: list[int]) -> list[Oddity]:
    """Several calls of the network in one loss, and outputs of more than one part."""
    oddities, trained, untrained, is_own_target = [], 0, 0, False
    for seed in seeds:
        calls = watch(x, seed)
        trained, untrained = max(trained, len(calls)), max(untrained, len(watch.untrained))
        if watch.untrained and not is_own_target:
            moved = watch(x, seed, moved=watch.untrained)
            is_own_target = not all(
                is_same(call.gradient, other.gradient)
                for call, other in zip(calls, moved, strict=True)
            )
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


_ONE_NUMBER = (
    "A sample is one number, so its noise cannot be told from a shift of the data: draw the noise "
    "by torch.randn_like(x), and shift the data before the loss."
)


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
        for at_0, at_1, at_3, masked in zip(*runs, strict=True):
            num = at_0.z.shape[1] if at_0.z.shape[2:] != asker.x.shape[2:] else asker.x.shape[1]
            g_0, g_1, g_3, g_masked = (
                call.gradient[:, :num].double() for call in (at_0, at_1, at_3, masked)
            )
            answer = at_1.answer.detach()[:, :num].double()
            is_kept = masked.answer.detach()[:, :num] != 0
            rounding = 1e-6 * (g_0.norm() + g_1.norm() + g_3.norm())
            bends.append(_ratio(g_3 - g_0, g_1 - g_0, rounding) / 3)
            change = g_masked - g_0
            couplings.append(_ratio(change[~is_kept], change[is_kept], rounding))
            element = ((g_1 - g_0) / answer).flatten(1)
            # rounding of the gradients themselves is no variation
            noise = 1e-6 * (g_0.flatten(1).abs().mean(1) + g_1.flatten(1).abs().mean(1))
            spread = (element.std(1, correction=0) - 10 * noise).clamp(min=0) / element.mean(
                1
            ).abs()
            spreads.append(spread.nan_to_num().median())
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
    "spectral loss: not a plain squared error, so no weighting of ELBOs describes it exactly.",
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


def _ratio(above: Tensor, below: Tensor, rounding: Tensor) -> float:
    return float(above.norm() / (below.norm() + rounding))


def _about_the_noise(
    looks: list[Look], reference: tuple[Tensor, Tensor], coefficients: Coefficients
) -> list[Oddity]:
    """Whether noise that was not drawn as a whole is white and normal."""
    x = reference[0].double() + coefficients.offset
    sizes = [len(look.z) for look in looks]
    alphas = torch.split(coefficients.alpha, sizes)
    noise = torch.cat(
        [
            look.z.double() - alpha.reshape(-1, *(1,) * (x.ndim - 1)) * x
            for look, alpha in zip(looks, alphas, strict=True)
        ]
    )
    noise = noise[coefficients.sigma > 1e-3 * coefficients.sigma.max()]
    noise = noise / noise.flatten(1).square().mean(1).sqrt().reshape(-1, *(1,) * (x.ndim - 1))
    num, size = noise.numel(), noise[0].numel()
    flat = noise.mean(tuple(range(2, noise.ndim)), keepdim=True)
    excess = (flat.square().mean() - flat.numel() / num).item()
    has_offset = excess > 6 * flat.numel() / num * (2 / flat.numel()) ** 0.5 and noise.ndim > 2
    rest = noise - flat if has_offset else noise
    correlation = _neighbours(rest) + (flat.numel() / num if has_offset else 0.0)
    if abs(correlation) > 6 / num**0.5 + 0.02:
        text = f"The noise is coloured: neighbours are correlated, by {correlation:.2g}." + _WHITE
        return [Oddity("coloured-noise", text, is_fatal=True)]
    if has_offset:
        text = (
            "Offset noise: a common number is added to every channel's noise, of "
            f"{(excess / (1 - excess)) ** 0.5:.2g} times its standard deviation." + _WHITE
        )
        return [Oddity("offset-noise", text, is_fatal=True)]
    kurtosis = noise.pow(4).mean().item()
    normal = 3 * size / (size + 2)  # of a normal vector, divided by its norm
    if abs(kurtosis - normal) > 6 * (24 / num) ** 0.5 + 0.02:
        text = f"The noise is not normal: its kurtosis is {kurtosis:.2f}, not 3."
        return [Oddity("not-normal", text + " The theory needs normal noise.", is_fatal=True)]
    text = "The noise is drawn neither by torch nor by numpy.random's functions: noise levels are "
    error = (2 / size) ** 0.5
    return [
        Oddity("noise-unseen", f"{text}measured from its norm, to {error:.2g} in log-SNR each.")
    ]


_WHITE = " The theory needs white noise; log-SNR is that of the whole power."


def _neighbours(noise: Tensor) -> float:
    """The correlation of neighbours, along the axis where it is largest."""
    axes = [i for i in range(1 if noise.ndim == 2 else 2, noise.ndim) if noise.shape[i] > 1]
    values = [
        (noise.narrow(i, 1, noise.shape[i] - 1) * noise.narrow(i, 0, noise.shape[i] - 1)).mean()
        for i in axes
    ]
    return max((value.item() for value in values), key=abs, default=0.0)
