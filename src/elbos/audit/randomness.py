r"""The random numbers of a loss: set before each call, and kept.

Random states (torch's, numpy's, Python's, and those of torch generators that the loss owns) start
anew from a seed. What the loss then draws from torch or from numpy's global state is kept: normal
numbers, so that the noise in $z$ is known and need not be estimated; and numbers of which there is
one per sample, since the noise level may be a function of one of them. The latter are kept as the
logit of their quantile, $\log P(\text{smaller}) - \log P(\text{greater})$, which loses no digits in
either tail; of one of several options, drawn with given probabilities, half of its own counts as
smaller.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _of_uniform(value: Tensor, low: Tensor | float = 0.0, high: Tensor | float = 1.0) -> Tensor:
    return (value - low).log() - (high - value).log()


def _of_normal(value: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
    z = (value - mean) / std
    logit: Tensor = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
    return logit


@dataclass(frozen=True)
class _Source:
    """A function that draws random numbers.

    Args:
        quantile: Of its values, given the two parameters of their distribution.
        names: The keywords of these.
        first: Their place among the other arguments.
    """

    quantile: Callable[..., Tensor]
    names: tuple[str, ...] = ()
    first: int = 0

    def quantiles(self, value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Of values that were drawn with these arguments, one for each sample."""
        given = dict(zip(self.names, args[self.first :], strict=False)) | kwargs
        parameters = [
            torch.as_tensor(given.get(name, default)).detach().double().flatten().cpu()
            for name, default in zip(self.names, (0.0, 1.0), strict=False)
        ]
        return self.quantile(value.double().flatten().cpu(), *parameters)


_TORCH: dict[Callable[..., Any], _Source] = {
    torch.rand: _Source(_of_uniform),
    torch.rand_like: _Source(_of_uniform),
    Tensor.uniform_: _Source(_of_uniform, ("from", "to"), first=1),
    torch.randn: _Source(_of_normal),
    torch.randn_like: _Source(_of_normal),
    torch.normal: _Source(_of_normal, ("mean", "std")),
    Tensor.normal_: _Source(_of_normal, ("mean", "std"), first=1),
}
_NUMPY = {
    "rand": _Source(_of_uniform),
    "random": _Source(_of_uniform),
    "random_sample": _Source(_of_uniform),
    "uniform": _Source(_of_uniform, ("low", "high")),
    "randn": _Source(_of_normal),
    "standard_normal": _Source(_of_normal),
    "normal": _Source(_of_normal, ("loc", "scale")),
}
_ORIGINAL = {name: getattr(np.random, name) for name in (*_NUMPY, "choice")}


class Randomness(TorchFunctionMode):
    """Sets every random state, and keeps the numbers that are drawn meanwhile.

    Attributes:
        draws: Normal numbers.
        quantiles: Of random numbers in the order drawn, of which there is one per sample: the logit
            of their quantile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.quantiles: list[Tensor] = []
        self.num = 0
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._seed = -1

    def reset(self, seed: int, num: int) -> None:
        """Start from `seed` with a batch of `num` samples.

        Generators of the loss itself start from where this seed first met them.
        """
        self.num = num
        if seed != self._seed:
            self._generators.clear()
            self._seed = seed
        self.draws, self.quantiles = [], []
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, it is the loss that draws from it
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # ten times as fast, for hundreds of calls
            torch.default_generator.manual_seed(seed)
        for generator, state in self._generators.values():
            generator.set_state(state)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.get_state()
        result = func(*args, **kwargs)
        if func in _TORCH:
            self._note(_TORCH[func], result.detach().clone(), args, kwargs)
        elif func in (torch.multinomial, Tensor.multinomial):
            given = dict(zip(("input", "num_samples", "replacement"), args, strict=False)) | kwargs
            if given.get("replacement") or given["num_samples"] == 1:
                self._note_options(result, given["input"])
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep what is drawn in here, by torch and by the functions of `numpy.random`."""
        vars(np.random).update({name: partial(self._numpy, name) for name in _NUMPY})
        vars(np.random)["choice"] = self._numpy_choice
        try:
            with self:
                yield
        finally:
            vars(np.random).update(_ORIGINAL)

    def _numpy(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = _ORIGINAL[name](*args, **kwargs)
        if isinstance(result, np.ndarray):
            self._note(_NUMPY[name], torch.from_numpy(result.copy()), args, kwargs)
        return result

    def _numpy_choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        if p is None or not replace or np.ndim(a) > 1:
            return _ORIGINAL["choice"](a, size, replace, p)
        index = _ORIGINAL["choice"](len(p), size, replace, p)
        self._note_options(torch.as_tensor(index), torch.as_tensor(np.asarray(p, dtype=float)))
        return index if np.ndim(a) == 0 else np.asarray(a)[index]

    def _note(self, source: _Source, value: Tensor, args: Any, kwargs: Any) -> None:
        if source.quantile is _of_normal:
            self.draws.append(value)
        if value.numel() == self.num:
            self.quantiles.append(source.quantiles(value, args, kwargs))

    def _note_options(self, index: Tensor, weights: Tensor) -> None:
        """Of indices that were drawn independently, with `weights` for all or for each."""
        if index.numel() != self.num:
            return
        weights = weights.detach().double().cpu().expand(self.num, -1)
        place = index.cpu().reshape(-1, 1)
        own = weights.gather(1, place)
        smaller = weights.cumsum(1).gather(1, place) - own / 2
        greater = weights.flip(1).cumsum(1).flip(1).gather(1, place) - own / 2
        self.quantiles.append((smaller.log() - greater.log()).flatten())


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Leave all global random states as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
