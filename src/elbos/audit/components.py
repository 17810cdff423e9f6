r"""What the network's input consists of: the data as the process sees them, and the noise.

**Data.** The latents $E(x)$ of a loss that encodes images are given to nobody, but they are the
same in every batch. With $z_k = \alpha_k E(x) + \sigma_k \epsilon_k$ and the noise known, they can
be solved for. Their scale stays open, as does that of data that the loss multiplies by $s$: what
is measured is $\alpha' = s\alpha$. The relation of $\alpha$ and $\sigma$ over the noise levels
gives $s$:

| process | relation |
|---|---|
| variance preserving | $\alpha^2 + \sigma^2 = 1$ |
| rectified flow | $\alpha + \sigma = 1$ |
| variance exploding | $\alpha = 1$ |

One case stays open: EDM's input scaling $c_\mathrm{in}$ with data of standard deviation $\sigma_d$
*is* the variance-preserving process on data multiplied by $1/\sigma_d$. It is read as EDM's, the
data untouched, if nothing is added to the data and $\sigma_d < 1$.

**Noise.** What is left of $z$ without the signal is compared with every normal draw. If it is none
of them, it is regressed on all of them together, also on those that many elements share: so offset
noise is found exactly, however weak, and a sum of white draws is as good as one. What is explained
by no draw is tested: it must be white and normal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.decompose import Coefficients, paired_grams, similarity, solve
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.queries import PairedCalls, Queries, normalized_sum, unlike

_MIN_SHARE = 1e-6  # of the noise's power, from which on a draw is part of it
REFUSAL = (
    "The network's input is not the data, scaled, plus noise of one level per sample: take out of "
    "the loss what is random besides (augmentation, a VAE's sample()), a shuffled batch, and data "
    "paired with noise (optimal transport); levels that differ within a sample, as per frame, have "
    "no weighting of this kind."
)


# --- data ----------------------------------------------------------------------------------------


def reference_data(paired: list[PairedCalls], x: Tensor, x_other: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches as the process sees them: themselves, if the changes of z are theirs, scaled.

    Raises:
        ValueError: If z is no data, scaled, plus noise.
    """
    z, z_other = (torch.cat([p.z for p in paired]), torch.cat([p.z_other for p in paired]))
    dz = (z - z_other).float()
    rounding = 100 * torch.finfo(z.dtype).eps ** 2 * z.float().square().nansum().item()
    size = dz.square().nansum().item()
    if size <= rounding:
        raise ValueError(REFUSAL)
    if z.shape[1:] == x.shape[1:]:
        dx = (x - x_other).repeat(len(paired), *(1,) * (x.ndim - 1))
        if unlike(dz, dx) * size < 1e-8 * size + rounding:
            return x, x_other
    return _encoded(paired, len(x))


def _encoded(paired: list[PairedCalls], num: int) -> tuple[Tensor, Tensor]:
    r"""The data after an encoder or a normalization in the loss.

    For one sample of the batch, $z_k = \alpha_k E(x) + \sigma_k\epsilon_k$ with the same $E(x)$ in
    every batch $k$ and known noise, and with other data $dz_k \propto \alpha_k$.

    Raises:
        ValueError: If the changes of $z$ have no common direction, or the noise was not recorded.
    """
    dz = torch.stack([p.z - p.z_other for p in paired], dim=1).double().flatten(2)
    best = dz.norm(dim=2).argmax(1)
    difference = dz[torch.arange(num), best]
    alpha = (dz @ difference[..., None]).squeeze(2) / difference.square().sum(1, keepdim=True)
    strange = (dz - alpha[..., None] * difference[:, None]).square().sum() / dz.square().sum()
    num_draws = min(len(p.moved.normals) for p in paired)
    if strange > 0.05 or num_draws == 0:
        raise ValueError(REFUSAL)
    fits = [sum(similarity(p.z, p.moved.normals[i]) for p in paired) for i in range(num_draws)]
    noise = fits.index(max(fits))  # the draw that the noisiest inputs resemble
    z = torch.stack([p.z for p in paired], dim=1).double().flatten(2)
    eps = torch.stack([p.moved.normals[noise] for p in paired], dim=1).double().flatten(2)
    data, sigma = _data_and_sigma(z, eps, alpha)
    left = z - alpha[..., None] * data[:, None] - sigma[..., None] * eps
    if left.square().sum() > 1e-2 * z.square().sum():
        raise ValueError(REFUSAL)
    scale = _relative_scale(alpha.T, sigma.T.abs())[:, None]
    shape = paired[0].z.shape
    return (data * scale).reshape(shape), ((data - difference) * scale).reshape(shape)


