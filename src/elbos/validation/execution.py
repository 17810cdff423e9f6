"""Execution of a validation: batches, processes, device and storage, none of which changes the
result.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from elbos.base.checks import require_positive
from elbos.base.conditions import Condition, cond_at, require_tensors, to_device
from elbos.base.errors import message
from elbos.base.items import Batched
from elbos.base.progress import Start, silent
from elbos.models.likelihood.terms import require_levels
from elbos.theory.denoiser import Denoise

Tensors = dict[str, Tensor]


@runtime_checkable
class Parts(Protocol):
    """Interface of a cache for partial results of a validation."""

    def __contains__(self, name: str) -> bool: ...

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the partial result of a given name, which is computed and stored if missing."""


@dataclass(frozen=True)
class Execution:
    """Denoiser, dataset and evaluation settings of a validation.

    Raises:
        ValueError: If `cond` does not cover all samples, or `given_device` is not a device.
    """

    denoiser: Denoise
    source: Batched
    num_levels: int | None
    mask_of: Callable[[Condition], Tensor] | None
    cond: Condition
    batch_size: int
    is_shared: bool
    given_device: torch.device | str | None
    parts: Parts | None = None
    start: Start = silent

    def __post_init__(self) -> None:
        require_tensors(self.cond, len(self.source))
        require_positive(batch_size=self.batch_size)
        self.device  # noqa: B018, raises if the name is not a device

    @cached_property
    def device(self) -> torch.device:
        """Device of the evaluation: the given one, else that of the parameters, else the CPU."""
        parameters = [p for module in modules(self.denoiser) for p in module.parameters()]
        default = parameters[0].device if parameters else "cpu"
        try:
            return torch.device(self.given_device or default)
        except RuntimeError as error:
            raise ValueError(
                f"device is {self.given_device!r}: give a device of torch, such as cuda."
            ) from error

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Floating-point precision of the evaluation.

        float64 or float32, as the denoiser's parameters; None, for the precision of the data, if
        there are no parameters.
        """
        parameters = (p for module in modules(self.denoiser) for p in module.parameters())
        parameter_dtype = next((p.dtype for p in parameters if p.is_floating_point()), None)
        return parameter_dtype if parameter_dtype in (None, torch.float64) else torch.float32

    def batch(self, rows: Tensor) -> tuple[Tensor, Condition, Tensor | None]:
        """Return samples, their condition, and which of their values count (None: all)."""
        x, cond = self.source.batch(rows)
        if self.cond is not None:
            cond = cond_at(self.cond, rows)
        sent = to_device({"x": x.to(dtype=self.dtype), "cond": cond}, self.device)
        mask, counted = None, x
        if self.mask_of is not None:
            mask = _mask(self.mask_of, x, cond).to(x.device)
            if (is_empty := ~mask.flatten(1).any(1).cpu()).any():
                raise ValueError(
                    f"mask_of counts no value of sample {rows[is_empty][0]}: leave it out."
                )
            counted, mask = x.where(mask, -1), mask.to(self.device)
        if self.num_levels is not None:
            require_levels(counted, self.num_levels)
        return sent["x"], sent["cond"], mask


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of each sample, `[b]`, over its values that count."""
    if mask is None:
        return values.flatten(1).mean(1)
    return values.where(mask, 0).flatten(1).sum(1) / mask.flatten(1).sum(1)


def _mask(mask_of: Callable[[Condition], Tensor], x: Tensor, cond: Condition) -> Tensor:
    try:
        mask = mask_of(cond)
    except Exception as error:
        cause = f"{type(error).__name__}: {message(error)}"
        raise ValueError(f"mask_of fails on a condition ({cause}).") from error
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim > 0
    if not (is_mask and mask.shape == x.shape[: mask.ndim]):
        what = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask)
        raise ValueError(
            f"mask_of returned {what}: give booleans with the first axes of x, {tuple(x.shape)}."
        )
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)).expand_as(x)


def modules(denoiser: Any, depth: int = 4) -> list[nn.Module]:
    """Find the torch modules of a denoiser.

    They are the denoiser itself, or modules in its attributes `network` and `denoiser`, or the
    object of a bound method, or the function of a `functools.partial`. Modules in a closure are not
    found.
    """
    if isinstance(denoiser, nn.Module):
        return [denoiser]
    if depth == 0:
        return []
    inner = [getattr(denoiser, name, None) for name in ("network", "denoiser", "__self__", "func")]
    return [module for part in inner for module in modules(part, depth - 1)]


@contextmanager
def evaluating(denoiser: Any) -> Iterator[None]:
    """Set the denoiser's modules to evaluation mode within the `with` block.

    The previous modes are restored afterwards. Both use `train` and `eval`, since a module may
    override these, for example to swap in averaged weights.
    """
    roots = modules(denoiser)
    modes = [(module, module.training) for root in roots for module in root.modules()]
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # a module before its submodules
            if module.training != mode:
                module.train(mode)
        for module, mode in modes:  # a submodule of two parents took the mode of the later one
            module.training = mode


@contextmanager
def without_autocast(*models: Any) -> Iterator[None]:
    """Evaluate networks of float32 weights in float32 within the `with` block.

    Autocast around the call is suspended, and that in `forward` of a model that accelerate
    prepared. Nothing is suspended if some weights are in half precision: these may rely on it.
    """
    inner = [m for model in models for root in modules(model) for m in root.modules()]
    parameters = [p for module in inner for p in module.parameters(recurse=False)]
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters):
        inner, parameters = [], []
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in parameters}:
            stack.enter_context(torch.autocast(device, enabled=False))
        for module in inner:
            if (forward := vars(module).get("_original_forward")) is not None:  # accelerate's
                stack.callback(setattr, module, "forward", module.forward)
                module.forward = forward
        yield
