r"""Evaluations of a loss that differ only in the data or in the output of the network.

Gradients at two network outputs ("answers") give the coefficient $c$ and the target $y$; other data
with the same noise show which part of $z$ and $y$ is signal. Other data change the network's input
only where it contains noisy data, so losses may pack latents into tokens, move channels last,
transpose sequences, fold frames into the batch, or add other channels, tokens or frames. Elements
without noise that do not enter the loss are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elbos.audit.calls.arguments import Arguments, Slot, wider_axis
from elbos.audit.calls.instrument import SIGNS, ZERO, Call, Instrument, LossFunction, Observation
from elbos.audit.calls.rng import Design, Quantiles


def is_shared(draw: Tensor, z: Tensor) -> bool:
    """Test whether a random tensor broadcasts to the shape of the noisy data."""
    pairs = zip(draw.shape, z.shape, strict=False)
    return draw.ndim == z.ndim and all(num in (1, size) for num, size in pairs)


class DrawSum:
    """Noise of unit variance as a linear combination of random tensors, up to a constant."""

    def __init__(self, draws: list[Tensor], noise: Tensor) -> None:
        self.draws = torch.stack([draw.flatten(1).double() for draw in draws], dim=1)
        factors = _factors(self.draws, noise)
        self.factors = factors / factors.norm(dim=1, keepdim=True).clamp(min=1e-30)

    def noise(self) -> Float[Tensor, "b d"]:
        return torch.einsum("bk,bkd->bd", self.factors, self.draws)

    def independent_part(self, noise: Tensor) -> Float[Tensor, "b d"]:
        """Return the component of the target's noise that is orthogonal to the input noise."""
        factors = _factors(self.draws, noise)
        along = (factors * self.factors).sum(1, keepdim=True) * self.factors
        return torch.einsum("bk,bkd->bd", factors - along, self.draws)


def _factors(draws: Float[Tensor, "b k d"], value: Tensor) -> Float[Tensor, "b k"]:
    vectors = torch.cat([draws, torch.ones_like(draws[:, :1])], dim=1)
    projections = vectors @ value.flatten(1).double()[:, :, None]
    factors: Tensor = torch.linalg.solve_ex(vectors @ vectors.mT, projections).result
    return factors[:, : draws.shape[1], 0]


def without_mean(value: Tensor, axis: int) -> Tensor:
    return value - value.mean(axis, keepdim=True)


@dataclass(frozen=True)
class SingleCall:
    z: Tensor  # noisy data, in the layout of the data
    answer: Tensor  # random signs
    gradient: Tensor  # gradient of the loss at that answer
    normals: list[Tensor]  # normal draws of the size of z
    shared: list[Tensor]  # normal numbers that many elements of z may share
    designs: list[Design]  # draws that may determine the noise levels
    conditions: list[Any]  # all other inputs of the network
    inputs: Mapping[Slot, Tensor]  # those of one number per sample
    of_data: Tensor | None = None  # the normal draw that samples the data, if any
    summed: DrawSum | None = None  # the noise as a sum of draws, if it is a sum

    def centred(self, axis: int) -> "SingleCall":
        return replace(self, normals=[without_mean(normal, axis) for normal in self.normals])


@dataclass(frozen=True)
class PairedCalls:
    moved: SingleCall  # call on the data, with random signs as output
    gradient: Tensor  # gradient at output 0
    z_other: Tensor  # noisy other data
    gradient_other: Tensor  # gradient at output 0 on the other data
    change_other: Tensor  # `change` on the other data, or on the data itself

    def is_finite(self) -> bool:
        parts = (self.z, self.z_other, self.gradient, self.moved.gradient, self.gradient_other)
        return all(part.sum(dtype=torch.float64).isfinite() for part in parts)

    @property
    def z(self) -> Tensor:
        return self.moved.z

    @property
    def change(self) -> Tensor:
        """Change of the loss gradient caused by a change of the network output."""
        return self.moved.gradient - self.gradient

    def coefficient(self) -> Float[Tensor, " b"]:
        r"""Compute the coefficient $c$ of $c\,\|\hat y - y\|^2$ for each sample."""
        return (self.change * self.moved.answer).flatten(1).double().mean(1) / 2

    def coefficient_other(self) -> Float[Tensor, " b"]:
        return (self.change_other * self.moved.answer).flatten(1).double().mean(1) / 2


