r"""Scales $\alpha, \sigma$ of signal and noise, and coefficients $a, b$ of the target, from dot
products of network inputs and loss gradients.

In each sample, the data $x$, the noisy data $z$, the noise $\epsilon$, the target $y = -g / 2c$
from the gradient $g$ at output 0, the constant, and the changes $dx, dz, dy$ for other data and the
same noise span a small space. Projections give

$$z = \alpha' (x + \mu) + \sigma'\epsilon, \qquad y = a (x + \mu) + b\epsilon,$$

so that only the Gram matrix of each sample is stored, in float64. The primes indicate that the
scale of the data is not yet known (`scales`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.queries import PairedCalls, SingleCall
from elbos.theory.process import align

_VECTORS = ("x", "dx", "z", "dz", "y", "dy", "eps", "one")
_NUM_RUNS, _LENGTH = 16, 16  # runs of neighbouring elements that stand for a large sample


@dataclass(frozen=True)
class Coefficients:
    alpha: Float[Tensor, " n"]  # coefficient of the data in z
    sigma: Float[Tensor, " n"]  # at least 0: the sign of the noise is arbitrary
    a: Float[Tensor, " n"]  # coefficient of the data in the target
    b: Float[Tensor, " n"]  # coefficient of the noise in the target
    offset: float  # number added to the data before scaling
    unexplained_noise: Float[Tensor, " n"]  # share of the noise; 1 if the draw is unknown
    constant_noise: float  # share of the noise constant over an image, besides the offset
    unexplained_target: Float[Tensor, " n"]  # share that is no combination of data and noise
    noise_power: Float[Tensor, " n"]  # mean square of the draw; 1 if unknown
    rounding: Float[Tensor, " n"]  # float32 error of log(alpha**2 / sigma**2)


def paired_grams(
    paired: PairedCalls, reference: tuple[Tensor, Tensor], *, is_uneven: bool
) -> Float[Tensor, "b r r"]:
    """Compute Gram matrices of data, best fitting noise, network input and regression target.

    Elements on which the loss does not depend are ignored if its coefficient differs within a
    sample (`is_uneven`).
    """
    x, x_other = reference
    z, dx, dz = paired.z, x - x_other, paired.z - paired.z_other
    eps = noise_in(paired.moved, along(dz, dx) * x)
    is_counted = torch.ones_like(z)
    if is_uneven:
        c = c_other = paired.change / (2 * paired.moved.answer)
        is_counted = c.abs() > 1e-6 * c.abs().max()
    else:
        c, c_other = align(paired.coefficient(), z), align(paired.coefficient_other(), z)
    y = target_of(paired.gradient, c)
    dy = y - target_of(paired.gradient_other, c_other)
    if paired.moved.summed is not None:
        noise = y - along(dy, dx) * x
        y = y - paired.moved.summed.independent_part(noise).reshape(y.shape)
    vectors = {"x": x, "dx": dx, "z": z, "dz": dz, "y": y, "dy": dy, "eps": eps}
    vectors["one"] = torch.ones_like(z)
    return gram_of([vectors[name] * is_counted for name in _VECTORS])


def single_grams(
    call: SingleCall, x: Tensor, offset: float, *, is_part_enough: bool
) -> tuple[Float[Tensor, "b r r"], Float[Tensor, " b"]]:
    r"""Compute Gram matrices of data, noise, network input and target, and $c$, from a single call.

    Two small least-squares problems, $z = \alpha x + \sigma\epsilon$ and
    $g = 2c\,(\hat y - a x - b\epsilon)$, give all five coefficients, because the output $\hat y$
    consists of random signs. The other data of `paired_grams` are zero here.
    """
    used = (x, noise_in(call, x), call.answer, call.z, call.gradient)
    data, *rest = (vector.flatten(1) for vector in used)
    if is_part_enough:
        data, *rest = map(some_elements, (data, *rest))
    products = gram_of([data + offset, *rest, torch.ones_like(data)])
    alpha = torch.linalg.solve_ex(products[:, :2, :2], products[:, :2, 3]).result[:, 0]
    parts = torch.linalg.solve_ex(products[:, :3, :3], products[:, :3, 4]).result
    c = parts[:, 2] / 2
    per_c = torch.where(c == 0, 0.0, 0.5 / c)  # no target where there is no weight
    data, eps, answer, z, g, unit = torch.eye(6, dtype=torch.float64)
    vectors = {
        "x": data - offset * unit,
        "dx": data,
        "z": z,
        "dz": alpha[:, None] * data,
        "y": (c != 0)[:, None] * answer - per_c[:, None] * g,
        "dy": -(parts[:, 0] * per_c)[:, None] * data,
        "eps": eps,
        "one": unit,
    }
    combined = torch.stack([vectors[name].expand(len(c), -1) for name in _VECTORS], dim=1)
    return combined @ products @ combined.mT, c


def gram_of(vectors: list[Tensor]) -> Float[Tensor, "b k k"]:
    stacked = torch.stack([vector.detach().flatten(1).double() for vector in vectors], dim=1)
    return (stacked @ stacked.mT).cpu()


def some_elements(vectors: Float[Tensor, "*b d"]) -> Float[Tensor, "*b runs length"]:
    """Subsample long vectors by evenly spaced blocks of elements, for faster dot products."""
    spacing = vectors.shape[-1] // _NUM_RUNS  # neighbours share a line of the processor's cache
    if spacing <= _LENGTH:
        return vectors[..., None, :]
    spaced = vectors[..., : spacing * _NUM_RUNS].reshape(*vectors.shape[:-1], _NUM_RUNS, spacing)
    return spaced[..., :_LENGTH]


def are_some_enough(x: Tensor) -> bool:
    flat = x.flatten(1).double()
    share = some_elements(flat).square().mean((1, 2)) / flat.square().mean(1)
    return bool((share - 1).abs().max() < 0.5)


def noise_in(call: SingleCall, signal: Tensor) -> Tensor:
    """Find the normal draw most similar to the noise in noisy data; zeros without draws."""
    if len(call.normals) < 2:
        return call.normals[0] if call.normals else torch.zeros_like(call.z)
    noise = (call.z - signal).flatten(1)

    def similarity(draw: Tensor) -> float:  # mean cosine
        v = draw.flatten(1).to(noise)
        norms = noise.norm(dim=1) * v.norm(dim=1)
        return (noise * v).sum(1).div(norms + 1e-30).mean().abs().item()

    return max(call.normals, key=similarity)


def along(u: Tensor, v: Tensor) -> Tensor:
    r"""Return the projection coefficient $u \cdot v / v \cdot v$ of each sample."""
    axes = tuple(range(1, v.ndim))
    return (u * v).sum(axes, keepdim=True) / v.square().sum(axes, keepdim=True).clamp(min=1e-30)


def target_of(g: Tensor, c: Tensor) -> Tensor:
    """Compute the target $y = -g / 2c$ from the gradient $g$ at output 0; zero where $c = 0$."""
    return torch.where(c == 0, 0.0, -g.double() / (2 * c))


def solve(grams: Float[Tensor, "n r r"], *, is_noise_known: bool) -> Coefficients:
    r"""Solve for the coefficients of data and noise in network inputs and targets.

    If the noise is unknown, $\sigma'$ is the norm of $z - \alpha' x$, with a relative error of
    $1/\sqrt{2d}$.
    """
    x, dx, z, dz, y, dy, eps, unit = torch.eye(len(_VECTORS), dtype=torch.float64)

    def dot(u: Tensor, v: Tensor) -> Float[Tensor, " n"]:  # u, v: coefficients in the vectors
        image = grams @ v if v.ndim == 1 else (grams @ v[..., None])[..., 0]
        return (image * u).sum(-1)

    def norm2(u: Tensor) -> Float[Tensor, " n"]:
        return dot(u, u).clamp(min=0)

    def along(u: Tensor, v: Tensor) -> Float[Tensor, " n"]:
        return dot(u, v) / dot(v, v).clamp(min=1e-300)

    alpha, a = along(dz, dx), along(dy, dx)
    flat = unit.expand(len(grams), -1)
    if is_noise_known:  # subtract the noise's own constant component
        flat = unit - along(unit, eps)[:, None] * eps
    # The number added to the data is the constant component of z - alpha x that grows with alpha.
    noise, num = z - alpha[:, None] * x, dot(unit, unit)
    is_seen = norm2(flat) > 1e-9 * num  # in one dimension a constant looks like noise
    constant = torch.where(is_seen, along(noise, flat), 0.0)
    weight = norm2(flat) / norm2(noise).clamp(min=1e-12) * alpha
    information = (weight * alpha).sum().clamp(min=1e-300)
    mu = (weight * constant).sum() / information
    error = (weight * (constant - alpha * mu)).norm() / information
    offset = mu.item() if mu.abs() > 6 * error + 1e-4 else 0.0

    x = x + offset * unit
    noise, rest = z - alpha[:, None] * x, y - a[:, None] * x
    power = norm2(noise)
    if is_noise_known:
        sigma, b = along(noise, eps), along(rest, eps)
        unexplained = norm2(noise - sigma[:, None] * eps) / power.clamp(min=1e-300)
        if not is_seen.any():
            # In one dimension any draw fits, but only the true noise has a constant sign.
            unexplained = (sigma * sigma.median() < 0).double().mean().expand_as(sigma)
    else:
        sigma = (power / num).sqrt()
        b = along(rest, noise) * sigma
        unexplained = torch.ones_like(sigma)
        eps = noise / sigma[:, None].clamp(min=1e-300)
    sizes = 1 / (alpha.abs() * norm2(dx).sqrt()) + 1 / (sigma.abs() * num.sqrt())
    constant_power = num * (constant - alpha * offset) ** 2
    return Coefficients(
        alpha=alpha.abs(),
        sigma=sigma.abs(),
        a=a,
        b=torch.where((alpha < 0) != (sigma < 0), -b, b),  # the sign of the noise is arbitrary
        offset=offset,
        unexplained_noise=unexplained,
        constant_noise=(constant_power.sum() / power.sum().clamp(min=1e-300)).item(),
        unexplained_target=norm2(rest - b[:, None] * eps) / norm2(y).clamp(min=1e-300),
        noise_power=norm2(eps) / num,
        rounding=2 * 6e-8 * (norm2(z) / num).sqrt() * sizes,
    )
