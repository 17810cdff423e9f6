r"""Asking a loss the same questions, batch by batch.

What is compared are calls that differ in one thing: the answer of the network, or the data. The
gradient at answer 0 and at another gives the coefficient $c$ and the target $y$; other data with
the same noise show what of $z$ and $y$ is signal.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.algebra import ROWS, Coefficients, gram, solve
from elbos.audit.watch import FORMS, Call, LossFunction, Watch

_NUM_ELEMENTS = 2**12  # of a sample, where they need not all be looked at


@dataclass(frozen=True)
class Look:
    """One call of the network, in batches that differ in one thing.

    Args:
        z: Noisy data.
        z_other: The same, of other data with the same noise.
        g: Gradient at answer 0.
        g_moved: At random signs.
        g_other: At answer 0, of the other data.
        g_other_moved: At random signs, of the other data; None if it was not looked at.
        answer: The random signs.
        draws: The normal numbers that were drawn, those of the size of `z`.
        quantiles: Numbers that may decide the noise level of each sample (`randomness`).
        shared: Normal numbers that were drawn, those that many elements of `z` may share.
    """

    z: Tensor
    z_other: Tensor
    g: Tensor
    g_moved: Tensor
    g_other: Tensor
    g_other_moved: Tensor | None
    answer: Tensor
    draws: list[Tensor]
    quantiles: list[Tensor]
    shared: list[Tensor]

    def is_finite(self) -> bool:
        """Whether the loss was, so that the whole of it counts."""
        parts = (self.z, self.z_other, self.g, self.g_moved, self.g_other)
        return all(bool(part.sum(dtype=torch.float64).isfinite()) for part in parts)

    def coefficient(self) -> Float[Tensor, " b"]:
        r"""$c$, from the change of the gradient."""
        return _coefficient(self.g_moved - self.g, self.answer)

    def coefficient_other(self) -> Float[Tensor, " b"]:
        """The same of the other data, where it was looked at."""
        if self.g_other_moved is None:
            return self.coefficient()
        return _coefficient(self.g_other_moved - self.g_other, self.answer)


@dataclass(frozen=True)
class Glance:
    """One call of the network, whose answer were random signs; attributes as a `Look`'s."""

    z: Tensor
    g_moved: Tensor
    answer: Tensor
    draws: list[Tensor]
    quantiles: list[Tensor]


def _coefficient(change: Tensor, answer: Tensor) -> Float[Tensor, " b"]:
    return (change * answer).flatten(1).double().mean(1) / 2


