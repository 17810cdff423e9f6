"""Data and noise in the input of a network, among the tensors that a training step has drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.arguments import wider_axis
from elbos.audit.calls.queries import is_shared, without_mean
from elbos.audit.live.steps import noisy_data_fit
from elbos.audit.probing.decompose import gram_of
from elbos.audit.probing.noise import MAX_UNEXPLAINED

_SAME = 1 - 1e-5  # cosine of a tensor and its multiple, rounded to bfloat16
MAX_DRAWS = 8  # most recent draws of the size of the data, and of shared draws


def _is_multiple(values: Tensor, other: Tensor) -> bool:
    if values.shape != other.shape or other[0].numel() < 3:
        return False
    cosine = torch.cosine_similarity(values.flatten(1).double(), other.flatten(1).double())
    return cosine.abs().median().item() > _SAME


@dataclass
class Components:
    x: Tensor
    z: Tensor  # noisy data, in the shape of x
    argument: Tensor  # argument of the network that holds the noisy data
    rest: list[Tensor]  # what the argument holds beside them
    draws: list[Float[Tensor, "b d"]]
    shapes: Sequence[Sequence[int]]  # shapes of the shared draws, which come last
    axis: int | None = None  # along which the draws are centred

    @classmethod
    def from_draws(
        cls, x: Tensor, argument: Tensor, parts: Sequence[Tensor], normals: list[Tensor]
    ) -> "Components":
        noisy, *rest = parts
        size = x[0].numel()
        normals = [draw for draw in normals if not _is_multiple(draw, x)]  # x may be drawn, too
        whole = [draw for draw in normals if draw.shape[1:] == x.shape[1:] and is_shared(draw, x)]
        shared = [draw for draw in normals if draw.shape[1:] != x.shape[1:] and is_shared(draw, x)]
        whole = whole[::-1][: min(MAX_DRAWS, max(1, size // 2 - 2))]
        shared = shared[::-1][: min(MAX_DRAWS, max(0, size // 2 - 2 - len(whole)))]
        draws = [draw.expand_as(x).flatten(1).double() for draw in (*whole, *shared)]
        shapes = [draw.shape for draw in shared]
        z = noisy.detach().reshape(x.shape).clone()
        return cls(x, z, argument, rest, draws, shapes)

    def centred(self, axis: int) -> Iterator["Components"]:
        draws = [without_mean(draw.reshape(self.x.shape), axis).flatten(1) for draw in self.draws]
        for x in (self.x, without_mean(self.x, axis)):
            yield replace(self, x=x, draws=draws, axis=axis)

    @property
    def unexplained(self) -> float:
        vectors = [self.x, self.z, *self.draws]
        *_, unexplained = noisy_data_fit(gram_of(vectors), list(range(2, len(vectors))))
        return unexplained.nanmedian().item()


def _parts(argument: Tensor, x: Tensor) -> Iterator[Sequence[Tensor]]:
    """Yield the noisy data in an argument and the conditions before or after them."""
    axis = wider_axis(argument, x)
    if len(argument) != len(x):
        return
    if argument.numel() == x.numel():
        yield [argument]
    elif axis is not None:
        num, num_rest = x.shape[axis], argument.shape[axis] - x.shape[axis]
        yield torch.split(argument, [num, num_rest], dim=axis)
        yield torch.split(argument, [num_rest, num], dim=axis)[::-1]


def components(
    inputs: list[Tensor], data: list[Tensor], normals: list[Tensor]
) -> Components | None:
    for x in reversed(data):  # earlier draws may sample the data, as latents
        plain = [
            Components.from_draws(x, argument, parts, normals)
            for argument in inputs
            for parts in _parts(argument, x)
            if parts[0].any()
            and not any(_is_multiple(parts[0].reshape(x.shape), other) for other in (x, *normals))
        ]
        for choices in (plain, [c for p in plain for i in range(1, x.ndim) for c in p.centred(i)]):
            explained = [choice for choice in choices if choice.unexplained < MAX_UNEXPLAINED]
            if explained:
                return min(explained, key=lambda choice: choice.unexplained)
    return None
