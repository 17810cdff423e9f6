r"""The noise in $z$: one of the normal numbers drawn, a sum of several, or none that was recorded.

What is left of $z$ without the signal is compared with every normal draw. If it is none of them, it
is regressed on all of them together, also on those that many elements share: so offset noise is
found exactly, however weak, and a sum of white draws is as good as one. What is explained by no
draw is tested: it must be white and normal.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbos.audit.decompose import Coefficients, solve_paired
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.queries import PairedCalls, Queries, normalized_sum

_MIN_SHARE = 1e-6  # of the noise's power, from which on a draw is part of it


@dataclass(frozen=True)
class Noise:
    """The noise of the first batches."""

    is_known: bool  # that of every sample
    coefficients: Coefficients  # of all samples, solved with that noise
    diagnostics: list[Diagnostic]


def find_noise(
    paired: list[PairedCalls],
    queries: Queries,
    reference: tuple[Tensor, Tensor],
    *,
    is_uneven: bool,
) -> Noise:
    """Find the noise; if it is a sum of draws, `queries` will add them up from now on.

    Raises:
        ValueError: If samples are single numbers, and their noise is not one of the draws.
    """
    x = reference[0]

    def solved(paired: list[PairedCalls], *, is_known: bool) -> Coefficients:
        return solve_paired(paired, reference, is_noise_known=is_known, is_uneven=is_uneven)

    found = solved(paired, is_known=True)
    unexplained = found.unexplained_noise.nanmedian().item()
    diagnostics = []
    if unexplained > 1e-9 and x[0].numel() > 1:
        parts = _parts(paired, x, found)
        if (parts.whole or parts.shared) and parts.left < 0.1 * unexplained:
            diagnostics = [_of_the_parts(parts)]
            if not parts.shared and x is queries.x:
                queries.summed = parts.whole
                paired = [_with_sum(calls, x, parts.whole) for calls in paired]
                return Noise(True, solved(paired, is_known=True), diagnostics)
    if not (unexplained > 2e-3 or found.constant_noise > 1e-4 or diagnostics):
        return Noise(True, found, diagnostics)
    if x[0].numel() == 1:
        raise ValueError(
            "A sample is one number, so its noise cannot be told from a shift of the data: draw "
            "the noise by torch.randn_like(x), and shift the data before the loss."
        )
    found = solved(paired, is_known=False)
    return Noise(False, found, diagnostics or [_of_the_statistics(paired, x, found)])


def _with_sum(calls: PairedCalls, x: Tensor, parts: list[int]) -> PairedCalls:
    total = normalized_sum([calls.moved.normals[i] for i in parts], calls.z, x)
    return replace(calls, moved=replace(calls.moved, normals=[total]))


def _without_data(paired: list[PairedCalls], x: Tensor, coefficients: Coefficients) -> list[Tensor]:
    """The noise of each batch, scaled."""
    alphas = torch.split(coefficients.alpha.to(x.device), [len(calls.z) for calls in paired])
    return [
        calls.z.double() - alpha.reshape(-1, *(1,) * (x.ndim - 1)) * (x + coefficients.offset)
        for calls, alpha in zip(paired, alphas, strict=True)
    ]


@dataclass(frozen=True)
class _Parts:
    """Draws that the noise consists of.

    Those that many elements share are given by their shapes and their standard deviations, compared
    with that of the others.
    """

    whole: list[int]  # those of the size of the data, by their place
    shared: list[tuple[list[int], float]]
    left: float  # share of the noise's power that no draw explains


def _parts(paired: list[PairedCalls], x: Tensor, coefficients: Coefficients) -> _Parts:
    """The draws in the noise, by least squares, sample by sample."""
    num_whole = min(len(calls.moved.normals) for calls in paired)
    num_shared = min(len(calls.moved.shared) for calls in paired)
    if not 0 < num_whole + num_shared < x[0].numel() / 2:
        return _Parts([], [], 1.0)
    squares, powers, sizes, left = [], [], [], []
    for calls, rest in zip(paired, _without_data(paired, x, coefficients), strict=True):
        draws = [*calls.moved.normals[:num_whole], *calls.moved.shared[:num_shared]]
        vectors = torch.stack([d.expand_as(rest).flatten(1).double() for d in draws], dim=1)
        products, noise = vectors @ vectors.mT, rest.flatten(1)[:, :, None]
        factors = torch.linalg.pinv(products, hermitian=True, rtol=1e-9) @ (vectors @ noise)
        squares.append(factors[:, :, 0].square())
        powers.append(squares[-1] * products.diagonal(dim1=1, dim2=2))
        sizes.append(noise.square().sum((1, 2)))
        left.append((noise - vectors.mT @ factors).square().sum((1, 2)) / sizes[-1])
    power = torch.cat(powers).nansum(0) / torch.cat(sizes).nansum()
    used = [i for i, share in enumerate(power) if share > _MIN_SHARE]
    whole = [i for i in used if i < num_whole]
    variances = torch.cat(squares).nansum(0)
    strengths = (variances / variances[whole].sum().clamp(min=1e-300)).sqrt()
    shared = [
        (list(paired[0].moved.shared[i - num_whole].shape), strengths[i].item())
        for i in used
        if i >= num_whole
    ]
    return _Parts(whole, shared, torch.cat(left).nanmedian().item())


def _of_the_parts(parts: _Parts) -> Diagnostic:
    if not parts.shared:
        return Diagnostic("summed-noise", {"num_draws": len(parts.whole)})
    shape, strength = max(parts.shared, key=lambda part: part[1])
    if parts.whole and set(shape[2:]) == {1}:
        return Diagnostic("offset-noise", {"strength": strength})
    of_draw = {"shape": [float(size) for size in shape]}
    return Diagnostic("coloured-noise", of_draw | ({"strength": strength} if parts.whole else {}))


def _of_the_statistics(
    paired: list[PairedCalls], x: Tensor, coefficients: Coefficients
) -> Diagnostic:
    """Whether noise that was not drawn as a whole is white and normal."""
    noise = torch.cat(_without_data(paired, x, coefficients))
    noise = noise[coefficients.sigma > 1e-3 * coefficients.sigma.max()]
    noise = noise / noise.flatten(1).square().mean(1).sqrt().reshape(-1, *(1,) * (noise.ndim - 1))
    num, size = noise.numel(), noise[0].numel()
    flat = noise.mean(tuple(range(2, noise.ndim)), keepdim=True)
    excess = (flat.square().mean() - flat.numel() / num).item()
    has_offset = excess > 6 * flat.numel() / num * (2 / flat.numel()) ** 0.5 and noise.ndim > 2
    rest = noise - flat if has_offset else noise
    axes = [i for i in range(1, noise.ndim) if noise.shape[i] > 1]
    correlation = max((_neighbour_correlation(rest, i) for i in axes), key=abs, default=0.0)
    correlation += flat.numel() / num if has_offset else 0.0
    if abs(correlation) > 6 / num**0.5 + 0.02:
        return Diagnostic("coloured-noise", {"correlation": correlation})
    if has_offset:
        return Diagnostic("offset-noise", {"strength": (excess / (1 - excess)) ** 0.5})
    kurtosis = noise.pow(4).mean().item()
    normal = 3 * size / (size + 2)  # of a normal vector, divided by its norm
    if abs(kurtosis - normal) > 6 * (24 / num) ** 0.5 + 0.02:
        return Diagnostic("not-normal", {"kurtosis": kurtosis})
    return Diagnostic("noise-unseen", {"logsnr_error": (2 / size) ** 0.5})


def _neighbour_correlation(noise: Tensor, axis: int) -> float:
    """The correlation of neighbours; noise that is centred along an axis, as of molecules, is white
    in the rest.
    """
    num = noise.shape[axis]
    value = (noise.narrow(axis, 1, num - 1) * noise.narrow(axis, 0, num - 1)).mean().item()
    is_centred = noise.mean(axis).square().mean().item() < 1e-6
    return value + 1 / (num - 1) if is_centred else value
