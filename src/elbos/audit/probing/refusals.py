r"""Reasons for refusing a loss: the network's input is not scaled data plus noise of one level.

Each sample of $z$ is fitted by a few samples of the batch, mirror images of the sample, and normal
draws. The fit reveals data or noise of another sample, two samples at once, and mirrored data.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.queries import PairedCalls
from elbos.audit.probing.data import is_scaled_by_element, repeated

_LEAD = "The network's input is not the data, scaled, plus noise of one level per sample: "
REFUSAL = (
    f"{_LEAD}remove all other randomness (augmentation, dropout, masks) from the loss, and "
    "operations on the data that depend on the noise level."
)
_PAIRED = (
    "data and noise are paired by their values, as by optimal transport, so that the noise given "
    "the data is not normal."
)
_SHUFFLED = (
    "it holds data or noise of another sample than the target: part of the batch is shuffled. "
    "Shuffle the whole batch or nothing."
)
_BRIDGE = (
    "it mixes two samples of data, as in a bridge between data sets, which has no noise level."
)
_BY_ELEMENT = (
    "each element is shifted and scaled by numbers of its own that change with the noise level, as "
    "where inputs are z-scored by time: audit the loss without that."
)
_MIRRORED = "the data are mirrored at random: take augmentation out of the loss."
_MASKED = (
    "{share:.0%} of its elements are {kind}, as behind a mask (inpainting): give the network the "
    "known elements in separate channels, and the noisy data as a whole; or, if they are the same "
    "elements in all samples, leave them out of the loss."
)
_BY_AXIS = (
    "noise levels differ within a sample along axis {axis}, of size {size}, as with one level per "
    "frame (diffusion forcing): a sample has no single log-SNR."
)
_MAX_SAMPLES = 16  # that are tested
_EXACT = 1e-4  # largest unexplained share of an exact fit
_MAX_TERMS = 4
_MIN_ALIKE, _MIN_NUMBERS, _SAME = 8, 32, 5e-5  # samples, elements, and their relative deviation


def reason(paired: list[PairedCalls], x: Tensor, x_other: Tensor) -> str:
    """Explain in one line why the network's input is not scaled data plus noise."""
    z = torch.cat([p.z for p in paired])
    if z.shape[1:] != x.shape[1:]:
        return REFUSAL
    is_clean = (z - repeated(x, z)).abs() < 1e-5 * x.abs().mean()
    for kind, is_masked in (("clean data", is_clean), ("zero", z == 0)):
        share = is_masked.flatten(1).double().mean(1).median().item()
        if 0.01 < share < 1:
            return _LEAD + _MASKED.format(share=share, kind=kind)
    dz = torch.cat([p.z - p.z_other for p in paired]).double()
    dx = repeated((x - x_other).double(), z)
    if is_scaled_by_element(paired, x, x_other):
        return _LEAD + _BY_ELEMENT
    places = [(p, i) for i in range(len(x)) for p in paired][:_MAX_SAMPLES]
    fits = [(i, _terms(p, p.z[i], x, i), _terms(p, p.z_other[i], x_other, i)) for p, i in places]
    mixed = [(i, terms, again) for i, terms, again in fits if terms and again]
    if len(mixed) >= len(fits) / 2:
        if any(sum(term.kind != "noise" for term in terms) > 1 for _, terms, _ in mixed):
            return _LEAD + _BRIDGE
        if any(term.kind == "mirrored" for _, terms, _ in mixed for term in terms):
            return _LEAD + _MIRRORED
        if any(term.sample != i for i, terms, _ in mixed for term in terms):
            is_alike = all(set(terms) == set(again) for _, terms, again in mixed)
            return _LEAD + (_SHUFFLED if is_alike else _PAIRED)
    if dz.square().sum() <= 1e-6 * dx.square().sum():
        return REFUSAL
    for axis in range(1, dz.ndim):
        axes = [i for i in range(1, dz.ndim) if i != axis]
        alpha = (dz * dx).sum(axes, keepdim=True) / dx.square().sum(axes, keepdim=True)
        if axes and _left(dz, alpha * dx) < _EXACT:
            return _LEAD + _BY_AXIS.format(axis=axis, size=dz.shape[axis])
    return REFUSAL


def altered(z: Tensor) -> str:
    r"""Describe how a network's input is clipped or normalized; "" if it is neither.

    The extreme values of continuous noise differ in size, and occur as often as others, unless they
    are rounded to bfloat16. The deviations of `d` normal numbers differ by $1/\sqrt{2d}$.
    """
    if len(z) >= _MIN_ALIKE and z[0].numel() >= _MIN_NUMBERS:
        for axes in {tuple(range(1, z.ndim)), tuple(range(2, z.ndim)) or (1,)}:
            std = z.double().std(axes)  # of samples, of channels
            if (std - std.mean()).abs().max() < _SAME * std.mean():
                return "divided by its own standard deviation"
    low, high = z.min().item(), z.max().item()
    usual = int((z == z.median()).sum())  # 2 where a batch holds each sample twice
    is_repeated = all(int((z == end).sum()) > usual for end in (low, high))
    if low == high or not (is_repeated or low == -high) or is_rounded(z):
        return ""
    return f"clipped to [{low:g}, {high:g}]"


def is_rounded(values: Tensor) -> bool:
    """Return whether all values have the few digits of bfloat16."""
    return torch.equal(values.bfloat16().to(values.dtype), values)


def require_explained(unexplained: Float[Tensor, " n"], logsnr: Float[Tensor, " n"]) -> None:
    """Require recorded draws to explain the noise, except where rounding dominates."""
    is_strange = (unexplained > 0.05) & (logsnr.abs() < 4)
    if is_strange.double().mean() > 1e-3:  # for example, a random choice per batch
        raise ValueError(REFUSAL)


def _left(values: Tensor, fitted: Tensor) -> float:
    return float((values - fitted).square().sum() / values.square().sum().clamp(min=1e-300))


class _Term(NamedTuple):
    kind: Literal["data", "mirrored", "noise"]
    sample: int  # index in the batch


def _terms(calls: PairedCalls, z: Float[Tensor, " *d"], x: Tensor, row: int) -> list[_Term]:
    """Decompose input `row` into data and noise by orthogonal matching pursuit, if exactly."""
    terms = [(_Term("data", i), sample) for i, sample in enumerate(x)]
    terms += [(_Term("mirrored", row), x[row].flip(axis)) for axis in range(x.ndim - 1)]
    for draw in calls.moved.normals:
        terms += [(_Term("noise", i), noise) for i, noise in enumerate(draw)]

    def centred(vector: Tensor) -> Float[Tensor, " d"]:
        flat = vector.flatten().double()
        return flat - flat.mean()

    vectors = torch.stack([centred(vector) for _, vector in terms])
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-30)
    rest = value = centred(z)
    chosen: list[int] = []
    while len(chosen) < _MAX_TERMS and _left(value, value - rest) > _EXACT:
        chosen.append(int((vectors @ rest).abs().argmax()))
        basis = vectors[chosen].T
        rest = value - basis @ torch.linalg.lstsq(basis, value).solution
    is_exact = _left(value, value - rest) <= _EXACT
    return [terms[i][0] for i in chosen] if is_exact else []
