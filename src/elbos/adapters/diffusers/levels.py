r"""The noise levels of a diffusers scheduler: what its network sees at any log-SNR.

A network sees $c_\mathrm{in} z$ and a timestep. Which ones depends on the scheduler's family:

| family | timestep at $\lambda$ | $c_\mathrm{in}$ |
|---|---|---|
| betas | fractional, interpolated in the table $\lambda_0 > \lambda_1 > \dots$ | $1$ |
| betas, `timestep_type` continuous | $\frac14\ln\tilde\sigma = -\lambda/8$ | $1$ |
| EDM | $\frac14\ln\tilde\sigma = -\lambda/8$ | $(\sigma^2 + \sigma_d^2\alpha^2)^{-1/2}$ |
| flow matching | $N\tau$, $\tau = \mathrm{sigmoid}(-\lambda/2)$ | $1/(\alpha + \sigma)$ |

Euler's and other solvers in $\tilde z = z/\alpha$ scale the network's input by
$(\tilde\sigma^2 + 1)^{-1/2} = \alpha$ (`scale_model_input`): it is $z$ again. The time shift of
flow matching, static or dynamic, moves the steps; at a given noise level the network sees the same.

Between two steps of a table the timestep is linear in log-SNR, which is how diffusers itself finds
the timestep of a Karras sigma. U-Nets and transformers embed it by sines and cosines, so that a
fractional one is as good an input as a whole one.
"""

import abc
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from elbos.adapters.diffusers.betas import CLASSES
from elbos.adapters.diffusers.training import Config, flag, num_steps_of, number
from elbos.audit import LossTable
from elbos.parameterizations import EDM, V
from elbos.process import alpha_sigma

_ROUNDING = 1e-4  # of a log-SNR at the end of the range, computed in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels(abc.ABC):
    r"""The noise levels of a scheduler.

    Attributes:
        logsnr_min: The noisiest finite level of the scheduler's steps; $-\infty$ of flow matching,
            whose timestep is exact at every level.
        logsnr_max: The cleanest.
        num_steps: The number $N$ of steps in training.
    """

    logsnr_min: float
    logsnr_max: float
    num_steps: int

    @abc.abstractmethod
    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""The timestep at $\lambda$, fractional."""

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""What $z$ is multiplied with."""
        return torch.ones_like(logsnr)

    def require(self, logsnr: Float[Tensor, " b"]) -> None:
        """Raise a ValueError if a noise level is outside of the steps."""
        low, high = torch.stack(torch.aminmax(logsnr)).tolist()
        if not (low >= self.logsnr_min - _ROUNDING and high <= self.logsnr_max + _ROUNDING):
            raise ValueError(
                f"log-SNR {high if high > self.logsnr_max else low:.4g} is outside of the "
                f"scheduler's steps, {self.logsnr_min:.4g} to {self.logsnr_max:.4g}, where the "
                "network was trained: give logsnr_min and logsnr_max within them."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps(Levels):
    r"""A table of log-SNR, falling from step to step.

    Attributes:
        step: The numbers of the steps; one of pure noise or of clean data is left out.
        logsnr: $\lambda_i$ of these steps, float64.
    """

    step: Int[Tensor, " steps"]
    logsnr: Float[Tensor, " steps"]

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        query = -logsnr.detach().double().cpu().numpy()
        return torch.from_numpy(np.interp(query, -self.logsnr.numpy(), self.step.numpy()))


@dataclass(frozen=True, kw_only=True, eq=False)
class LogSigma(Levels):
    r"""The timestep $\frac14\ln\tilde\sigma$.

    Attributes:
        sigma_data: EDM's $\sigma_d$ in the scale of the input. Default: the network sees $z$, as
            with $\sigma_d = 1$.
    """

    sigma_data: float = 1.0

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return -logsnr / 8

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        alpha, sigma = alpha_sigma(logsnr)
        return (sigma**2 + self.sigma_data**2 * alpha**2).rsqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowTime(Levels):
    r"""The timestep $N\tau$, with the share of noise $\tau$."""

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self.num_steps * torch.sigmoid(-logsnr / 2)

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        alpha, sigma = alpha_sigma(logsnr)
        return 1 / (alpha + sigma)


def levels_of(config: Config, table: LossTable) -> Levels:
    """The noise levels of a scheduler with this configuration, whose steps are in the table.

    Raises:
        ValueError: If its log-SNR does not fall with every step, or its time runs backwards.
    """
    if flag(config, "invert_sigmas"):
        raise ValueError(
            "invert_sigmas is true, so that time runs from noise to data: use "
            "elbos.adapters.flow.denoiser(network, data_at=1, time_scale=...)."
        )
    (step,) = torch.isfinite(table.logsnr).nonzero(as_tuple=True)
    logsnr = table.logsnr[step]
    if len(step) == 0:
        raise ValueError(f"{config['_class_name']} has no step of both data and noise.")
    low, high, num_steps = float(logsnr.min()), float(logsnr.max()), num_steps_of(config)
    if isinstance(table.parameterization, EDM):
        scale = table.parameterization.sigma_data
        low, high = _logsnr(config, "sigma_max", low), _logsnr(config, "sigma_min", high)
        return LogSigma(logsnr_min=low, logsnr_max=high, num_steps=num_steps, sigma_data=scale)
    if _is_flow(config):
        return FlowTime(logsnr_min=-math.inf, logsnr_max=high, num_steps=num_steps)
    if config.get("timestep_type") == "continuous" and table.parameterization == V():
        low, high = _logsnr(config, "sigma_max", low), _logsnr(config, "sigma_min", high)
        return LogSigma(logsnr_min=low, logsnr_max=high, num_steps=num_steps)
    if not (logsnr.diff() < 0).all():
        last = int(step[int((logsnr.diff() >= 0).int().argmax())])
        raise ValueError(f"log-SNR does not fall from step {last} to {last + 1}: check the betas.")
    return Steps(logsnr_min=low, logsnr_max=high, num_steps=num_steps, step=step, logsnr=logsnr)


def _is_flow(config: Config) -> bool:
    name = str(config["_class_name"])
    solvers = (one for kind, names in CLASSES if kind.has_flow for one in names.split())
    is_flow_solver = name.removesuffix("Scheduler") in solvers and flag(config, "use_flow_sigmas")
    return name.startswith("FlowMatch") or is_flow_solver


def _logsnr(config: Config, key: str, default: float) -> float:
    """The log-SNR of a sigma in the configuration, where it names one."""
    if config.get(key) is None:
        return default
    return -2 * math.log(number(config, key, 1.0, above=0))
