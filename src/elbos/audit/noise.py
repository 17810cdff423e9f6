r"""What the noise in $z$ is: one of the numbers drawn, a sum of several, or none that was seen.

What is left of $z$ without the signal is compared with every normal draw. If it is none of them, it
is regressed on all of them together, also on those that many elements share: so offset noise is
found exactly, however weak, and a sum of white draws is as good as one. What is explained by no
draw is tested: it must be white and normal.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbos.audit.algebra import Coefficients
from elbos.audit.ask import Asker, Look, solve_looks, sum_of
from elbos.audit.oddity import Oddity

_PART = 1e-6  # the share of the noise's power from which on a draw is part of it


@dataclass(frozen=True)
class Noise:
    """What was found.

    Args:
        is_known: Whether the noise of every sample is known.
        coefficients: Of all samples, solved with that noise.
        oddities: What there is to say about it.
    """

    is_known: bool
    coefficients: Coefficients
    oddities: list[Oddity]


def noise_of(
    looks: list[Look], asker: Asker, reference: tuple[Tensor, Tensor], *, is_uneven: bool
) -> Noise:
    """Find the noise; if it is a sum, the asker is told of what.

    Raises:
        ValueError: If samples are single numbers, and their noise is not one of the draws.
    """
    x = reference[0]

    def solved(looks: list[Look], *, is_known: bool) -> Coefficients:
        return solve_looks(looks, reference, is_noise_known=is_known, is_uneven=is_uneven)

    found = solved(looks, is_known=True)
    strange = found.strange_noise.nanmedian().item()
    oddities = []
    if strange > 1e-9 and x[0].numel() > 1:
        parts = _parts(looks, x, found)
        if (parts.whole or parts.shared) and parts.left < 0.1 * strange:
            oddities = _about_the_parts(parts)
            if not parts.shared and x is asker.x:
                asker.summed = parts.whole
                looks = [_with_sum(look, x, parts.whole) for look in looks]
                return Noise(True, solved(looks, is_known=True), oddities)
    if not (strange > 2e-3 or found.strange_offset > 1e-4 or oddities):
        return Noise(True, found, oddities)
    if x[0].numel() == 1:
        raise ValueError(_ONE_NUMBER)
    found = solved(looks, is_known=False)
    return Noise(False, found, oddities or _by_statistics(looks, x, found))


def _with_sum(look: Look, x: Tensor, parts: list[int]) -> Look:
    return replace(look, draws=[sum_of([look.draws[i] for i in parts], look.z, x)])


def _without_data(looks: list[Look], x: Tensor, coefficients: Coefficients) -> list[Tensor]:
    """What is left of the noisy data of each look."""
    alphas = torch.split(coefficients.alpha.to(x.device), [len(look.z) for look in looks])
    return [
        look.z.double() - alpha.reshape(-1, *(1,) * (x.ndim - 1)) * (x + coefficients.offset)
        for look, alpha in zip(looks, alphas, strict=True)
    ]


@dataclass(frozen=True)
class _Parts:
    """Draws that the noise consists of.

    Args:
        whole: Those of the size of the data, by their place.
        shared: Shapes of those that many elements share, and their strength, as a standard
            deviation, compared with that of the others.
        left: Share of the noise's power that no draw explains.
    """

    whole: list[int]
    shared: list[tuple[list[int], float]]
    left: float


def _parts(looks: list[Look], x: Tensor, coefficients: Coefficients) -> _Parts:
    """By least squares, sample by sample."""
    num_whole, num_shared = (
        min(len(draws) for draws in all_draws)
        for all_draws in ([look.draws for look in looks], [look.shared for look in looks])
    )
    if not 0 < num_whole + num_shared < x[0].numel() / 2:
        return _Parts([], [], 1.0)
    squares, powers, sizes, left = [], [], [], []
    for look, rest in zip(looks, _without_data(looks, x, coefficients), strict=True):
        draws = [*look.draws[:num_whole], *look.shared[:num_shared]]
        vectors = torch.stack([d.expand_as(rest).flatten(1).double() for d in draws], dim=1)
        products, noise = vectors @ vectors.mT, rest.flatten(1)[:, :, None]
        factors = torch.linalg.pinv(products, hermitian=True, rtol=1e-9) @ (vectors @ noise)
        squares.append(factors[:, :, 0].square())
        powers.append(squares[-1] * products.diagonal(dim1=1, dim2=2))
        sizes.append(noise.square().sum((1, 2)))
        left.append((noise - vectors.mT @ factors).square().sum((1, 2)) / sizes[-1])
    power = torch.cat(powers).nansum(0) / torch.cat(sizes).nansum()
    used = [i for i, share in enumerate(power) if share > _PART]
    whole = [i for i in used if i < num_whole]
    variances = torch.cat(squares).nansum(0)
    strengths = (variances / variances[whole].sum().clamp(min=1e-300)).sqrt()
    shared = [
        (list(looks[0].shared[i - num_whole].shape), strengths[i].item())
        for i in used
        if i >= num_whole
    ]
    return _Parts(whole, shared, torch.cat(left).nanmedian().item())


def _about_the_parts(parts: _Parts) -> list[Oddity]:
    """Of noise that is a sum of draws."""
    if not parts.shared:
        text = f"The noise is a sum of {len(parts.whole)} normal draws; log-SNR is that of the sum."
        return [Oddity("summed-noise", text)]
    shape, strength = max(parts.shared, key=lambda part: part[1])
    if parts.whole and set(shape[2:]) == {1}:
        text = (
            "Offset noise: a common number is added to every channel's noise, of "
            f"{strength:.2g} times its standard deviation." + _WHITE
        )
        return [Oddity("offset-noise", text, is_fatal=True)]
    text = f"The noise is coloured: many elements share the numbers of a draw of shape {shape}"
    text += f", of {strength:.2g} times the noise's standard deviation." if parts.whole else "."
    return [Oddity("coloured-noise", text + _WHITE, is_fatal=True)]


_ONE_NUMBER = (
    "A sample is one number, so its noise cannot be told from a shift of the data: draw the noise "
    "by torch.randn_like(x), and shift the data before the loss."
)


def _by_statistics(looks: list[Look], x: Tensor, coefficients: Coefficients) -> list[Oddity]:
    """Whether noise that was not drawn as a whole is white and normal."""
    noise = torch.cat(_without_data(looks, x, coefficients))
    noise = noise[coefficients.sigma > 1e-3 * coefficients.sigma.max()]
    noise = noise / noise.flatten(1).square().mean(1).sqrt().reshape(-1, *(1,) * (noise.ndim - 1))
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
    text = (
        "The noise is, as a whole, none of the normal numbers that torch or numpy.random were seen "
        "to draw, but white and normal: noise levels are measured from its norm, to "
        f"{(2 / size) ** 0.5:.2g} in log-SNR each."
    )
    return [Oddity("noise-unseen", text)]


_WHITE = " The theory needs white noise; log-SNR is that of the whole power."


def _neighbours(noise: Tensor) -> float:
    """The correlation of neighbours, along the axis where it is largest."""
    axes = [i for i in range(1, noise.ndim) if noise.shape[i] > 1]
    return max((_along_axis(noise, i) for i in axes), key=abs, default=0.0)


def _along_axis(noise: Tensor, axis: int) -> float:
    """Of neighbours; noise that is centred along an axis, as of molecules, is white in the rest."""
    num = noise.shape[axis]
    value = (noise.narrow(axis, 1, num - 1) * noise.narrow(axis, 0, num - 1)).mean().item()
    is_centred = noise.mean(axis).square().mean().item() < 1e-6
    return value + 1 / (num - 1) if is_centred else value