class Queries:
    """A loss prepared for repeated evaluation on fixed data.

    Raises:
        ValueError: If the loss cannot be called, or calls are not reproducible.
    """

    def __init__(self, loss_fn: LossFunction, x: Tensor, seed: int) -> None:
        self.instrument = Instrument.for_loss(loss_fn, x, seed)
        self.zeros = {s: self.instrument(x, s) for s in (seed, seed + 1)}  # answer 0; seed -> call
        self.x, self.x_other = x, x.clone()
        for candidate in (x.roll(1, 0), x.flip(-1), x.roll(1, -1), 0.5 * x):
            dx = x - self.x_other
            is_alike = dx.flatten(1).norm(dim=1) < 0.1 * x.flatten(1).norm(dim=1)
            self.x_other[is_alike] = candidate[is_alike]
        if (self.x_other == x).flatten(1).all(1).any():
            raise ValueError("A sample of the data is zero everywhere: give data that vary.")
        _require_repeatable(self, seed)
        self.ignored: tuple[int, ...] = ()  # network calls that add nothing to the expected loss
        z, later = (observation.calls[-1].z.float() for observation in self.zeros.values())
        other = _last_input(self, self.x_other, seed)
        # index of the noisy data in the network's input, along its longer axis
        self.start = _start(x, self.x_other, z, other, later)
        self.element_permutation = _element_permutation(self, z, other, seed)
        self.noised: Int[Tensor, " k"] | None = None  # the elements that are noised, if some
        self.noised = _noised_elements(self, seed)

    @property
    def example(self) -> Arguments | None:
        """Arguments of a network call; None if noisy and clean data differ in layout."""
        first, second = (observation.calls[-1] for observation in list(self.zeros.values())[:2])
        is_plain = self.element_permutation is None and self.noised is None
        if not is_plain or first.z.shape != self.x.shape:
            return None
        return first.arguments.beside(second.arguments)

    def select_noised(self, value: Tensor) -> Tensor:
        return value if self.noised is None else value.flatten(1)[:, self.noised]

    def paired(
        self,
        seed: int,
        quantiles: Quantiles | None = None,
        *,
        with_other_moved: bool,
        zero: Observation | None = None,
    ) -> list[PairedCalls]:
        """Evaluate a loss with a fixed seed for different data and network outputs."""
        moved = self.single(seed, quantiles)
        changes = [(self.x_other, ZERO), *([(self.x_other, SIGNS)] if with_other_moved else [])]
        observations = [
            zero or self.instrument(self.x, seed, ZERO, quantiles),
            *(self.instrument(x, seed, answer, quantiles) for x, answer in changes),
        ]
        runs = [self._counted(observation.calls) for observation in observations]
        if len({len(moved), *map(len, runs)}) != 1:
            raise ValueError(
                "The number of network calls depends on the values of the data: calls of the loss "
                "cannot be compared."
            )
        paired = []
        for call, *calls in zip(moved, *runs, strict=True):
            (_, g, _), (z_other, g_other, _), *rest = map(self.in_layout, calls)
            change_other = rest[0][1] - g_other if rest else call.gradient - g
            paired.append(PairedCalls(call, g, z_other, g_other, change_other))
        return paired

    def single(self, seed: int, quantiles: Quantiles | None = None) -> list[SingleCall]:
        """Evaluate a loss with random signs as the network output."""
        observation, singles = self.instrument(self.x, seed, SIGNS, quantiles), []
        draws = observation.draws
        for call in self._counted(observation.calls):
            z, gradient, answer, rest = self._apart(call)
            drawn = [draw.to(z.device) for draw in draws.normals]
            normals = [draw.reshape(z.shape) for draw in drawn if draw.numel() == z.numel()]
            if self.element_permutation is not None:  # drawn in the order of data or input
                normals += [self._like_x(draw) for draw in normals]
            small = [draw for draw in drawn if draw.numel() != z.numel() and is_shared(draw, z)]
            normals += [draw.expand_as(z) for draw in small if draw.shape[1:] == z.shape[1:]]
            shared = [draw for draw in small if draw.shape[1:] != z.shape[1:]]
            if self.noised is not None:
                normals = [self.select_noised(draw) for draw in normals]
                shared = [self.select_noised(draw.expand_as(z)) for draw in shared]
            single = SingleCall(
                z=self.select_noised(z),
                answer=self.select_noised(answer),
                gradient=self.select_noised(gradient),
                normals=normals,
                shared=shared,
                designs=draws.designs(len(z)),
                conditions=[*call.arguments.rest.values(), *rest],
                inputs=call.arguments.numbers(),
            )
            singles.append(single)
        return singles

    def _counted(self, calls: list[Call]) -> list[Call]:
        return [call for i, call in enumerate(calls) if i not in self.ignored]

    def in_layout(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Extract noised data, gradient and output from a network call, in the data's layout."""
        z, g, answer, _ = self._apart(call)
        return self.select_noised(z), self.select_noised(g), self.select_noised(answer)

    def _apart(self, call: Call) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        assert call.gradient is not None
        z, g, answer = map(self._like_x, (call.z, call.gradient, call.answer.detach()))
        if z.shape == (1, *self.x.shape):
            raise ValueError(
                f"The loss takes its data, of shape {list(self.x.shape)}, for one sample and calls "
                "the network with a batch of 1: audit loss(network, x[0]) with data [1, ...]."
            )
        if len(z) != len(self.x):
            raise ValueError(
                f"The network is called with a batch of {len(z)} for data of {len(self.x)}: call "
                "it with all samples at once, and no others."
            )
        axis = wider_axis(z, self.x) or 1
        num = self.x.shape[axis] if z.shape[2:] == self.x.shape[2:] or axis > 1 else z.shape[axis]
        before, within, after = z.tensor_split((self.start, self.start + num), dim=axis)
        is_wide = self.instrument.form.is_wide or axis > 1
        at = self.start if is_wide else 0
        g, answer = (tensor.tensor_split((at, at + num), dim=axis)[1] for tensor in (g, answer))
        return within, g, answer, [rest for rest in (before, after) if rest.numel()]

    def _like_x(self, tensor: Tensor) -> Tensor:
        if len(tensor) % len(self.x) or tensor.numel() != self.x.numel():
            return tensor
        flat = tensor.reshape(len(self.x), -1)
        order = self.element_permutation
        return (flat if order is None else flat[:, order]).reshape(self.x.shape)


def _require_repeatable(queries: Queries, seed: int) -> None:
    x = queries.x
    first, other = (queries.zeros[s].calls for s in (seed, seed + 1))
    again = queries.instrument(x, seed).calls
    calls = list(zip(first, again, strict=False))
    if len(first) != len(again) or not all(is_same(a.z, b.z) for a, b in calls):
        raise ValueError(
            "The loss is not reproducible although the random states of torch, numpy and Python "
            "were reset: draw from these, not from a numpy Generator or its own counter. Of Keras: "
            "in the loss, model.seed_generator.state.assign(torch.randint(2**31, (2,)))."
        )
    if not all(is_same(a.gradient, b.gradient) for a, b in calls):
        raise ValueError(
            "The loss keeps a state, such as a running mean or its own generator: called again "
            "with the same data, noise and levels, its gradient differs. Reset that state in the "
            "loss, or leave it out."
        )
    if len(x) > 1 and all(is_same(a.z, b.z) for a, b in zip(first, other, strict=False)):
        if any(call.z.shape == x.shape and unlike(call.z, x) < 1e-6 for call in first):
            raise ValueError(
                "The network is given the clean data instead of noisy data: call the network as "
                "network(z, ...)."
            )
        raise ValueError(
            "The loss uses the same noise in every call: draw new noise in each call, and set no "
            "seed in the loss."
        )


def is_same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None or first.shape != second.shape:
        return first is second
    scale = first.nan_to_num().abs().max().item()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


def unlike(dz: Tensor, dx: Tensor) -> float:
    """Compute the relative squared residual of fitting `dz` by a multiple of `dx`."""
    dz, dx = dz.flatten(1), dx.flatten(1).to(dz)
    alpha = (dz * dx).sum(1, keepdim=True) / dx.square().sum(1, keepdim=True)
    left = (dz - alpha * dx).square().nansum() / dz.square().nansum().clamp(min=1e-30)
    return left.item()


def _last_input(queries: Queries, x: Tensor, seed: int) -> Tensor:
    return queries.instrument(x, seed).calls[-1].z.float()


def _element_permutation(
    queries: Queries, z: Tensor, other: Tensor, seed: int
) -> Int[Tensor, " d"] | None:
    """Find the permutation of the data in the input by data that encode one bit of every index."""
    x = queries.x
    if len(z) % len(x) or z.numel() != x.numel():
        return None
    dx = (x - queries.x_other).flatten(1)
    dz = (z - other).reshape(len(x), -1)
    if unlike(dz, dx) < 1e-6:
        return None
    place = torch.arange(dx.shape[1], device=x.device)
    strongest = dz.norm(dim=1).argmax()
    low, high = x.min(), x.max()
    numbers = torch.zeros_like(place)
    for i in range(len(place).bit_length()):
        bit = (place >> i & 1).bool().reshape(x[0].shape).expand_as(x)
        ones, zeros = torch.where(bit, high, low), torch.where(bit, low, high)
        change = _last_input(queries, ones, seed) - _last_input(queries, zeros, seed)
        numbers += (change.reshape(len(x), -1)[strongest] > 0).long() << i
    order = numbers.argsort()
    is_permutation = torch.equal(numbers[order], place) and not torch.equal(order, place)
    return order if is_permutation and unlike(dz[:, order], dx) < 0.05 else None


def _start(x: Tensor, x_other: Tensor, z: Tensor, other: Tensor, later: Tensor) -> int:
    """Find the place where the input changes in proportion to the data, and most with the seed."""
    axis = wider_axis(z, x)
    if axis is None or len(z) != len(x):
        return 0
    num = x.shape[axis]
    starts = range(z.shape[axis] - num + 1)
    strange = [unlike((z - other).narrow(axis, i, num), x - x_other) for i in starts]
    places = [i for i, share in enumerate(strange) if share < 2 * min(strange) + 1e-6]
    return max(places, key=lambda i: (z - later).narrow(axis, i, num).square().sum().item())


def _noised_elements(queries: Queries, seed: int) -> Int[Tensor, " k"] | None:
    """Find the elements that get noise, if the rest is not trained, as actions after a state."""
    first, later = (queries.in_layout(queries.zeros[s].calls[-1])[0] for s in (seed, seed + 1))
    if first.shape != queries.x.shape or later.shape != first.shape:
        return None
    is_still = ((first - later).abs() <= 1e-6 * first.abs().max()).flatten(1).all(0)
    if is_still.all() or not is_still.any():
        return None
    calls = queries.instrument(queries.x, seed, SIGNS).calls
    gradients = [queries.in_layout(call)[1].flatten(1)[:, is_still] for call in calls]
    return None if any(g.any() for g in gradients) else is_still.logical_not().nonzero()[:, 0]
