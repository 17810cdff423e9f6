r"""A network in another project's convention, called with noisy data of the variance-preserving
process and log-SNR.

With the notation of `elbos.audit.convention`, the network is given
$z' = (\alpha'/\alpha)\,z + \alpha'\mu$ and its time, and $\hat y - a\mu$ estimates
$a x + b\epsilon$. Since $(\alpha', \sigma')$ is proportional to $(\alpha, \sigma)$, this output
and the pair $(a, b)$ are a network and a parameterization like any other: `Objective` trains them,
and the 2x2 solve of `elbos.theory.parameterizations` gives data and noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.arguments import Slot, has_rows, shown
from elbos.audit.convention import Convention
from elbos.base.arrays import Array
from elbos.base.conditions import Condition
from elbos.models.calls import ForeignNetwork, called, input_dtype, require_logsnr, require_output
from elbos.theory.process import align, alpha_sigma


@dataclass(frozen=True)
class ConventionNetwork:
    """Call a network as its training loss does, with variance-preserving noisy data and log-SNR."""

    network: ForeignNetwork
    convention: Convention
    is_discrete: bool = False  # times are rounded to whole numbers

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> Float[Tensor, "b *d"]:
        r"""Estimate $a x + b\epsilon$ from variance-preserving noisy data.

        `cond` is a dict of the arguments besides data and time, or the value of the only one.

        Raises:
            ValueError: If `cond` lacks an argument, or a noise level is beyond those of the loss.
        """
        convention = self.convention
        logsnr = logsnr.expand(len(z))
        level = logsnr.detach().double().cpu().numpy()
        require_logsnr(
            logsnr, convention.logsnr_min, convention.logsnr_max, "the noise levels of the loss"
        )

        def at(values: Array) -> Tensor:
            return align(torch.from_numpy(values).to(z), z)

        alpha = np.exp(convention.log_alpha(level))
        vp_alpha = np.asarray(alpha_sigma(torch.from_numpy(level))[0])
        z_loss = at(alpha / vp_alpha) * z + at(alpha * convention.offset)
        example, dtype = convention.example, input_dtype(self.network, z_loss)
        assert example.noisy is not None
        arguments: dict[Slot, Any] = {example.noisy: z_loss.to(dtype, copy=True)}
        for slot, curve in convention.times.items():
            time, like = torch.from_numpy(curve(level)), torch.as_tensor(example.rest[slot])
            if self.is_discrete:
                time = time.round().long()
            elif like.is_floating_point() and dtype != torch.float64:
                time = time.to(like.dtype)
            else:
                time = time.to(dtype if dtype == torch.float64 else torch.float32)
            shape = like.shape[1:] if like.ndim else ()
            arguments[slot] = time.to(z.device).reshape(-1, *shape)
        for slot, value in convention.constants.items():
            is_one_each = has_rows(value, example.num) and isinstance(value, Tensor)
            arguments[slot] = value[:1].expand(len(z), *value.shape[1:]) if is_one_each else value
        arguments |= self._conditions(cond)
        num = sum(isinstance(slot, int) for slot in arguments)
        y = called(
            self.network,
            [arguments[i] for i in range(num)],
            {slot: value for slot, value in arguments.items() if isinstance(slot, str)},
        ).to(z.dtype)
        if y.shape[:1] == z.shape[:1] and y.shape[1] == 2 * z.shape[1]:  # with a variance
            y = y[:, : z.shape[1]]
        return require_output(y, z, logsnr) - at(convention.a(level) * convention.offset)

    def _conditions(self, cond: Condition) -> dict[Slot, Any]:
        convention = self.convention
        if cond is None or isinstance(cond, Mapping):
            conditions: dict[Slot, Any] = dict(cond or {})
        else:
            slots = convention.conditions or [
                slot
                for slot, constant in convention.constants.items()
                if constant is None or has_rows(constant, convention.example.num)
            ]
            if len(slots) != 1:
                names = ", ".join(map(shown, slots)) or "no argument besides data and time"
                raise ValueError(
                    f"the loss gives its network {names}: give cond as a dict by name (or "
                    "position)."
                )
            conditions = {slots[0]: cond}
        if lacking := [shown(slot) for slot in convention.conditions if slot not in conditions]:
            raise ValueError(
                f"the loss gives its network {', '.join(lacking)}: give it as cond, as in "
                "validator(denoiser, cond=labels), or several in a dict by name (or position)."
            )
        return conditions


@dataclass(frozen=True)
class ConventionDenoiser:
    """A denoiser that calls a network in the same way as the training loss."""

    network: ConventionNetwork  # trained by `Objective.loss`, with `parameterization`

    @property
    def convention(self) -> Convention:
        return self.network.convention

    parameterization = convention  # the target that the audit measured

    @property
    def logsnr_min(self) -> float:
        return self.convention.logsnr_min

    @property
    def logsnr_max(self) -> float:
        return self.convention.logsnr_max

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        r"""Estimate $(\hat x, \hat\epsilon)$; arguments and errors are `ConventionNetwork`'s."""
        y = self.network(z, logsnr, cond)
        return self.parameterization.split(y, z, logsnr.double())