def _data_and_sigma(
    z: Float[Tensor, "b k d"], eps: Float[Tensor, "b k d"], alpha: Float[Tensor, "b k"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]]:
    r"""Least squares of $z_k = \alpha_k E + \sigma_k\epsilon_k$ for $E$ and $\sigma$.

    Given $\sigma$, $E$ is a mean, $\sum_k \alpha_k (z_k - \sigma_k\epsilon_k) / \sum_k \alpha_k^2$,
    which leaves a small linear system for $\sigma$.
    """
    mean = alpha / alpha.square().sum(1, keepdim=True)
    apart = torch.eye(alpha.shape[1], dtype=z.dtype, device=z.device)
    apart = apart - alpha[:, :, None] * mean[:, None]
    rest = (apart @ z * eps).sum(2)
    sigma = torch.linalg.solve(apart * (eps @ eps.mT), rest)
    data = (mean[..., None] * (z - sigma[..., None] * eps)).sum(1)
    return data, sigma


def _relative_scale(
    alpha: Float[Tensor, "k n"], sigma: Float[Tensor, "k n"]
) -> Float[Tensor, " n"]:
    """The scales of data whose `alpha` is known up to a factor for each of `n` samples, from the
    relation that holds best over `k` noise levels.
    """
    preserving, flow = _preserving_scale(alpha, sigma), _flow_scale(alpha, sigma)
    exploding = alpha.mean(0)
    errors = {
        (sigma**2 + (alpha / preserving) ** 2 - 1).square().mean(): preserving,
        (sigma + alpha / flow - 1).square().mean(): flow,
        (alpha / exploding - 1).square().mean(): exploding,
    }
    return errors[min(errors)]


# --- noise ---------------------------------------------------------------------------------------


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
        grams = [paired_grams(calls, reference, is_uneven=is_uneven) for calls in paired]
        return solve(torch.cat(grams), is_noise_known=is_known)

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


# --- process -------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process, and the scale of the data."""

    name: str | None  # None if the relation is none of those known
    scale: float  # what the data are multiplied with before they are diffused
    sigma_data: float | None = None  # of an input scaled like EDM's


def process_of(
    alpha: Float[Tensor, " n"], sigma: Float[Tensor, " n"], *, offset: float, rtol: float
) -> Process:
    """The process that measured scales belong to.

    If something is added to the data, a scale is likely, too; `rtol` is the relative error of a
    single `sigma`.
    """
    order = alpha.argsort()
    groups = [(alpha[i], sigma[i]) for i in order.tensor_split(min(20, len(order)))]

    def holds(variance_of: Callable[[Tensor], Tensor]) -> bool:
        errors = [((s**2).mean() - variance_of(a).mean()).abs() for a, s in groups]
        largest = max((s**2).mean() for _, s in groups)
        size = min(len(s) for _, s in groups)
        return bool(max(errors) < (2e-3 + 8 * rtol / size**0.5) * largest)

    if alpha.max() - alpha.min() < 2e-3 * alpha.max():
        return Process("variance exploding", _rounded(alpha.median(), rtol))
    scale = _rounded(_preserving_scale(alpha, sigma), rtol)
    if holds(lambda a: 1 - (a / scale) ** 2):
        if scale > 1.002 and offset == 0:
            return Process("variance exploding, scaled by c_in", 1.0, 1 / scale)
        return Process("variance preserving", scale)
    scale = _rounded(_flow_scale(alpha, sigma), rtol)
    if scale > 0 and holds(lambda a: (1 - a / scale) ** 2):
        return Process("rectified flow", scale)
    return Process(None, 1.0)


def _preserving_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**4).sum(0).div(((1 - sigma**2) * alpha**2).sum(0)).abs().sqrt()


def _flow_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2).sum(0) / ((1 - sigma) * alpha).sum(0)


def _rounded(scale: Tensor, rtol: float) -> float:
    """Without the errors of the measurement: a scale of about 1 is none."""
    value = float(f"{scale.item():.4g}")
    return 1.0 if abs(value - 1) < 2e-3 + 0.2 * rtol else value
