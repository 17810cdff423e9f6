"""Tabulated weightings, which a configuration can hold without code."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.user_code import as_script, code_path, load_function, naming_line
from elbos.theory.weightings.weighting import WeightFunction, Weighting, weights_at
from elbos.theory.weightings.wrappers import Monotone, Shifted


@dataclass(frozen=True, kw_only=True, repr=False)
class Tabulated(Weighting):
    r"""Weighting function that is interpolated from a table of values.

    It is linear between nodes and constant beyond the first and the last.

    A run directory holds no code, so that opening a stranger's run executes none. It stores the
    values of the function at 2,001 noise levels instead: runs are sampled, evaluated and shared
    without the function.

    Attributes:
        name: Name of the weighting in tables and figures.
        weights: $w \ge 0$ at levels evenly spaced from `logsnr_min` to `logsnr_max`, two or more.
        logsnr_min: The first level.
        logsnr_max: The last.

    Examples:
        >>> Tabulated(name="line", weights=(1.0, 0.0), logsnr_min=-1.0, logsnr_max=1.0)(
        ...     torch.tensor([-9.0, 0.5])
        ... )
        tensor([1.0000, 0.2500])
    """

    name: str
    weights: tuple[float, ...] = field(metadata={"is_finite": False})  # the error names a level
    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError(f"A weighting cannot be called {self.name!r}: give it a name.")
        is_range = -math.inf < self.logsnr_min < self.logsnr_max < math.inf
        if len(self.weights) < 2 or not is_range:
            raise ValueError(
                f"There are {len(self.weights)} weights from log-SNR {self.logsnr_min} to "
                f"{self.logsnr_max}: give two or more, the lower end first."
            )
        for logsnr, w in zip(self._levels.tolist(), self.weights, strict=True):
            if not 0 <= w < math.inf:
                raise ValueError(
                    f"The weighting {self.name} is {w} at log-SNR {logsnr:.4g}: give finite "
                    "weights, none below 0."
                )
        if not any(self.weights):
            raise ValueError(f"The weighting {self.name} is 0 at all noise levels: give another.")

    @classmethod
    def from_function(
        cls,
        function: WeightFunction,
        name: str | None = None,
        *,
        logsnr_min: float = -20.0,
        logsnr_max: float = 20.0,
    ) -> "Tabulated":
        """Tabulate a weighting function on a uniform grid of log-SNRs.

        The grid has 2,001 levels. The levels are $h = 0.02$ apart by default; between them a
        weighting of curvature $w''$ is off by $h^2 |w''| / 8$ at most, and a jump becomes a slope.

        Args:
            function: From log-SNR, a float64 tensor `[n]`, to weights of the same shape.
            name: Name of the weighting. Default: the name of the function.
            logsnr_min: The first level. Default: below what presets train on.
            logsnr_max: The last level.

        Examples:
            >>> mine = Tabulated.from_function(lambda logsnr: torch.sigmoid(3 - logsnr), "mine")
            >>> mine(torch.zeros(1))
            tensor([0.9526])
        """
        name = name or str(getattr(function, "__name__", type(function).__name__))
        levels = torch.linspace(logsnr_min, logsnr_max, 2001, dtype=torch.float64)
        weights = tuple(float(f"{w:.9g}") for w in weights_at(function, levels, name).tolist())
        return cls(name=name, weights=weights, logsnr_min=logsnr_min, logsnr_max=logsnr_max)

    @classmethod
    def from_file(cls, target: str) -> "Tabulated":
        """Return a weighting tabulated from a function in a Python file.

        The file is run once, like a script (`user_code`); training uses and stores the tabulated
        numbers only.

        Args:
            target: `FILE.py:FUNCTION`.
        """
        file = code_path(target).resolve()
        with as_script(target):
            function = load_function(target, arguments=("logsnr",), verb="train")
            weights = naming_line(target, file)(function)
            return cls.from_function(weights, Path(target).name)

    def __repr__(self) -> str:
        return f"Tabulated({self.name!r}, {self._digest!r})"

    @cached_property
    def _digest(self) -> str:
        numbers = (self.logsnr_min, self.logsnr_max, self.weights)
        return hashlib.sha256(repr(numbers).encode()).hexdigest()[:8]

    @cached_property
    def _table(self) -> Float[Tensor, " n"]:
        return torch.tensor(self.weights, dtype=torch.float64)

    @property
    def _levels(self) -> Float[Tensor, " n"]:
        ends = self.logsnr_min, self.logsnr_max
        return torch.linspace(*ends, len(self.weights), dtype=torch.float64)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        table, last = self._table.to(logsnr), len(self.weights) - 1
        share = (logsnr - self.logsnr_min) / (self.logsnr_max - self.logsnr_min)
        position = (last * share).clamp(0, last)
        left = position.nan_to_num(0).long().clamp(max=last - 1)
        return torch.lerp(table[left], table[left + 1], position - left)


def require_reach(weighting: WeightFunction, logsnr_min: float, logsnr_max: float) -> None:
    """Raise a ValueError if a tabulated weighting does not cover the range of log-SNR."""
    if isinstance(weighting, Monotone):
        require_reach(weighting.inner, logsnr_min, logsnr_max)
    if isinstance(weighting, Shifted):
        shift = 2 * weighting.shift
        require_reach(weighting.inner, logsnr_min - shift, logsnr_max - shift)
    if isinstance(weighting, Tabulated):
        low, high = weighting.logsnr_min, weighting.logsnr_max
        if not low <= logsnr_min < logsnr_max <= high:
            raise ValueError(
                f"The weighting {weighting.name} is known on log-SNR [{low:g}, {high:g}], and is "
                f"needed on [{logsnr_min:g}, {logsnr_max:g}]: choose ends of the schedule or a "
                "shift within, or make a table that reaches further with "
                "Tabulated.from_function."
            )
