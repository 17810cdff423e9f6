r"""Coefficients $\alpha, \sigma, a, b$ of each sample from dot products of inputs and gradients.

For one sample, a loss and its gradients span a space of a few vectors: the data $x$, the noisy data
$z$, the noise $\epsilon$, the target $y = -g / 2c$ from the gradient $g$ at answer 0, the constant,
and the changes $dx, dz, dy$ that come with other data and the same noise. Their projections give

$$z = \alpha' (x + \mu) + \sigma'\epsilon, \qquad y = a (x + \mu) + b\epsilon,$$

so that only the Gram matrix of each sample is stored, in float64: a small matrix, whatever the size
of the images. The primes indicate that the scale of the data is not yet known (`scales`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.queries import PairedCalls, SingleCall

_VECTORS = ("x", "dx", "z", "dz", "y", "dy", "eps", "one")
_NUM_RUNS, _LENGTH = 16, 16  # of neighbouring elements in large samples


@dataclass(frozen=True)
class Coefficients:
    r"""Coefficients $\alpha', \sigma', a, b$ of every sample, up to the scale of the data, with
    residuals.

    Where $\sigma'$ would be negative, the sign of the noise is flipped.
    """

    alpha: Float[Tensor, " n"]  # coefficient of the data in z
    sigma: Float[Tensor, " n"]  # not negative
    a: Float[Tensor, " n"]  # the coefficient of the data in the target
    b: Float[Tensor, " n"]  # the coefficient of the noise in the target
    offset: float  # number added to the data before scaling
    unexplained_noise: Float[Tensor, " n"]  # share of the noise; 1 if unknown
    constant_noise: float  # share of the noise constant over an image, beyond the offset
    unexplained_target: Float[Tensor, " n"]  # share that is no combination of data and noise
    noise_power: Float[Tensor, " n"]  # mean square of the draw; 1 if unknown
    rounding: Float[Tensor, " n"]  # float32 error of log(alpha**2 / sigma**2)


def paired_grams(
    paired: PairedCalls, reference: tuple[Tensor, Tensor], *, is_uneven: bool
) -> Float[Tensor, "b r r"]:
    """Compute the Gram matrices of a batch of paired calls.

    Args:
        paired: The calls. The noise is the draw that fits best.
        reference: The clean batch and the other one, as the process sees them.
        is_uneven: Whether the coefficient differs between the elements of a sample; then elements
            that the loss does not depend on are left out.
    """
    x, x_other = reference
    z, dx, dz = paired.z, x - x_other, paired.z - paired.z_other
    eps = noise_in(paired.moved, along(dz, dx) * x)
    kept = torch.ones_like(z)
    if is_uneven:
        c = c_other = paired.change / (2 * paired.moved.answer)
        kept = c.abs() > 1e-6 * c.abs().max()
    else:
        shape = (-1, *(1,) * (z.ndim - 1))
        c, c_other = paired.coefficient().reshape(shape), paired.coefficient_other().reshape(shape)
    y = target_of(paired.gradient, c)
    dy = y - target_of(paired.gradient_other, c_other)
    if paired.moved.summed is not None:
        y = y - paired.moved.summed.independent_part(y, x).reshape(y.shape)
    vectors = {"x": x, "dx": dx, "z": z, "dz": dz, "y": y, "dy": dy, "eps": eps}
    vectors["one"] = torch.ones_like(z)
    return _products([(vectors[name] * kept).flatten(1) for name in _VECTORS]).cpu()


def single_products(
    call: SingleCall, x: Tensor, offset: float, *, is_part_enough: bool
) -> Float[Tensor, "b 6 6"]:
    r"""Compute dot products of $x + \mu$, $\epsilon$, the network output, $z$, $g$ and the
    constant.

    Args:
        call: The call of a plain loss.
        x: The clean batch as the process sees it, up to a scale and the offset.
        offset: What is added to the data.
        is_part_enough: Whether to use `some_elements` only; enough if the noise is known.
    """
    used = (x, noise_in(call, x), call.answer, call.z, call.gradient)
    data, *others = (vector.flatten(1) for vector in used)
    if is_part_enough:
        data, *others = map(some_elements, (data, *others))
    return _products([data + offset, *others, torch.ones_like(data)]).cpu()


def single_grams(
    products: Float[Tensor, "n 6 6"], offset: float
) -> tuple[Float[Tensor, "n r r"], Float[Tensor, " n"]]:
    r"""Compute the Gram matrices and the coefficient $c$ of a plain loss from `single_products`.

    With $z = \alpha x + \sigma\epsilon$ and $g = 2c\,(\hat y - a x - b\epsilon)$, where the answer
    $\hat y$ consists of random signs, two small least-squares problems have all five coefficients.
    The other data, which `paired_grams` compares with, are then zero: no call is needed.
    """
    alpha = torch.linalg.solve_ex(products[:, :2, :2], products[:, :2, 3]).result[:, 0]
    parts = torch.linalg.solve_ex(products[:, :3, :3], products[:, :3, 4]).result
    c = parts[:, 2] / 2
    per_c = torch.where(c == 0, 0.0, 0.5 / c)  # no target where there is no weight
    data, eps, answer, z, g, one = torch.eye(6, dtype=torch.float64)
    vectors = {
        "x": data - offset * one,
        "dx": data,
        "z": z,
        "dz": alpha[:, None] * data,
        "y": (c != 0)[:, None] * answer - per_c[:, None] * g,
        "dy": -(parts[:, 0] * per_c)[:, None] * data,
        "eps": eps,
        "one": one,
    }
    combined = torch.stack([vectors[name].expand(len(c), -1) for name in _VECTORS], dim=1)
    return combined @ products @ combined.mT, c


def _products(vectors: list[Tensor]) -> Float[Tensor, "b k k"]:
    stacked = torch.stack(vectors, dim=1).double().flatten(2)
    return stacked @ stacked.mT


def some_elements(vectors: Float[Tensor, "*b d"]) -> Float[Tensor, "*b runs length"]:
    """Select evenly spaced runs of neighbouring elements; all elements of a small sample.

    Runs, since what is next to an element is in the same line of the processor's cache.
    """
    spacing = vectors.shape[-1] // _NUM_RUNS
    if spacing <= _LENGTH:
        return vectors[..., None, :]
    spaced = vectors[..., : spacing * _NUM_RUNS].reshape(*vectors.shape[:-1], _NUM_RUNS, spacing)
    return spaced[..., :_LENGTH]


def are_some_enough(x: Tensor) -> bool:
    """Return whether the mean square over `some_elements` approximates that over all elements."""
    flat = x.flatten(1).double()
    share = some_elements(flat).square().mean((1, 2)) / flat.square().mean(1)
    return bool((share - 1).abs().max() < 0.5)


def noise_in(call: SingleCall, signal: Tensor) -> Tensor:
    """Return the normal draw most correlated with the noise; zeros if the call drew no normal
    numbers.

    Args:
        call: What was drawn.
        signal: What the noisy data hold of the data, if only roughly.
    """
    if len(call.normals) < 2:
        return call.normals[0] if call.normals else torch.zeros_like(call.z)
    rest = call.z - signal
    return max(call.normals, key=lambda draw: similarity(rest, draw))


def similarity(u: Tensor, v: Tensor) -> float:
    """Return the absolute value of the mean cosine similarity between samples of two batches."""
    u, v = u.flatten(1), v.flatten(1).to(u)
    return (u * v).sum(1).div(u.norm(dim=1) * v.norm(dim=1) + 1e-30).mean().abs().item()


def along(u: Tensor, v: Tensor) -> Tensor:
    r"""Return the projection coefficient $u \cdot v / v \cdot v$ of each sample."""
    axes = tuple(range(1, v.ndim))
    return (u * v).sum(axes, keepdim=True) / v.square().sum(axes, keepdim=True).clamp(min=1e-30)


def target_of(g: Tensor, c: Tensor) -> Tensor:
    """Compute the target $y = -g / 2c$ from the gradient $g$ at output 0; zero where $c = 0$."""
    return torch.where(c == 0, 0.0, -g.double() / (2 * c))


@dataclass(frozen=True)
class _Space:
    """Dot products of linear combinations of the vectors behind a batch of Gram matrices."""

    grams: Float[Tensor, "n r r"]

    def dot(self, u: Tensor, v: Tensor) -> Float[Tensor, " n"]:
        image = self.grams @ v if v.ndim == 1 else (self.grams @ v[..., None])[..., 0]
        return (image * u).sum(-1)

    def norm2(self, u: Tensor) -> Float[Tensor, " n"]:
        return self.dot(u, u).clamp(min=0)

    def along(self, u: Tensor, v: Tensor) -> Float[Tensor, " n"]:
        r"""Return the projection coefficient $u \cdot v / v \cdot v$ of each sample."""
        return self.dot(u, v) / self.dot(v, v).clamp(min=1e-300)

    def offset(
        self, noise: Tensor, alpha: Float[Tensor, " n"], flat: Tensor
    ) -> tuple[float, Float[Tensor, " n"]]:
        r"""Estimate the data offset $\mu$, and the constant component of the noise in each sample.

        Args:
            noise: $z - \alpha' x$.
            alpha: $\alpha'$.
            flat: The constant without the part of it that is the noise's own mean.
        """
        one = torch.eye(len(_VECTORS), dtype=torch.float64)[-1].expand_as(flat)
        is_seen = self.norm2(flat) > 1e-9 * self.norm2(one)  # in one dimension a constant is noise
        constant = torch.where(is_seen, self.along(noise, flat), 0.0)
        weight = self.norm2(flat) / self.norm2(noise).clamp(min=1e-12) * alpha
        information = (weight * alpha).sum().clamp(min=1e-300)
        mu = (weight * constant).sum() / information
        error = (weight * (constant - alpha * mu)).norm() / information
        return (mu.item() if mu.abs() > 6 * error + 1e-4 else 0.0), constant


def solve(grams: Float[Tensor, "n r r"], *, is_noise_known: bool) -> Coefficients:
    r"""Solve for the coefficients of every sample, by projection.

    Args:
        grams: The Gram matrices.
        is_noise_known: Whether `eps` is the noise; otherwise $\sigma'$ is the norm of what is left
            of $z$ without the signal, with a relative error of $1/\sqrt{2d}$.
    """
    x, dx, z, dz, y, dy, eps, one = torch.eye(len(_VECTORS), dtype=torch.float64)
    space = _Space(grams)
    alpha, a = space.along(dz, dx), space.along(dy, dx)
    flat = one.expand(len(grams), -1)
    if is_noise_known:
        flat = one - space.along(one, eps)[:, None] * eps
    offset, constant = space.offset(z - alpha[:, None] * x, alpha, flat)
    x = x + offset * one
    noise, rest = z - alpha[:, None] * x, y - a[:, None] * x
    power, num = space.norm2(noise), space.dot(one, one)
    if is_noise_known:
        sigma, b = space.along(noise, eps), space.along(rest, eps)
        unexplained = space.norm2(noise - sigma[:, None] * eps) / power.clamp(min=1e-300)
        if not (space.norm2(flat) > 1e-9 * num).any():
            # in one dimension any draw fits, but only the true noise has a constant sign
            unexplained = (sigma * sigma.median() < 0).double().mean().expand_as(sigma)
    else:
        sigma = (power / num).sqrt()
        b = space.along(rest, noise) * sigma
        unexplained = torch.ones_like(sigma)
        eps = noise / sigma[:, None].clamp(min=1e-300)
    sizes = 1 / (alpha.abs() * space.norm2(dx).sqrt()) + 1 / (sigma.abs() * num.sqrt())
    constant_power = num * (constant - alpha * offset) ** 2
    return Coefficients(
        alpha=alpha.abs(),
        sigma=sigma.abs(),
        a=a,
        b=torch.where((alpha < 0) != (sigma < 0), -b, b),  # the sign of the noise is arbitrary
        offset=offset,
        unexplained_noise=unexplained,
        constant_noise=(constant_power.sum() / power.sum().clamp(min=1e-300)).item(),
        unexplained_target=space.norm2(rest - b[:, None] * eps) / space.norm2(y).clamp(min=1e-300),
        noise_power=space.norm2(eps) / num,
        rounding=2 * 6e-8 * (space.norm2(z) / num).sqrt() * sizes,
    )
