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


def _uniform(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (value - low) / (high - low)


def _normal(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (value - mean) / torch.where(std == 0, 1.0, std)


def _whole(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (value + 0.5 - low) / (high - low)


@dataclass(frozen=True)
class _Source:
    """A function that draws random numbers.

    Args:
        standard: Its values, given the two parameters of their distribution, as if these were the
            standard ones.
        names: The keywords of these.
        first: Their place among the other arguments.
    """

    standard: Callable[[Tensor, Tensor, Tensor], Tensor] = _uniform
    names: tuple[str, ...] = ()
    first: int = 0

    def standardized(self, value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Values that were drawn with these arguments."""
        given = dict(zip(self.names, args[self.first :], strict=False)) | kwargs
        if self.standard is _whole and not isinstance(given.get("high"), int):
            given |= {"low": 0, "high": given["low"]}  # as in randint(high, size)
        defaults = zip(self.names, (0.0, 1.0), strict=False)
        parameters = [torch.as_tensor(given.get(*named)).detach() for named in defaults]
        if not parameters:
            return value
        return self.standard(value, *(parameter.to(value.device) for parameter in parameters))

    def quantiles(self, standardized: Tensor) -> Tensor:
        """The logits of the quantiles of standardized values."""
        value = standardized.double().flatten().cpu()
        if self.standard is _normal:
            logit: Tensor = torch.special.log_ndtr(value) - torch.special.log_ndtr(-value)
            return logit
        return torch.log(value) - torch.log1p(-value)


_TORCH: dict[Callable[..., Any], _Source] = {
    torch.rand: _Source(),
    torch.rand_like: _Source(),
    Tensor.uniform_: _Source(_uniform, ("from", "to"), first=1),
    torch.randn: _Source(_normal),
    torch.randn_like: _Source(_normal),
    torch.normal: _Source(_normal, ("mean", "std")),
    Tensor.normal_: _Source(_normal, ("mean", "std"), first=1),
    torch.randint: _Source(_whole, ("low", "high")),
    torch.randint_like: _Source(_whole, ("low", "high"), first=1),
}
_NUMPY = {
    "rand": _Source(),
    "random": _Source(),
    "random_sample": _Source(),
    "uniform": _Source(_uniform, ("low", "high")),
    "randn": _Source(_normal),
    "standard_normal": _Source(_normal),
    "normal": _Source(_normal, ("loc", "scale")),
    "randint": _Source(_whole, ("low", "high")),
}


def spread(seed: int) -> int:
    """A number far from those of other seeds, so that what follows it is not what follows them."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) // 2


def _designs(quantile: Tensor, num: int, *, is_uniform: bool) -> Iterator[Tensor]:
    r"""Quantiles of the `num` samples of a batch that a loss may make of the numbers that it draws.

    They are independent; antithetic, $u$ and $1 - u$; stratified, $(i + u_i) / n$; an evenly spaced
    grid, $u + i / n$ modulo 1; or shared, as by the frames of a clip.
    """
    grid = torch.arange(num, dtype=torch.float64) / num
    if len(quantile) == num:
        yield quantile
        if is_uniform and num > 1:
            yield torch.logit(grid + torch.sigmoid(quantile) / num)
    elif len(quantile) == 1 and is_uniform:
        yield torch.logit((torch.sigmoid(quantile) + grid) % 1)
    elif len(quantile) in (num // 2, num // 2 + 1):
        yield torch.cat([quantile, -quantile])[:num]
    if 1 < len(quantile) < num and num % len(quantile) == 0:  # shared by several samples
        yield quantile.repeat(num // len(quantile))
        yield quantile.repeat_interleave(num // len(quantile))


class Randomness(TorchFunctionMode):
    """Sets every random state, and keeps the numbers that are drawn meanwhile.

    Attributes:
        draws: Normal numbers, standardized.
        quantiles: Of numbers that may decide the noise levels of the samples, in the order drawn:
            the logit of their quantile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.quantiles: list[Tensor] = []
        self.num = 0
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._seed = -1
        self._numpys: dict[str, Callable[..., Any]] = {}

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
        if func in _TORCH and not torch._C._functorch.is_functorch_wrapped_tensor(result):
            self._note(_TORCH[func], result.detach().clone(), args, kwargs)
        elif func in (torch.multinomial, Tensor.multinomial):
            given = dict(zip(("input", "num_samples", "replacement"), args, strict=False)) | kwargs
            if given.get("replacement") or given["num_samples"] == 1:
                self._note_options(result, given["input"])
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep what is drawn in here, by torch and by the functions of `numpy.random`."""
        self._numpys = {name: getattr(np.random, name) for name in (*_NUMPY, "choice")}
        vars(np.random).update({name: partial(self._numpy, name) for name in _NUMPY})
        vars(np.random)["choice"] = self._numpy_choice
        try:
            with self:
                yield
        finally:
            vars(np.random).update(self._numpys)

    def _numpy(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = self._numpys[name](*args, **kwargs)
        self._note(_NUMPY[name], torch.tensor(result), args, kwargs)
        return result

    def _numpy_choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        if p is None or not replace or np.ndim(a) > 1:
            return self._numpys["choice"](a, size, replace, p)
        index = self._numpys["choice"](a if np.ndim(a) == 0 else len(a), size, replace, p)
        self._note_options(torch.as_tensor(index), torch.as_tensor(np.asarray(p, dtype=float)))
        return index if np.ndim(a) == 0 else np.asarray(a)[index]

    def _note(self, source: _Source, value: Tensor, args: Any, kwargs: Any) -> None:
        standardized = source.standardized(value, args, kwargs)
        is_normal = source.standard is _normal
        if is_normal:
            self.draws.append(standardized)
        num = value.numel()
        is_coarse = value.dtype in (torch.float16, torch.bfloat16)  # many would be equal
        if not is_coarse and num and (num == self.num // 2 + 1 or self.num % num == 0):
            quantiles = source.quantiles(standardized)
            self.quantiles += _designs(quantiles, self.num, is_uniform=not is_normal)

    def _note_options(self, index: Tensor, weights: Tensor) -> None:
        """Of indices that were drawn independently, with `weights` for all or for each."""
        if index.numel() != self.num:
            return
        weights, place = weights.detach().double().cpu(), index.cpu().reshape(-1, 1)

        def chosen(values: Tensor) -> Tensor:
            return values.expand(self.num, -1).gather(1, place).flatten()

        half = chosen(weights) / 2
        smaller = chosen(weights.cumsum(-1)) - half
        greater = chosen(weights.flip(-1).cumsum(-1).flip(-1)) - half
        self.quantiles.append(smaller.log() - greater.log())


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
