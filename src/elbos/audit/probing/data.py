r"""Clean data to which a loss adds noise: the given batch, an encoding, or sampled latents.

Most losses diffuse the given data, up to a scale and an offset. If a loss encodes images first, its
latents are the same in every call $k$, and can be solved for from
$z_k = \alpha_k E(x) + \sigma_k \epsilon_k$ with known noise. If latents are sampled in every call,
as by a VAE's `latent_dist.sample()`,

$$z_k = \alpha_k\,(\mu + s \odot \xi_k) + \sigma_k\epsilon_k,$$

a normal draw $\xi$ has a coefficient proportional to $\alpha$; $\mu$ and $s$ can be solved for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.queries import PairedCalls, SingleCall, unlike, without_mean
from elbos.audit.diagnostics import Diagnostic, SampledData
from elbos.audit.probing.decompose import along, are_some_enough, some_elements
from elbos.audit.probing.scales import relative_scale

_EXACT = 1e-9  # largest unexplained share of an exact fit; float32 arithmetic leaves 1e-13
_NO_MEAN = 1e-9  # largest share of the noise's power in its means, from rounding
_MIN_CORRELATION = 0.99  # rank correlation of the elements' scales
_MAX_STEPS, _RELAXATION = 2000, 1.8  # alternating least squares; stable below 2
_Stacked = Float[Tensor, "b k d"]  # [batch, call, element]
_Bases = Float[Tensor, "b p k d"]


@dataclass(frozen=True)
class Reference:
    """Clean data to which the loss adds noise, in two batches that isolate their coefficient."""

    x: Tensor  # mean of the data, if they are sampled in each call
    x_other: Tensor
    spread: Tensor | None = None  # standard deviations of sampled data
    spread_other: Tensor | None = None
    draw: int | None = None  # index of the sampling draw among the normal draws
    centred_axis: int | None = None  # along which the noise has no mean

    def at(self, call: SingleCall) -> tuple[Tensor, Tensor]:
        draw = call.of_data
        if draw is None or self.spread is None or self.spread_other is None:
            return self.x, self.x_other
        return self.x + self.spread * draw, self.x_other + self.spread_other * draw

    def prepare(self, call: SingleCall) -> SingleCall:
        call = call if self.centred_axis is None else call.centred(self.centred_axis)
        if self.draw is None:
            return call
        normals = [normal for i, normal in enumerate(call.normals) if i != self.draw]
        return replace(call, normals=normals, of_data=call.normals[self.draw])

    @property
    def diagnostic(self) -> Diagnostic:
        assert self.spread is not None
        noise = self.spread.double().square().mean()
        return SampledData((noise / (noise + self.x.double().var())).sqrt().item())


def centred_noise(
    paired: list[PairedCalls], x: Tensor, x_other: Tensor
) -> tuple[int | None, Tensor, Tensor]:
    """Find the axis along which the noise has no mean, and both data batches, centred if the loss
    does.
    """
    z, dz = torch.cat([p.z for p in paired]), torch.cat([p.z - p.z_other for p in paired])
    for axis in range(1, x.ndim) if z.shape[1:] == x.shape[1:] else ():
        centred, centred_other = without_mean(x, axis), without_mean(x_other, axis)
        alpha = along(without_mean(dz, axis), repeated(centred - centred_other, z))
        for data, other in ((x, x_other), (centred, centred_other)):
            noise = z - alpha * repeated(data, z)
            if noise.mean(axis).square().mean() < _NO_MEAN * noise.square().mean():
                return axis, data, other
    return None, x, x_other


def repeated(x: Tensor, z: Tensor) -> Tensor:
    return x.repeat(len(z) // len(x), *(1,) * (x.ndim - 1))


def reference_data(paired: list[PairedCalls], x: Tensor, x_other: Tensor) -> Reference | None:
    """Find the clean data: the given batches, or latents fitted to $z$; None if $z$ is no data plus
    noise.
    """
    z, z_other = (torch.cat([p.z for p in paired]), torch.cat([p.z_other for p in paired]))
    dz = (z - z_other).float()
    rounding = 100 * torch.finfo(z.dtype).eps ** 2 * z.float().square().nansum().item()
    size = dz.square().nansum().item()
    if size <= rounding:
        return None
    is_shaped_alike = z.shape[1:] == x.shape[1:]
    if is_shaped_alike and unlike(dz, repeated(x - x_other, z)) * size < 1e-8 * size + rounding:
        return Reference(x, x_other)
    exact, fits = _EXACT + rounding / size, []
    for fit in _latents(paired):
        reference, left_of_change, left = fit
        if max(left_of_change, left) < exact:
            return reference
        fits.append(fit)
    if not fits or fits[0][1] > 1e-3 or fits[0][2] > 1e-2:  # no latents fit
        return None
    # Latents at most approximate elements that change with the level by different factors.
    is_approximate = fits[0][1] > exact and is_shaped_alike
    return None if is_approximate and is_scaled_by_element(paired, x, x_other) else fits[0][0]


def is_scaled_by_element(paired: list[PairedCalls], x: Tensor, x_other: Tensor) -> bool:
    """Test whether the scales of all elements are functions of one level: have the same ranks."""
    dz = torch.cat([p.z - p.z_other for p in paired]).double()
    ranks = (dz / repeated(x - x_other, dz)).flatten(1).nan_to_num().argsort(0).argsort(0).double()
    ranks -= ranks.mean(0)
    correlations = (ranks * ranks[:, :1]).sum(0) / ranks[:, 0].square().sum()
    return len(correlations) > 1 and bool(dz.any() and correlations.min() > _MIN_CORRELATION)


def _latents(paired: list[PairedCalls]) -> Iterator[tuple[Reference, float, float]]:
    z, dz = _stacked([p.z for p in paired]), _stacked([p.z - p.z_other for p in paired])
    num = min(len(p.moved.normals) for p in paired)
    draws = [_stacked([p.moved.normals[i] for p in paired]) for i in range(num)]
    shape, is_part_enough = paired[0].z.shape, are_some_enough(paired[0].z)
    for i in [None, *range(num)][: num * num]:  # one draw is the noise
        xi = torch.stack([torch.ones_like(z), *([] if i is None else [draws[i]])], dim=1)
        used = [some_elements(v).flatten(-2) for v in (dz, xi)] if is_part_enough else [dz, xi]
        alpha = _alpha(*used)
        bases = alpha[:, None, :, None] * xi
        change = _regression(dz, bases)
        noises = [eps for j, eps in enumerate(draws) if j != i]
        data, sigma, left = _data_and_sigma(z, bases, torch.stack(noises, dim=1))
        scale = relative_scale(alpha.T, sigma.T)[:, None, None]
        both = [(part * scale).unbind(1) for part in (data, data - change)]
        parts = [part.reshape(shape) for pair in zip(*both, strict=True) for part in pair]
        reference = replace(Reference(*parts), draw=i)
        yield reference, _left(dz, bases, change), left


def _stacked(calls: list[Tensor]) -> _Stacked:
    return torch.stack(calls, dim=1).double().flatten(2)


def _alpha(dz: _Stacked, xi: _Bases) -> Float[Tensor, "b k"]:
    r"""Fit the scales $\alpha_k$ in $dz_k = \alpha_k (d\mu + ds \odot \xi_k)$, up to a factor per
    sample, by overrelaxed alternating least squares from the largest $dz_k$; without $\xi$ one
    projection suffices.
    """
    largest = dz.norm(dim=2).argmax(1)
    data = dz[torch.arange(len(dz)), largest][:, None]
    alpha = torch.zeros_like(dz[..., 0])
    for _ in range(_MAX_STEPS):
        before, alpha = alpha, (dz * data).sum(2) / data.square().sum(2).clamp(min=1e-300)
        if before.any():
            alpha = torch.lerp(before, alpha, _RELAXATION)
        if xi.shape[1] == 1 or (alpha - before).abs().max() < 1e-10 * alpha.abs().max():
            break
        parts = _regression(dz, alpha[:, None, :, None] * xi)
        data = torch.einsum("bpd,bpkd->bkd", parts, xi)
    return alpha


def _inverse_gram(bases: _Bases) -> Float[Tensor, "b d p p"]:
    gram = torch.einsum("bpkd,bqkd->bdpq", bases, bases)
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)
    return inverse


def _regression(values: _Stacked, bases: _Bases) -> Float[Tensor, "b p d"]:
    return torch.einsum("bdpq,bqkd,bkd->bpd", _inverse_gram(bases), bases, values)


def _left(values: _Stacked, bases: _Bases, coefficients: Float[Tensor, "b p d"]) -> float:
    rest = values - torch.einsum("bpd,bpkd->bkd", coefficients, bases)
    return (rest.square().sum() / values.square().sum()).item()


def _data_and_sigma(
    z: _Stacked, bases: _Bases, draws: Float[Tensor, "b m k d"]
) -> tuple[Float[Tensor, "b p d"], Float[Tensor, "b k"], float]:
    r"""Separate $z_k = \sum_p c_p B_{pk} + \sum_m \sigma_{mk}\epsilon_{mk}$ by least squares into
    $c$, the $\sigma_k$ of the strongest draw, and the unexplained share.
    """
    # Given sigma, c is a regression for each element, so that a small linear system for sigma
    # remains.
    num, num_draws, num_calls = draws.shape[:3]
    products = torch.einsum("bmkd,bnkd->bkmn", draws, draws)
    full = torch.einsum("bkmn,kl->bmknl", products, torch.eye(num_calls).to(z))
    projected = torch.einsum("bpkd,bmkd->bpmkd", bases, draws)
    inverse = _inverse_gram(bases)
    full -= torch.einsum("bpmkd,bdpq,bqnld->bmknl", projected, inverse, projected)
    apart = z - torch.einsum("bpd,bpkd->bkd", _regression(z, bases), bases)
    sides = torch.einsum("bkd,bmkd->bmk", apart, draws).flatten(1)
    matrix = full.reshape(num, num_draws * num_calls, -1)
    inverse_matrix = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-9)
    sigma = (inverse_matrix @ sides[..., None]).reshape(num, num_draws, num_calls)
    without_noise = z - torch.einsum("bmk,bmkd->bkd", sigma, draws)
    data = _regression(without_noise, bases)
    rest = without_noise - torch.einsum("bpd,bpkd->bkd", data, bases)
    strongest = sigma.abs()[:, sigma.square().sum((0, 2)).argmax()]
    return data, strongest, (rest.square().sum() / z.square().sum()).item()
