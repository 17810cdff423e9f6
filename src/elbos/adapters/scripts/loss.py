"""The loss of a training script, as a function that `probe` calls."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from elbos.adapters.scripts.unknown import Stage
from elbos.audit.diagnostics import Diagnostic, Script, ScriptConditions, ScriptScheduler


@dataclass(frozen=True)
class ScriptLoss:
    """The loss of a training script: `loss(network, x)` runs the lines that compute the loss.

    Attributes:
        lines: Line numbers of the lines that are run.
        data: The variable that holds the clean data, and the line where the data are assigned.
        networks: Names that the script calls on noisy data.
        conditions: Lines of conditions on unknown values, treated as false.
        assumed: The scheduler configuration that was assumed, or "".
    """

    stage: Stage
    space: dict[str, Any]
    code: Any
    initial: dict[str, Any]
    lines: list[int]
    data: str
    networks: list[str]
    conditions: list[int]
    assumed: str

    def __call__(self, network: Any, x: Float[Tensor, "b *d"]) -> Any:
        self.stage.network, self.stage.x = network, x
        self.space.update(self.initial)
        with OnOneDevice(x.device):
            exec(self.code, self.space)  # noqa: S102, the user's own script
        return self.space["__loss__"]

    @property
    def x(self) -> Tensor:
        """The clean data, in a shape that the script's lines accept."""
        return self.stage.x

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Diagnostics that list the executed lines, conditions treated as false, and the assumed
        scheduler.
        """
        networks = " and ".join(self.networks)
        found: list[Diagnostic] = [Script(_ranges(self.lines), self.data, networks)]
        if self.conditions:
            found.append(ScriptConditions(_ranges(self.conditions)))
        if self.assumed:
            found.append(ScriptScheduler(self.assumed))
        return found


class _Nowhere(contextlib.nullcontext[None]):
    """A null context manager in place of `torch.cuda.device` and `torch.cuda.stream`."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()


class OnOneDevice(TorchFunctionMode):
    """A context that replaces every device named in the script by the device of the data."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.patch = mock.patch.multiple("torch.cuda", device=_Nowhere, stream=_Nowhere)

    def __enter__(self) -> Any:
        self.patch.start()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.patch.stop()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(self.device)
        if kwargs.get("device") is not None:
            kwargs["device"] = self.device
        if func is Tensor.to:
            is_device = [type(one) in (str, int, torch.device) for one in args]
            args = [self.device if is_it else a for a, is_it in zip(args, is_device, strict=True)]
        return func(*args, **kwargs)


def _ranges(lines: Sequence[int]) -> str:
    """Format sorted line numbers as ranges, such as `3, 5-9`."""
    starts = [n for n in lines if n - 1 not in lines]
    ends = [n for n in lines if n + 1 not in lines]
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True))
