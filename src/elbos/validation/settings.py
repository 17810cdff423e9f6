"""Settings that do not change the result of a validation: batches, processes, devices, storage."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from elbos.base.checks import require_positive
from elbos.base.conditions import Condition, require_length
from elbos.base.progress import Start, silent
from elbos.theory.denoiser import Denoise

Tensors = dict[str, Tensor]


@runtime_checkable
class Parts(Protocol):
    """Interface of a store for finished parts of a validation, such as `elbos.base.store.Store`."""

    def __contains__(self, name: str) -> bool: ...

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the part `name` from the store; compute and store it if missing."""


@dataclass(frozen=True)
class Settings:
    """Settings of a validation run; see `Validator.__call__` for the arguments."""

    cond: Condition
    batch_size: int
    is_shared: bool
    device: torch.device
    dtype: torch.dtype | None
    parts: Parts | None
    start: Start

    @classmethod
    def from_denoiser(
        cls,
        denoiser: Denoise,
        num_samples: int,
        *,
        cond: Condition,
        batch_size: int,
        is_shared: bool,
        device: torch.device | str | None,
        parts: Parts | None = None,
        start: Start = silent,
    ) -> "Settings":
        """Return settings with device and precision inferred from a denoiser.

        Raises:
            ValueError: If `cond` does not cover all samples, or `device` is not a device.
        """
        require_length(cond, num_samples)
        own = device_of(denoiser, device), dtype_of(denoiser)
        return cls(cond, batch_size, is_shared, *own, parts, start)

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size)


def modules(denoiser: Any, depth: int = 4) -> list[nn.Module]:
    """Return the modules reachable from a denoiser: itself, its `network` or `denoiser`, or the
    object of a bound method. Modules in a closure are not found and remain the caller's
    responsibility.
    """
    if isinstance(denoiser, nn.Module):
        return [denoiser]
    if depth == 0:
        return []
    inner = [getattr(denoiser, name, None) for name in ("network", "denoiser", "__self__")]
    return [module for one in inner for module in modules(one, depth - 1)]


def device_of(denoiser: Denoise, given: torch.device | str | None) -> torch.device:
    """Return the given device; else the device of the denoiser's parameters, or the CPU."""
    parameters = [p for module in modules(denoiser) for p in module.parameters()]
    try:
        return torch.device(given or (parameters[0].device if parameters else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {given!r}: give a device of torch, such as cuda.") from error


def dtype_of(denoiser: Denoise) -> torch.dtype | None:
    """Return the precision in which a denoiser is evaluated: float64 if its parameters are, else
    float32; None (the precision of the data) if it has no parameters.
    """
    parameters = (p for module in modules(denoiser) for p in module.parameters())
    own = next((p.dtype for p in parameters if p.is_floating_point()), None)
    return own if own in (None, torch.float64) else torch.float32


@contextmanager
def evaluating(denoiser: Denoise) -> Iterator[None]:
    """Set the denoiser's modules to evaluation mode in the `with` block; restore each mode
    afterwards.

    The mode is set by `train` and `eval`, since a module may override these, for example to swap in
    averaged weights.
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
