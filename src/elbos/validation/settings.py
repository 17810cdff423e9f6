"""How a validation is made, whatever its result: batches, processes, devices, and what is kept."""

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
    """Where finished parts of a validation are kept, such as `elbos.base.store.Store`."""

    def __contains__(self, name: str) -> bool: ...

    def part(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """The part of this name, computed if it is not there."""


@dataclass(frozen=True)
class Settings:
    """How a validation is made; arguments as those of `Validator`'s call."""

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
        """Settings with the device and the precision of a denoiser.

        Raises:
            ValueError: If `cond` is not of all samples, or `device` is no device.
        """
        require_length(cond, num_samples)
        own = device_of(denoiser, device), dtype_of(denoiser)
        return cls(cond, batch_size, is_shared, *own, parts, start)

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size)


def modules(denoiser: Any, depth: int = 4) -> list[nn.Module]:
    """The modules that a denoiser names: itself, its `network` or `denoiser`, or the object of a
    method. Others, such as those that a function is closed over, are the caller's.
    """
    if isinstance(denoiser, nn.Module):
        return [denoiser]
    if depth == 0:
        return []
    inner = [getattr(denoiser, name, None) for name in ("network", "denoiser", "__self__")]
    return [module for one in inner for module in modules(one, depth - 1)]


def device_of(denoiser: Denoise, given: torch.device | str | None) -> torch.device:
    """The device that is given, or that of the denoiser's parameters, or the CPU."""
    parameters = [p for module in modules(denoiser) for p in module.parameters()]
    try:
        return torch.device(given or (parameters[0].device if parameters else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {given!r}: give a device of torch, such as cuda.") from error


def dtype_of(denoiser: Denoise) -> torch.dtype | None:
    """The precision in which a denoiser is measured: double if its parameters are, else single;
    None, that of the data, if it has none.
    """
    parameters = (p for module in modules(denoiser) for p in module.parameters())
    own = next((p.dtype for p in parameters if p.is_floating_point()), None)
    return own if own in (None, torch.float64) else torch.float32


@contextmanager
def evaluating(denoiser: Denoise) -> Iterator[None]:
    """The denoiser's modules in evaluation mode; afterwards each is in the mode it was in.

    Both by `train`, as in a loop: a module may do more there, such as swap its weights with their
    average.
    """
    roots = modules(denoiser)
    modes = [(module, module.training) for root in roots for module in root.modules()]
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # each before those within it
            if module.training != mode:
                module.train(mode)
        for module, mode in modes:  # one that is within two has followed the later of them
            module.training = mode
