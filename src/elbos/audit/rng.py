r"""The random numbers of a loss: reset before each call, and recorded.

All random states (torch's, numpy's, Python's, and those of torch generators that the loss owns)
start anew from a seed, so that two calls differ only in what is changed on purpose. What the loss
then draws from torch or from numpy's global state is recorded: normal numbers, because one of them
is the noise in $z$; and numbers of which there is one per sample, because the noise level may be a
function of one. The latter are kept as the logit of their quantile,
$\log P(\text{smaller}) - \log P(\text{greater})$, which loses no digits in either tail. Of an
option drawn with given probabilities, half of its own probability counts as smaller.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class _Distribution:
    """What a random function draws from."""

    kind: Literal["uniform", "normal", "integer"]
    parameters: tuple[str, ...] = ()  # keywords of its location and its scale, or of its two ends
    first: int = 0  # the place of the first of them among the positional arguments

    def standardized(self, value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Drawn values, transformed to uniform on [0, 1] or to variance 1."""
        if not self.parameters:
            return value
        given = dict(zip(self.parameters, args[self.first :], strict=False)) | kwargs
        if self.kind == "integer" and not isinstance(given.get("high"), int):
            given |= {"low": 0, "high": given["low"]}  # randint(high, size)
        first, second = (
            torch.as_tensor(given.get(name, default)).detach().to(value.device)
            for name, default in zip(self.parameters, (0.0, 1.0), strict=True)
        )
        if self.kind == "normal":
            return (value - first) / torch.where(second == 0, 1.0, second)
        return (value + (0.5 if self.kind == "integer" else 0.0) - first) / (second - first)

    def logit(self, standardized: Tensor) -> Tensor:
        """Logits of the quantiles of standardized values."""
        value = standardized.double().flatten().cpu()
        if self.kind == "normal":
            logit: Tensor = torch.special.log_ndtr(value) - torch.special.log_ndtr(-value)
            return logit
        return torch.log(value) - torch.log1p(-value)


_TORCH: dict[Callable[..., Any], _Distribution] = {
    torch.rand: _Distribution("uniform"),
    torch.rand_like: _Distribution("uniform"),
    Tensor.uniform_: _Distribution("uniform", ("from", "to"), first=1),
    torch.randn: _Distribution("normal"),
    torch.randn_like: _Distribution("normal"),
    torch.normal: _Distribution("normal", ("mean", "std")),
    Tensor.normal_: _Distribution("normal", ("mean", "std"), first=1),
    torch.randint: _Distribution("integer", ("low", "high")),
    torch.randint_like: _Distribution("integer", ("low", "high"), first=1),
}
_NUMPY = {
    "rand": _Distribution("uniform"),
    "random": _Distribution("uniform"),
    "random_sample": _Distribution("uniform"),
    "uniform": _Distribution("uniform", ("low", "high")),
    "randn": _Distribution("normal"),
    "standard_normal": _Distribution("normal"),
    "normal": _Distribution("normal", ("loc", "scale")),
    "randint": _Distribution("integer", ("low", "high")),
}


def distant_seed(seed: int) -> int:
    """A seed whose successors are not the successors of other seeds."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) // 2


def _designs(quantile: Tensor, num: int, *, is_uniform: bool) -> Iterator[Tensor]:
    r"""Quantiles of `num` samples that a loss may make of the numbers that it draws.

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
    if 1 < len(quantile) < num and num % len(quantile) == 0:
        yield quantile.repeat(num // len(quantile))
        yield quantile.repeat_interleave(num // len(quantile))


class Recorder(TorchFunctionMode):
    """Resets every random state, and records the numbers that are drawn.

    Attributes:
        normals: Normal numbers, standardized, in the order drawn.
        quantiles: Numbers that may decide the noise level of each sample, in the order drawn: the
            logit of their quantile, `[num]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normals: list[Tensor] = []
        self.quantiles: list[Tensor] = []
        self._num = 0
        self._seed = -1
        self._generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._numpys: dict[str, Callable[..., Any]] = {}

    def reset(self, seed: int, num: int) -> None:
        """Start from `seed` with a batch of `num` samples.

        Generators of the loss itself start from where this seed first met them.
        """
        self._num = num
        if seed != self._seed:
            self._generators.clear()
            self._seed = seed
        self.normals, self.quantiles = [], []
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, it is the loss that draws from it
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # ten times as fast, for hundreds of calls
            torch.default_generator.manual_seed(seed)
        for generator, state in self._generators.values():
            generator.set_state(state)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what torch and the functions of `numpy.random` draw meanwhile."""
        self._numpys = {name: getattr(np.random, name) for name in (*_NUMPY, "choice")}
        vars(np.random).update({name: partial(self._numpy, name) for name in _NUMPY})
        vars(np.random)["choice"] = self._numpy_choice
        try:
            with self:
                yield
        finally:
            vars(np.random).update(self._numpys)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and id(generator) not in self._generators:
            self._generators[id(generator)] = generator, generator.get_state()
        result = func(*args, **kwargs)
        if func in _TORCH and not torch._C._functorch.is_functorch_wrapped_tensor(result):
            self._record(_TORCH[func], result.detach().clone(), args, kwargs)
        elif func in (torch.multinomial, Tensor.multinomial):
            given = dict(zip(("input", "num_samples", "replacement"), args, strict=False)) | kwargs
            if given.get("replacement") or given["num_samples"] == 1:
                self._record_options(result, given["input"])
        return result

    def _numpy(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = self._numpys[name](*args, **kwargs)
        self._record(_NUMPY[name], torch.tensor(result), args, kwargs)
        return result

    def _numpy_choice(self, a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        if p is None or not replace or np.ndim(a) > 1:
            return self._numpys["choice"](a, size, replace, p)
        index = self._numpys["choice"](a if np.ndim(a) == 0 else len(a), size, replace, p)
        self._record_options(torch.as_tensor(index), torch.as_tensor(np.asarray(p, dtype=float)))
        return index if np.ndim(a) == 0 else np.asarray(a)[index]

    def _record(self, drawn_from: _Distribution, value: Tensor, args: Any, kwargs: Any) -> None:
        standardized = drawn_from.standardized(value, args, kwargs)
        is_normal = drawn_from.kind == "normal"
        if is_normal:
            self.normals.append(standardized)
        num = value.numel()
        is_coarse = value.dtype in (torch.float16, torch.bfloat16)  # many would be equal
        if not is_coarse and num and (num == self._num // 2 + 1 or self._num % num == 0):
            logit = drawn_from.logit(standardized)
            self.quantiles += _designs(logit, self._num, is_uniform=not is_normal)

    def _record_options(self, index: Tensor, weights: Tensor) -> None:
        """Record indices drawn independently, with `weights` for all samples or for each."""
        if index.numel() != self._num:
            return
        weights, place = weights.detach().double().cpu(), index.cpu().reshape(-1, 1)

        def chosen(values: Tensor) -> Tensor:
            return values.expand(self._num, -1).gather(1, place).flatten()

        half = chosen(weights) / 2
        smaller = chosen(weights.cumsum(-1)) - half
        greater = chosen(weights.flip(-1).cumsum(-1).flip(-1)) - half
        self.quantiles.append(smaller.log() - greater.log())


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Restore all global random states afterwards."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
