r"""Recording and replacement of the random numbers that a loss draws.

Draws from torch and from the global states of numpy and Python are recorded: normal numbers,
because one draw is the noise in $z$; and draws of one number per sample, because the noise level
may be a function of such a draw. These are stored as the logits of their quantiles (`draws`), and
may be replaced by others. The quantile of an option drawn with given probabilities is the middle of
its interval.
"""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.quasirandom import SobolEngine

from elbos.audit.calls.draws import Distribution, Drawn

_UNIFORM, _NORMAL = Distribution("uniform"), Distribution("normal")
_TORCH: dict[Callable[..., Any], Distribution] = {
    torch.rand: _UNIFORM,
    torch.rand_like: _UNIFORM,
    Tensor.uniform_: Distribution("uniform", ("from", "to"), first=1),
    torch.randn: _NORMAL,
    torch.randn_like: _NORMAL,
    torch.normal: Distribution("normal", ("mean", "std")),
    Tensor.normal_: Distribution("normal", ("mean", "std"), first=1),
    torch.randint: Distribution("integer", ("low", "high")),
    torch.randint_like: Distribution("integer", ("low", "high"), first=1),
}
_RANDOM = {*_TORCH, torch._sample_dirichlet, torch.multinomial, Tensor.multinomial}
_NUMPY = {
    "rand": _UNIFORM,
    "random": _UNIFORM,
    "random_sample": _UNIFORM,
    "uniform": Distribution("uniform", ("low", "high")),
    "randn": _NORMAL,
    "standard_normal": _NORMAL,
    "normal": Distribution("normal", ("loc", "scale")),
    "randint": Distribution("integer", ("low", "high")),
    "beta": Distribution("beta", ("a", "b")),
}
_PYTHON = {
    "random": _UNIFORM,
    "uniform": Distribution("uniform", ("a", "b")),
    "gauss": Distribution("normal", ("mu", "sigma")),
    "normalvariate": Distribution("normal", ("mu", "sigma")),
    "betavariate": Distribution("beta", ("alpha", "beta")),
    "randint": Distribution("integer", ("a", "b"), is_closed=True),
}

_MAX_PER_BATCH = 8  # more draws of a single number indicate a loop over the samples

Quantiles = tuple[Tensor, Tensor]
"""Quantiles for draws of one number per sample, `[num, draws]`, and per batch, `[draws]`."""


def distant_seed(seed: int) -> int:
    """Hash an integer to the first of many consecutive seeds that overlap for no two integers."""
    return int(np.random.SeedSequence(seed % 2**64).generate_state(1)[0]) // 2


class Design(NamedTuple):
    """Quantiles of the samples of a batch under one sampling design of a random draw."""

    name: str
    logits: Float[Tensor, " n"]
    place: int | None = None  # among the draws of one number per sample, if it is such a draw


