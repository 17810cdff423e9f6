"""The training loss by noise level as a metric of torchmetrics."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.extras import needs
from elbos.theory.schedules import Schedule
from elbos.validation import by_level

with needs(None):
    from torchmetrics import Metric


class LossByLevel(Metric):  # type: ignore[misc]
    """`elbos.LossByLevel` as a `Metric`, for a `MetricCollection` and for several processes.

    `compute` returns the mean of each bin by its name, as `elbos.validation.scalars` does.

    Args:
        levels: A schedule or the bin edges, as `elbos.LossByLevel` takes them.
        options: Keyword arguments of `Metric`.

    Examples:
        metrics = MetricCollection([LossByLevel(schedule)])
        metrics.update(logsnr=logsnr, loss=V().eps_loss(v_hat, v, logsnr))
        self.log_dict(metrics.compute())
    """

    sums: Tensor
    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(
        self, levels: Schedule | Sequence[float] | Float[Tensor, " edges"], **options: Any
    ) -> None:
        super().__init__(**options)
        self._losses = by_level.LossByLevel(levels)
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        zeros = torch.zeros(3, len(self._losses.edges) - 1, dtype=dtype)
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")

    def update(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Add the losses of a batch, as `elbos.LossByLevel.update` does."""
        self.sums = self.sums + self._losses.sums(logsnr, loss).to(self.sums)

    def compute(self) -> dict[str, float]:
        """Return the mean loss so far in each bin that has samples."""
        return by_level.scalars(by_level.BinnedLoss.from_sums(self._losses.edges, self.sums))
