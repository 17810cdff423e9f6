r"""Noise of a loss: which normal random draws form the noise in the network input and in the
target.

The noise in $z$ is compared with every normal draw. If no single draw matches, it is regressed on
all draws together, including draws that many elements share, as in offset noise. A draw whose
coefficient is proportional to $\alpha$ belongs to the data (`data`). Noise that no draws explain is
tested for being white and normal. The target is regressed on the draws, too: if it contains them in
other proportions than $z$, its component independent of $z$ adds a constant to the expected loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.calls.queries import DrawSum, PairedCalls
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.probing.data import Reference
from elbos.audit.probing.decompose import Coefficients, along, paired_grams, solve, target_of
from elbos.theory.process import align

_MIN_SHARE = 1e-6  # share of the noise's power above which a draw counts
_SAME = 1e-6  # share of squares up to which two functions of the noise level are the same
_NO_NOISE = 1e-12  # largest power of the noise in the input of a clean step, by rounding
MAX_UNEXPLAINED = 2e-3  # largest unexplained share of known noise
_MAX_STRANGE = 1e-3  # largest unexplained share in half precision
_MAX_STRANGE_EXACT = 1e-5  # share of a float32 target; rounding leaves less than 1e-6


@dataclass(frozen=True)
class Noise:
    is_known: bool  # recorded draws are the noise of every sample
    coefficients: Coefficients  # coefficients of all samples, solved with this noise
    reference: Reference  # the data, with the draw that samples them
    diagnostics: list[Diagnostic]
    summed: tuple[int, ...] = ()  # indices of the draws whose sum is the noise, if it is a sum
    gamma: float = 0.0  # standard deviation of input perturbation

    def prepare(self, calls: PairedCalls) -> PairedCalls:
        moved = self.reference.prepare(calls.moved)
        if not self.summed:
            return replace(calls, moved=moved)
        draws = [moved.normals[i] for i in self.summed if i < len(moved.normals)]
        x, x_other = self.reference.at(moved)
        noise = calls.z - along((calls.z - calls.z_other).double(), x - x_other) * x
        summed = DrawSum(draws, noise)
        normals = [summed.noise().reshape(moved.z.shape)]
        return replace(calls, moved=replace(moved, normals=normals, summed=summed))


@dataclass(frozen=True)
class _Candidate:
    paired: list[PairedCalls]
    reference: Reference
    coefficients: Coefficients
    parts: "DrawFactors"

    @property
    def unexplained(self) -> float:
        return self.coefficients.unexplained_noise.nanmedian().item()

    @property
    def has_more_draws(self) -> bool:
        is_explained = self.parts.left < min(0.1 * self.unexplained, _MAX_STRANGE)
        return self.unexplained > 1e-9 and self.reference.x[0].numel() > 1 and is_explained


def find_noise(paired: list[PairedCalls], reference: Reference, *, is_uneven: bool) -> Noise:
    """Find the noise among the random numbers of a loss.

    Raises:
        ValueError: If samples are single numbers, and their noise is not one of the draws.
    """

    def solved(calls: list[PairedCalls], reference: Reference, *, is_known: bool) -> Coefficients:
        grams = [
            paired_grams(call, reference.at(call.moved), is_uneven=is_uneven) for call in calls
        ]
        return solve(torch.cat(grams), is_noise_known=is_known)

    def resolved(noise: Noise) -> Noise:
        calls = [noise.prepare(call) for call in paired]
        return replace(noise, coefficients=solved(calls, noise.reference, is_known=True))

    def with_target(noise: Noise) -> Noise:
        both = _with_target(noise, best)
        return both if both.summed == noise.summed else resolved(both)

    def candidate(reference: Reference) -> _Candidate:
        calls = [replace(call, moved=reference.prepare(call.moved)) for call in paired]
        coefficients = solved(calls, reference, is_known=True)
        noises = _without_data([call.z for call in calls], calls, reference, coefficients)
        parts = _draw_factors(calls, noises, reference.x)
        return _Candidate(calls, reference, coefficients, parts)

    best, diagnostics = candidate(reference), list[Diagnostic]()
    alpha, parts = best.coefficients.alpha, best.parts
    draw = parts.of_data(alpha) if best.has_more_draws and not parts.shared else None
    if draw is not None and reference.spread is None:
        spread = torch.full_like(reference.x, parts.ratio(draw, alpha) or 0.0)
        sampled = replace(reference, spread=spread, spread_other=spread, draw=draw)
        best, diagnostics = candidate(sampled), [sampled.diagnostic]
    calls, reference, coefficients = best.paired, best.reference, best.coefficients
    if best.has_more_draws:
        diagnostics.append(best.parts.diagnostic)
        if not best.parts.shared:
            noise = Noise(True, coefficients, reference, diagnostics, tuple(best.parts.full))
            return with_target(resolved(noise))
    elif not (best.unexplained > MAX_UNEXPLAINED or coefficients.constant_noise > 1e-4):  # or NaN
        return with_target(Noise(True, coefficients, reference, diagnostics))
    size, num = reference.x[0].numel(), min(len(call.moved.normals) for call in calls)
    if 1 < size <= num:
        raise ValueError(
            f"A sample is {size} numbers, so that the {num} normal draws of the loss add up to any "
            f"noise: give data with at least {num + 2} numbers per sample."
        )
    if size == 1:
        raise ValueError(
            "A sample is one number, so its noise cannot be told from a shift of the data: draw "
            "the noise by torch.randn_like(x), and shift the data before the loss."
        )
    coefficients = solved(calls, reference, is_known=False)
    if not best.has_more_draws:
        noises = _without_data([call.z for call in calls], calls, reference, coefficients)
        diagnostics.append(_of_the_statistics(noises, coefficients))
    return Noise(False, coefficients, reference, diagnostics)


def _without_data(
    values: list[Tensor],
    paired: list[PairedCalls],
    reference: Reference,
    coefficients: Coefficients,
    *,
    of_target: bool = False,
) -> list[Tensor]:
    factor = (coefficients.a if of_target else coefficients.alpha).to(values[0].device)
    factors = torch.split(factor, [len(value) for value in values])
    return [
        value.double() - align(by, value) * (x + coefficients.offset)
        for value, by, calls in zip(values, factors, paired, strict=True)
        for x in [reference.at(calls.moved)[0]]
    ]


# --- draws ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawFactors:
    """Decomposition of noise into the random tensors that a loss draws."""

    full: list[int]  # indices of the draws of the size of the data
    shared: list[tuple[list[int], float]]  # shapes of draws that many elements share, and their
    # standard deviations relative to the full draws
    factors: Float[Tensor, "n k"]  # one column per draw; shared draws come last
    left: float  # share of the power that no draw explains

    @classmethod
    def from_powers(
        cls,
        factors: Float[Tensor, "n k"],
        powers: Float[Tensor, "n k"],
        total: Float[Tensor, " n"],
        left: Float[Tensor, " n"],
        shapes: Sequence[Sequence[int]],
    ) -> "DrawFactors":
        """Select the draws, those of shared `shapes` last, with enough of the total power."""
        num_full = factors.shape[1] - len(shapes)
        power = powers.nansum(0) / total.nansum()
        used = [i for i, share in enumerate(power) if share > _MIN_SHARE]
        full = [i for i in used if i < num_full]
        variances = factors.square().nansum(0)
        strengths = (variances / variances[full].sum().clamp(min=1e-300)).sqrt()
        shared = [(list(shapes[i - num_full]), strengths[i].item()) for i in used if i >= num_full]
        return cls(full, shared, factors, left.nanmedian().item() if used else 1.0)

    @property
    def diagnostic(self) -> Diagnostic:
        if not self.shared:
            return kinds.SummedNoise(len(self.full))
        shape, strength = max(self.shared, key=lambda part: part[1])
        if self.full and set(shape[2:]) == {1}:
            return kinds.OffsetNoise(strength)
        return kinds.ColouredNoise(list(map(float, shape)), strength if self.full else None)

    def ratio(self, i: int, to: Float[Tensor, " n"]) -> float | None:
        factor, to = self.factors[:, i].nan_to_num(), to.nan_to_num()
        ratio = (factor * to).sum() / to.square().sum()
        left = (factor - ratio * to).square().sum() / factor.square().sum()
        return ratio.item() if left < _SAME else None

    def unlike(self, other: "DrawFactors") -> float:
        ours, theirs = self.factors.nan_to_num(), other.factors.nan_to_num()
        power = theirs.square().sum(1)
        common = (ours * theirs).sum(1) / power.clamp(min=1e-300)
        unlike = (ours - common[:, None] * theirs).square().sum(1)
        return (unlike * (power > _NO_NOISE)).mean().item()  # a clean input has no noise to compare

    def of_data(self, alpha: Float[Tensor, " n"]) -> int | None:
        """Find the only draw whose coefficient is proportional to `alpha`, as part of the data."""
        of_data = [i for i in self.full if self.ratio(i, alpha) is not None]
        return of_data[0] if len(of_data) == 1 and len(self.full) > 1 else None


def _draw_factors(paired: list[PairedCalls], values: list[Tensor], x: Tensor) -> DrawFactors:
    num_full = min(len(calls.moved.normals) for calls in paired)
    num_shared = min(len(calls.moved.shared) for calls in paired)
    if not 0 < num_full + num_shared < x[0].numel():
        return DrawFactors([], [], torch.empty(0, 0), 1.0)
    factors, powers, sizes, left = [], [], [], []
    for calls, value in zip(paired, values, strict=True):
        draws = [*calls.moved.normals[:num_full], *calls.moved.shared[:num_shared]]
        vectors = torch.stack([d.expand_as(value).flatten(1).double() for d in draws], dim=1)
        products, rest = vectors @ vectors.mT, value.flatten(1)[:, :, None]
        factor = torch.linalg.pinv(products, hermitian=True, rtol=1e-9) @ (vectors @ rest)
        factors.append(factor[:, :, 0].cpu())
        powers.append(factor[:, :, 0].square() * products.diagonal(dim1=1, dim2=2))
        sizes.append(rest.square().sum((1, 2)))
        left.append((rest - vectors.mT @ factor).square().sum((1, 2)) / sizes[-1])
    shapes = [draw.shape for draw in paired[0].moved.shared[:num_shared]]
    factor, power, size, rest_share = map(torch.cat, (factors, powers, sizes, left))
    return DrawFactors.from_powers(factor, power, size, rest_share, shapes)


def _with_target(noise: Noise, candidate: _Candidate) -> Noise:
    paired, parts = candidate.paired, candidate.parts
    targets = [target_of(p.gradient, align(p.coefficient(), p.gradient)) for p in paired]
    rests = _without_data(targets, paired, noise.reference, noise.coefficients, of_target=True)
    target = _draw_factors(paired, rests, noise.reference.x)
    if not (target.full and parts.full) or target.shared:
        return noise
    power = torch.cat(targets).square().mean().item()
    diagnostics, gamma = of_the_draws(parts, target, power, noise.diagnostics)
    summed = noise.summed
    if any(isinstance(diagnostic, kinds.IndependentTarget) for diagnostic in diagnostics):
        summed = tuple(sorted({*parts.full, *target.full}))
    return replace(noise, gamma=gamma, diagnostics=diagnostics, summed=summed)


def is_summed(diagnostics: Sequence[Diagnostic]) -> bool:
    return any(isinstance(d, kinds.SummedNoise | kinds.InputPerturbation) for d in diagnostics)


def of_the_draws(
    parts: DrawFactors, target: DrawFactors, power: float, diagnostics: list[Diagnostic]
) -> tuple[list[Diagnostic], float]:
    """Return diagnostics, earlier ones included, and the size of an input perturbation."""
    share = target.unlike(parts) / power
    if share < (_SAME if is_summed(diagnostics) else _MAX_STRANGE) or target.left > 0.01 * share:
        return diagnostics, 0.0
    if not set(target.full) & set(parts.full):
        return [*diagnostics, kinds.TargetNoise(share)], 0.0
    perturbations = [i for i in parts.full if i not in target.full]
    if len(parts.full) == 2 and len(perturbations) == len(target.full) == 1:
        gamma = parts.ratio(perturbations[0], parts.factors[:, target.full[0]])
        if gamma is not None:
            return [kinds.InputPerturbation(abs(gamma))], abs(gamma)
    return [*diagnostics, kinds.IndependentTarget(share)], 0.0


def of_the_target(unexplained: Float[Tensor, " n"], *, is_exact: bool) -> list[Diagnostic]:
    """Return a diagnostic if targets are not linear combinations of data and noise.

    Targets in half precision are not `is_exact`.
    """
    largest = _MAX_STRANGE_EXACT if is_exact else _MAX_STRANGE
    is_strange = unexplained > largest
    samples, clearly = (
        odd.double().mean().item() for odd in (is_strange, unexplained > 10 * largest)
    )
    if samples < 0.5 and clearly < 0.01:
        return []
    share = unexplained[is_strange].median().item()
    return [kinds.StrangeTarget(share=share, samples=samples)]


def _of_the_statistics(noises: list[Tensor], coefficients: Coefficients) -> Diagnostic:
    noise = torch.cat(noises)
    noise = noise[coefficients.sigma > 1e-3 * coefficients.sigma.max()]
    noise = noise / align(noise.flatten(1).square().mean(1).sqrt(), noise)
    num, size = noise.numel(), noise[0].numel()
    flat = noise.mean(tuple(range(2, noise.ndim)), keepdim=True)
    excess = (flat.square().mean() - flat.numel() / num).item()
    has_offset = excess > 6 * flat.numel() / num * (2 / flat.numel()) ** 0.5 and noise.ndim > 2
    rest = noise - flat if has_offset else noise
    axes = [i for i in range(1, noise.ndim) if noise.shape[i] > 1]

    def correlation_along(axis: int) -> float:  # correlation of neighbouring elements
        num = rest.shape[axis]
        value = (rest.narrow(axis, 1, num - 1) * rest.narrow(axis, 0, num - 1)).mean().item()
        is_centred = rest.mean(axis).square().mean().item() < 1e-6
        return value + 1 / (num - 1) if is_centred else value

    correlation = max(map(correlation_along, axes), key=abs, default=0.0)
    correlation += flat.numel() / num if has_offset else 0.0
    if abs(correlation) > 6 / num**0.5 + 0.02:
        return kinds.ColouredNoise(correlation=correlation)
    if has_offset and noise.ndim > 3:
        modes = torch.fft.fft2(noise)[..., [0, 1, 1], [1, 0, 1]]  # lowest frequencies above 0
        low = float(modes.abs().square().mean()) / (noise.shape[-2] * noise.shape[-1])
        if low > 1 + 6 / (3 * flat.numel()) ** 0.5:  # white noise has 1
            return kinds.ColouredNoise(low_frequency_power=low)
    if has_offset:
        return kinds.OffsetNoise((excess / (1 - excess)) ** 0.5)
    kurtosis = noise.pow(4).mean().item()
    normal = 3 * size / (size + 2)  # kurtosis of a normal vector divided by its norm
    if abs(kurtosis - normal) > 6 * (24 / num) ** 0.5 + 0.02:
        return kinds.NotNormal(kurtosis)
    return kinds.NoiseUnseen((2 / size) ** 0.5)