@dataclass
class Asker:
    """Asks a loss the same questions, batch by batch.

    Args:
        watch: The loss.
        x: The clean batch.
        x_other: Other clean data, of the same shape.
        first_channel: Where the noisy data begin in the network's input.
        order: Where each element of the data is in the network's input, if not in its own place.
        summed: Which of the draws the noise is a sum of, if it is none of them as a whole.
    """

    watch: Watch
    x: Tensor
    x_other: Tensor
    first_channel: int = 0
    order: Tensor | None = None
    summed: list[int] = field(default_factory=list)

    def looks(self, seed: int, *, with_other_moved: bool) -> list[Look]:
        """What there is to see in one batch: one `Look` per call of the network that counts."""
        here = self.watch(self.x, seed)
        draws, quantiles = self.watch.randomness.draws, self.watch.randomness.quantiles
        runs = [here, self.watch(self.x, seed, scale=1.0), self.watch(self.x_other, seed)]
        if with_other_moved:
            runs.append(self.watch(self.x_other, seed, scale=1.0))
        if len({len(run) for run in runs}) != 1:
            raise ValueError(
                "The loss calls the network another number of times for other data: it cannot be "
                "compared with itself."
            )
        looks = []
        for calls in zip(*runs, strict=True):
            (z, g, _), (_, g_moved, answer), (z_other, g_other, _), *rest = map(self.seen, calls)
            like_z = self._drawn_like(z, draws, quantiles)
            g_other_moved = rest[0][1] if rest else None
            looks.append(Look(z, z_other, g, g_moved, g_other, g_other_moved, answer, *like_z))
        return looks

    def glances(self, seed: int) -> list[Glance]:
        """What one call of the loss shows: one `Glance` per call of the network that counts."""
        calls = self.watch(self.x, seed, scale=1.0)
        draws, quantiles = self.watch.randomness.draws, self.watch.randomness.quantiles
        glances = []
        for z, g, answer in map(self.seen, calls):
            noises, quantiles_of_z, _ = self._drawn_like(z, draws, quantiles)
            glances.append(Glance(z, g, answer, noises, quantiles_of_z))
        return glances

    def seen(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Input, gradient and answer of a call, of the channels that hold the noisy data."""
        assert call.gradient is not None
        z, g, answer = map(self._like_x, (call.z, call.gradient, call.answer.detach()))
        if len(z) != len(self.x):
            raise ValueError(
                f"The network is called with a batch of {len(z)} for data of {len(self.x)}: call "
                "it with all samples at once, and no others."
            )
        num = self.x.shape[1] if z.shape[2:] == self.x.shape[2:] else z.shape[1]
        first = self.first_channel
        return z[:, first : first + num], g[:, :num], answer[:, :num]

    def _like_x(self, tensor: Tensor) -> Tensor:
        """In shape and order of the data, if it has as many numbers."""
        if len(tensor) % len(self.x) or tensor.numel() != self.x.numel():
            return tensor
        flat = tensor.reshape(len(self.x), -1)
        return (flat if self.order is None else flat[:, self.order]).reshape(self.x.shape)

    def _drawn_like(
        self, z: Tensor, draws: list[Tensor], quantiles: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Those of a loss's random numbers that may be the noise, or decide the noise level."""
        draws = [draw.to(z.device) for draw in draws]
        noises = [draw.reshape(z.shape) for draw in draws if draw.numel() == z.numel()]
        if self.order is not None:  # drawn in the order of the data, or of the network's input
            noises += [self._like_x(noise) for noise in noises]
        others = [draw for draw in draws if draw.numel() != z.numel() and _is_shared(draw, z)]
        noises += [draw.expand_as(z) for draw in others if draw.shape[1:] == z.shape[1:]]
        if self.summed:
            noises = [sum_of([noises[i] for i in self.summed if i < len(noises)], z, self.x)]
        return (
            noises,
            [quantile for quantile in quantiles if len(quantile) == len(z)],
            [draw for draw in others if draw.shape[1:] != z.shape[1:]],
        )


def _is_shared(draw: Tensor, z: Tensor) -> bool:
    """Whether numbers may be added to `z`, of which each is for many elements."""
    pairs = zip(draw.shape, z.shape, strict=False)
    return draw.ndim == z.ndim and all(num in (1, size) for num, size in pairs)


def sum_of(draws: list[Tensor], z: Tensor, x: Tensor) -> Tensor:
    """The sum of draws that is in `z` besides the data and a constant, as noise of variance 1."""
    vectors = torch.stack([v.flatten(1).double() for v in (*draws, x, torch.ones_like(x))], dim=1)
    products = vectors @ vectors.mT
    projections = vectors @ z.flatten(1).double()[:, :, None]
    factors = torch.linalg.solve_ex(products, projections).result[:, : len(draws)]
    factors = factors / factors.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return torch.einsum("bki,bkd->bd", factors, vectors[:, : len(draws)]).reshape(z.shape)


def in_its_form(loss_fn: LossFunction, x: Tensor, seed: int) -> Watch:
    """The loss with the first form of output that it takes for every sample."""
    failure: ValueError | None = None
    for form in FORMS:
        watch = Watch(loss_fn, form)
        try:
            calls = watch(x, seed)
        except ValueError as error:
            failure = failure or error
            continue
        gradients = [call.gradient for call in calls if call.gradient is not None]
        if not any(_reaches_all(gradient) for gradient in gradients):
            failure = failure or ValueError(
                "The loss takes no account of the network's output for some samples: check that "
                "it does not index the output."
            )
            continue
        return watch
    raise failure or AssertionError


def _reaches_all(gradient: Tensor) -> bool:
    """Whether the loss looks at more than the first sample, as `output[0]` of a tensor would not.

    A gradient of 0 says nothing: the target may be the network's own answer.
    """
    return bool(gradient[1:].any()) or not bool(gradient[:1].any()) or len(gradient) == 1


def require_repeatable(asker: Asker, seed: int) -> None:
    first, again = asker.watch(asker.x, seed), asker.watch(asker.x, seed)
    alike = len(first) == len(again) and all(
        is_same(a.z, b.z) and is_same(a.gradient, b.gradient)
        for a, b in zip(first, again, strict=True)
    )
    if not alike:
        raise ValueError(
            "The loss does something else although the random states of torch, numpy and Python "
            "were reset: draw from those, not from a numpy Generator or a counter of its own."
        )
    if len(asker.x) > 1 and is_same(first[0].z, asker.watch(asker.x, seed + 1)[0].z):
        raise ValueError(
            "The loss draws the same noise in every call: it sets a seed, or draws none; leave "
            "the random state alone."
        )


def is_same(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two tensors are the same, up to rounding."""
    if first is None or second is None or first.shape != second.shape:
        return first is second
    scale = first.nan_to_num().abs().max().item()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


def other_data(x: Tensor) -> Tensor:
    """A batch that differs from `x` in every sample, with values that `x` has.

    Raises:
        ValueError: If the data are zero.
    """
    x_other = x.clone()
    for candidate in (x.roll(1, 0), x.flip(-1), x.roll(1, -1), 0.5 * x):
        is_alike = (x - x_other).flatten(1).norm(dim=1) < 0.1 * x.flatten(1).norm(dim=1)
        x_other[is_alike] = candidate[is_alike]
    if (x_other == x).flatten(1).all(1).any():
        raise ValueError("A sample of the data is zero everywhere: give data that vary.")
    return x_other


def solve_looks(
    looks: list[Look],
    reference: tuple[Tensor, Tensor],
    *,
    is_noise_known: bool,
    is_uneven: bool = False,
) -> Coefficients:
    """The coefficients of all samples of some batches."""
    parts = [grams(look, reference, is_uneven=is_uneven) for look in looks]
    return solve(torch.cat(parts), is_noise_known=is_noise_known)


def grams(
    look: Look, reference: tuple[Tensor, Tensor], *, is_uneven: bool
) -> Float[Tensor, "b r r"]:
    """The dot products of one batch, over the elements that the loss looks at.

    The noise is the draw that fits best.
    """
    x, x_other = reference
    z, dx, dz = look.z, x - x_other, look.z - look.z_other
    eps = noise_in(look, z - _along(dz, dx) * x if len(look.draws) > 1 else z)
    if is_uneven:
        c = (look.g_moved - look.g) / (2 * look.answer)
        c_other = c
        seen = c.abs() > 1e-6 * c.abs().max()
    else:
        c, c_other = (
            value.reshape(-1, *(1,) * (z.ndim - 1))
            for value in (look.coefficient(), look.coefficient_other())
        )
        seen = torch.ones_like(z)
    y = _target(look.g, c)
    dy = y - _target(look.g_other, c_other)
    rows = {"x": x, "dx": dx, "z": z, "dz": dz, "y": y, "dy": dy, "eps": eps}
    one = torch.ones_like(z)
    return gram(**{name: row * seen for name, row in rows.items()}, one=one * seen).cpu()


def glanced(
    glance: Glance, x: Tensor, offset: float, elements: slice
) -> tuple[Float[Tensor, "b r r"], Float[Tensor, " b"]]:
    r"""The dot products and the coefficient $c$ of a plain loss, from one call of it.

    With $z = \alpha x + \sigma\epsilon$ and $g = 2c\,(\hat y - a x - b\epsilon)$, where the answer
    $\hat y$ consists of random signs, two small least-squares problems have all five coefficients.
    The other data, which `grams` compares with, are then zero: they need not be asked for.

    Args:
        glance: The call.
        x: The clean batch as the process sees it, up to a scale and the offset.
        offset: What is added to the data.
        elements: Those to look at: where the noise is known, some are as good as all.
    """
    eps = noise_in(glance, glance.z - x)
    vectors = (x + offset, eps, glance.answer, glance.z, glance.g_moved, torch.ones_like(x))
    products = _products([vector.flatten(1)[:, elements] for vector in vectors])
    alpha = torch.linalg.solve_ex(products[:, :2, :2], products[:, :2, 3]).result[:, 0]
    parts = torch.linalg.solve_ex(products[:, :3, :3], products[:, :3, 4]).result
    c = parts[:, 2] / 2
    per_c = torch.where(c == 0, 0.0, 0.5 / c)  # no target where nothing is asked
    data, eps, answer, z, g, one = torch.eye(6, dtype=torch.float64, device=c.device)
    rows = {
        "x": data - offset * one,
        "dx": data,
        "z": z,
        "dz": alpha[:, None] * data,
        "y": (c != 0)[:, None] * answer - per_c[:, None] * g,
        "dy": -(parts[:, 0] * per_c)[:, None] * data,
        "eps": eps,
        "one": one,
    }
    combined = torch.stack([rows[name].expand(len(c), -1) for name in ROWS], dim=1)
    return (combined @ products @ combined.mT).cpu(), c


def _products(vectors: list[Tensor]) -> Float[Tensor, "b k k"]:
    stacked = torch.stack([vector.double() for vector in vectors], dim=1)
    return stacked @ stacked.mT


def some_elements(x: Tensor) -> slice:
    """Every so-many-th element of a sample, if these are like the others in size."""
    flat = x.flatten(1).double()
    some = slice(None, None, max(1, flat.shape[1] // _NUM_ELEMENTS))
    share = flat[:, some].square().mean(1) / flat.square().mean(1)
    return some if (share - 1).abs().max() < 0.5 else slice(None)


def noise_in(call: Look | Glance, rest: Tensor) -> Tensor:
    """The draw that is the noise: the one that fits best; zeros if there was none.

    Args:
        call: What was drawn.
        rest: The noisy data without the data, if only roughly.
    """
    if len(call.draws) < 2:
        return call.draws[0] if call.draws else torch.zeros_like(call.z)
    return max(call.draws, key=lambda draw: similarity(rest, draw))


def _along(u: Tensor, v: Tensor) -> Tensor:
    """The coefficient of `v` in `u`, by sample."""
    axes = tuple(range(1, v.ndim))
    return (u * v).sum(axes, keepdim=True) / v.square().sum(axes, keepdim=True).clamp(min=1e-30)


def _target(g: Tensor, c: Tensor) -> Tensor:
    """$y = -g / 2c$; 0 where nothing is asked."""
    return torch.where(c == 0, 0.0, -g.double() / (2 * c))


def similarity(u: Tensor, v: Tensor) -> float:
    """The cosine of two batches, its mean over the samples, which have the same sign."""
    u, v = u.flatten(1), v.flatten(1).to(u)
    return (u * v).sum(1).div(u.norm(dim=1) * v.norm(dim=1) + 1e-30).mean().abs().item()
