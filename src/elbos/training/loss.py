"""Training loss as a module: random noise, label dropout, network and weighted loss."""

from collections.abc import Callable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from elbos.base.conditions import Condition, replace_conds
from elbos.base.philox import Purpose, Stream
from elbos.theory.denoiser import with_three_arguments
from elbos.theory.objective import Objective
from elbos.training.config import Config


class Loss(nn.Module):
    """Training loss that contains the network, so that both compile to one graph."""

    network: nn.Module

    def __init__(
        self, network: nn.Module, objective: Objective, config: Config, null_cond: Condition
    ) -> None:
        super().__init__()
        self.network = network
        self._called = with_three_arguments(network)
        self._objective, self._share, self._null_cond = objective, config.label_dropout, null_cond
        self._noise = Stream.from_seed(config.seed, Purpose.NOISE)
        self._hiding = Stream.from_seed(config.seed, Purpose.LABELS)
        self.drawn: Callable[..., tuple[Tensor, Condition]] = self._drawn

    def forward(
        self,
        x: Float[Tensor, "b *d"],
        levels: Float[Tensor, "7 b"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return the weighted loss of each sample, in nats per dimension.

        The noise `levels` are in the format of `Objective.levels`; `samples` are the indices of the
        samples in the global batch.
        """
        eps, cond = self.drawn(x, cond, step, samples)
        return self._objective.loss_at(levels, self._called, x, eps, cond)

    def _drawn(
        self,
        x: Float[Tensor, "b *d"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b *d"], Condition]:
        if cond is not None and self._share > 0:
            is_hidden = self._hiding.uniform(step, samples, 1)[:, 0] <= self._share
            cond = replace_conds(cond, self._null_cond, is_hidden)
        return self._noise.normal(step, samples, tuple(x.shape[1:])), cond
