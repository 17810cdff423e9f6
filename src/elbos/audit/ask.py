r"""Asking a loss the same questions, batch by batch.

What is compared are calls that differ in one thing: the answer of the network, or the data. The
gradient at answer 0 and at another gives the coefficient $c$ and the target $y$; other data with
the same noise show what of $z$ and $y$ is signal.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.algebra import Coefficients, gram, solve
from elbos.audit.watch import FORMS, Call, LossFunction, Watch


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
        draws: The normal numbers that torch drew, those of the size of `z`.
        quantiles: The random numbers that torch drew, those of which there is one per sample, by
            their quantile.
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

    def coefficient(self) -> Float[Tensor, " b"]:
        r"""$c$, from the change of the gradient."""
        return _coefficient(self.g_moved - self.g, self.answer)

    def coefficient_other(self) -> Float[Tensor, " b"]:
        """The same of the other data, where it was looked at."""
        if self.g_other_moved is None:
            return self.coefficient()
        return _coefficient(self.g_other_moved - self.g_other, self.answer)


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
    """

    watch: Watch
    x: Tensor
    x_other: Tensor
    first_channel: int = 0

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
        return [self._look(calls, draws, quantiles) for calls in zip(*runs, strict=True)]

    def _look(self, calls: tuple[Call, ...], draws: list[Tensor], quantiles: list[Tensor]) -> Look:
        z, z_other, answer = (self._like_x(t) for t in (calls[0].z, calls[2].z, calls[1].answer))
        gradients = [self._like_x(c.gradient) for c in calls if c.gradient is not None]
        num = self.x.shape[1] if z.shape[2:] == self.x.shape[2:] else z.shape[1]
        window = slice(self.first_channel, self.first_channel + num)
        z, z_other = z[:, window], z_other[:, window]
        if len(z) != len(self.x):
            raise ValueError(
                f"The network is called with a batch of {len(z)} for data of {len(self.x)}: call "
                "it with all samples at once, and no others."
            )
        return Look(
            z=z,
            z_other=z_other,
            g=gradients[0][:, :num],
            g_moved=gradients[1][:, :num],
            g_other=gradients[2][:, :num],
            g_other_moved=gradients[3][:, :num] if len(gradients) > 3 else None,
            answer=answer.detach()[:, :num],
            draws=[draw.reshape(z.shape) for draw in draws if draw.numel() == z.numel()],
            quantiles=[quantile for quantile in quantiles if len(quantile) == len(z)],
        )

    def _like_x(self, tensor: Tensor) -> Tensor:
        """In the shape of the data, if it is another shape of as many numbers, as flattened."""
        is_reshaped = len(tensor) == len(self.x) and tensor.numel() == self.x.numel()
        return tensor.reshape(self.x.shape) if is_reshaped else tensor


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
    """Whether the loss looks at more than the first sample, as `output[0]` of a tensor would."""
    return len(gradient) == 1 or bool(gradient[1:].abs().sum() != 0)


def require_repeatable(asker: Asker, seed: int) -> None:
    first, again = asker.watch(asker.x, seed), asker.watch(asker.x, seed)
    alike = len(first) == len(again) and all(
        _is_same(a.z, b.z) and _is_same(a.gradient, b.gradient)
        for a, b in zip(first, again, strict=True)
    )
    if not alike:
        raise ValueError(
            "The loss does something else although the random states of torch, numpy and Python "
            "were reset: draw from those, not from a numpy Generator or a counter of its own."
        )
    if len(asker.x) > 1 and _is_same(first[0].z, asker.watch(asker.x, seed + 1)[0].z):
        raise ValueError(
            "The loss draws the same noise in every call: it sets a seed, or draws none; leave "
            "the random state alone."
        )


def _is_same(first: Tensor | None, second: Tensor | None) -> bool:
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
        is_same = (x - x_other).flatten(1).norm(dim=1) < 0.1 * x.flatten(1).norm(dim=1)
        x_other[is_same] = candidate[is_same]
    if (x_other == x).flatten(1).all(1).any():
        raise ValueError("A sample of the data is zero everywhere: give data that vary.")
    return x_other


def first_channel(asker: Asker, seed: int) -> int:
    """Where the noisy data are, in an input that holds other channels besides."""
    x = asker.x
    z, later = (asker.watch(x, s)[-1].z for s in (seed, seed + 1))
    extra = z.shape[1] - x.shape[1]
    if extra <= 0 or z.shape[2:] != x.shape[2:] or z.shape[:1] != x.shape[:1]:
        return 0
    changes = [
        (z - later)[:, i : i + x.shape[1]].square().mean() / z[:, i : i + x.shape[1]].var()
        for i in (0, extra)
    ]
    return 0 if changes[0] >= changes[1] else extra


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
    z, dz = look.z, look.z - look.z_other
    fits = [similarity(z - x, draw) for draw in look.draws]
    eps = look.draws[fits.index(max(fits))] if fits else torch.zeros_like(z)
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
    rows = {"x": x, "dx": x - x_other, "z": z, "dz": dz, "y": y, "dy": dy, "eps": eps}
    one = torch.ones_like(z)
    return gram(**{name: row * seen for name, row in rows.items()}, one=one * seen).cpu()


def _target(g: Tensor, c: Tensor) -> Tensor:
    """$y = -g / 2c$; 0 where nothing is asked."""
    return torch.where(c == 0, 0.0, -g.double() / (2 * c))


def similarity(u: Tensor, v: Tensor) -> float:
    u, v = u.flatten(1), v.flatten(1).to(u)
    return (u * v).sum(1).abs().div(u.norm(dim=1) * v.norm(dim=1) + 1e-30).mean().item()