@dataclass(frozen=True)
class Numbers:
    """Random numbers that one call of a random-number function drew."""

    shape: torch.Size
    logit: Callable[[], Float[Tensor, " k"]]  # logits of the numbers' quantiles
    place: int | None = None  # among the draws of one number per sample
    is_uniform: bool = True

    def designs(self, num: int) -> Iterator[Design]:
        """Yield the quantiles of a batch under each plausible sampling design.

        Samples are independent; stratified, $(i + u_i) / n$; an evenly spaced grid, $u + i / n$
        modulo 1; antithetic, $u$ and $1 - u$; or shared, as by the frames of a clip. In a batch of
        one sample, all designs are equal.
        """
        size = self.shape.numel()
        is_half = num <= 2 * size <= num + 2
        if num % size and not is_half:
            return
        logit, grid = self.logit(), torch.arange(num, dtype=torch.float64) / num
        if size == num:
            yield Design("independent", logit, self.place)
            if self.is_uniform:
                yield Design("stratified", torch.logit(grid + torch.sigmoid(logit) / num))
        if size == 1 and self.is_uniform:
            yield Design("grid", torch.logit((torch.sigmoid(logit) + grid) % 1))
        if is_half:
            yield Design("antithetic", torch.cat([logit, -logit])[:num])
        if num % size == 0 and (size < num or num == 1):
            yield Design("repeated", logit.repeat(num // size))
            yield Design("repeated elements", logit.repeat_interleave(num // size))


def append_recent(draws: list[Any], draw: Tensor | Numbers, most: int | None) -> None:
    """Append to draws, of which only the `most` recent ones of each shape may be kept."""
    same = [i for i, other in enumerate(draws) if other.shape == draw.shape]
    if len(same) == most:
        del draws[same[0]]
    draws.append(draw)


@dataclass
class Draws:
    """Random numbers that a loss drew in one evaluation."""

    max_of_shape: int | None = None  # the number of recent draws that are kept
    normals: list[Tensor] = field(default_factory=list)  # standardized
    numbers: list[Numbers] = field(default_factory=list)  # that may determine the noise levels
    num_per_sample: int = 0  # draws of one number per sample
    num_per_batch: int = 0  # draws of one number for a batch of several samples

    def designs(self, num: int) -> list[Design]:
        """List the quantiles of a batch of `num` samples that may determine the noise levels."""
        return [design for numbers in self.numbers for design in numbers.designs(num)]


class Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.draws = Draws()  # since the last reset
        self._given_per_sample: Iterator[Tensor] = iter(())
        self._given_per_batch: Iterator[Tensor] = iter(())
        self._num = 0
        self._is_loop = False
        self._seed = -1
        # A loss may have generators and engines of its own, which restart under each seed.
        self._own: dict[int, dict[int, tuple[Any, Callable[[], object]]]] = {}

    def reset(self, seed: int, num: int, quantiles: Quantiles | None = None) -> None:
        """Reset all random states to a seed; `quantiles` replace draws of one number per sample or
        batch.
        """
        self._num, self._seed = num, seed
        self._is_loop = self._is_in_loop
        self.draws = Draws()
        per_sample, per_batch = quantiles or (torch.empty(0, 0), torch.empty(0))
        self._given_per_sample, self._given_per_batch = iter(per_sample.T), iter(per_batch[:, None])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, it is the loss that draws from it
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # ten times as fast, for hundreds of calls
            torch.default_generator.manual_seed(seed)
        for _, restart in self._own.setdefault(seed, {}).values():
            restart()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record all random numbers drawn within the `with` block."""
        draw = SobolEngine.draw

        def recorded_draw(engine: SobolEngine, *args: Any, **kwargs: Any) -> Tensor:
            def restarting() -> Callable[[], object]:
                state = copy.deepcopy(vars(engine))
                return lambda: vars(engine).update(copy.deepcopy(state))

            self._keep(engine, restarting)
            with torch._C.DisableTorchFunction():
                result = draw(engine, *args, **kwargs)
                for column in result.detach().clone().unbind(-1):
                    drawn = _UNIFORM.of_call((), {}, column)
                    self._record(Numbers(column.shape, partial(drawn.logit, column)))
            return result

        functions: list[tuple[Any, str, Callable[..., Any]]] = [
            (module, name, partial(self._of_numbers, getattr(module, name), drawn_from))
            for module, table in ((np.random, _NUMPY), (random, _PYTHON))
            for name, drawn_from in table.items()
        ]
        choice = partial(self._numpy_choice, np.random.choice)
        functions += [(np.random, "choice", choice), (SobolEngine, "draw", recorded_draw)]
        with ExitStack() as stack:
            for owner, name, function in functions:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, function)
            with self:
                yield

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            self._keep(generator, lambda: partial(generator.set_state, generator.get_state()))
        result = func(*args, **kwargs)
        if func not in _RANDOM or torch._C._functorch.is_functorch_wrapped_tensor(result):
            return result
        if result.is_complex():  # two numbers each
            return result
        if func in _TORCH:
            value = result.detach()
            recorded = self._recorded(_TORCH[func].of_call(args, kwargs, value), value)
            if recorded is not value:
                value.copy_(recorded)
        elif func is torch._sample_dirichlet:
            value, concentration = result.detach(), args[0].double()
            if value.shape[-1] == 2:
                drawn = Drawn("beta", *concentration.unbind(-1))
                first = self._recorded(drawn, value[..., 0])
                value.copy_(torch.stack([first, 1 - first], dim=-1))
            else:
                total, shares = concentration.sum(-1), value.clone().unbind(-1)
                for share, a in zip(shares, concentration.unbind(-1), strict=True):
                    logit = partial(Drawn("beta", a, total - a).logit, share)
                    self._record(Numbers(share.shape, logit))
        else:
            arguments = (
                dict(zip(("input", "num_samples", "replacement"), args, strict=False)) | kwargs
            )
            if arguments.get("replacement") or arguments["num_samples"] == 1:
                result.copy_(self._recorded_options(result, arguments["input"]))
        return result

    def _keep(self, generator: Any, restarting: Callable[[], Callable[[], object]]) -> None:
        states = self._own.get(self._seed)  # None before a reset: there is no state to restart from
        if states is not None and id(generator) not in states:
            states[id(generator)] = generator, restarting()

    def _of_numbers(
        self, function: Callable[..., Any], distribution: Distribution, *args: Any, **kwargs: Any
    ) -> Any:
        result = function(*args, **kwargs)
        if np.ndim(result) == 0 and self._is_in_loop:
            return result
        array = np.asarray(result)
        if array.dtype.kind not in "bif" and not np.can_cast(array.dtype, np.int64):
            return result
        with torch._C.DisableTorchFunction():
            value = torch.as_tensor(array)
            recorded = self._recorded(distribution.of_call(args, kwargs, value), value)
        if recorded is value:
            return result
        return recorded.numpy() if isinstance(result, np.ndarray) else type(result)(recorded.item())

    def _numpy_choice(
        self,
        choice: Callable[..., Any],
        a: Any,
        size: Any = None,
        replace: bool = True,
        p: Any = None,
    ) -> Any:
        if p is None or not replace or np.ndim(a) > 1:
            return choice(a, size, replace, p)
        index = torch.as_tensor(choice(a if np.ndim(a) == 0 else len(a), size, replace, p))
        weights = torch.as_tensor(np.asarray(p, dtype=float))
        place = self._recorded_options(index, weights).numpy()
        return (place if index.ndim else int(place)) if np.ndim(a) == 0 else np.asarray(a)[place]

    def _recorded(self, drawn: Drawn, value: Tensor) -> Tensor:
        num, is_coarse = value.numel(), value.dtype in (torch.float16, torch.bfloat16)
        if num == 1 and self._is_in_loop:
            return value
        place, quantile = self._next_quantile(num)
        if quantile is not None:
            value = drawn.at(quantile, value)
        copied = value.clone()  # the loss may change its tensor in place
        is_normal = drawn.kind == "normal"
        if is_normal:
            normal = drawn.standardized(copied)
            append_recent(self.draws.normals, normal, self.draws.max_of_shape)
        logit = partial(drawn.logit, copied)
        if is_coarse and quantile is not None:  # rounded numbers have ties
            logit = partial(torch.logit, quantile)
        if not is_coarse or quantile is not None:
            self._record(Numbers(value.shape, logit, place, not is_normal))
        return value

    @property
    def _is_in_loop(self) -> bool:
        return self._is_loop or self.draws.num_per_batch >= _MAX_PER_BATCH

    def _record(self, numbers: Numbers) -> None:
        if numbers.shape.numel():
            append_recent(self.draws.numbers, numbers, self.draws.max_of_shape)

    def _next_quantile(self, num: int) -> tuple[int | None, Tensor | None]:
        draws = self.draws
        if num == self._num:
            draws.num_per_sample += 1
            return draws.num_per_sample - 1, next(self._given_per_sample, None)
        if num == 1:
            draws.num_per_batch += 1
            return None, next(self._given_per_batch, None)
        return None, None

    def _recorded_options(self, index: Tensor, weights: Tensor) -> Tensor:
        weights, is_per_sample = weights.detach().clone(), index.numel() == self._num
        _, quantile = self._next_quantile(self._num) if is_per_sample else (None, None)
        if quantile is not None:
            below = weights.double().cpu().expand(self._num, -1).cumsum(-1)
            chosen = torch.searchsorted(below, quantile[:, None] * below[:, -1:], right=True)
            chosen = chosen.clamp(max=weights.shape[-1] - 1)
            index = chosen.reshape(index.shape).to(index)
        logit = partial(_middle_logit, index.clone(), weights)
        self._record(Numbers(index.shape, logit, is_uniform=False))
        return index


def _middle_logit(index: Tensor, weights: Tensor) -> Float[Tensor, " n"]:
    """Compute the logit of the middle of the interval of quantiles that leads to each option."""
    weights, at = weights.double().cpu().expand(index.numel(), -1), index.cpu().reshape(-1, 1)
    half = weights.gather(1, at) / 2
    smaller = weights.cumsum(-1).gather(1, at) - half
    greater = weights.flip(-1).cumsum(-1).flip(-1).gather(1, at) - half
    return (smaller.log() - greater.log()).flatten()


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Restore all global random states at the end of the `with` block."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
