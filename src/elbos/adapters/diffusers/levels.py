r"""Timestep and input scale of a diffusers network as functions of log-SNR, for each kind of
scheduler.

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
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from elbos.adapters.diffusers.schedulers import BETAS
from elbos.adapters.diffusers.training import Config, flag, num_steps_of, number
from elbos.audit import LossTable
from elbos.theory.parameterizations import EDM, V
from elbos.theory.process import alpha_sigma


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels(abc.ABC):
    r"""Timestep and input scale of a diffusers network as functions of log-SNR.

    The ends are those of the scheduler's steps; $-\infty$ for flow matching, exact everywhere.
    """

    logsnr_min: float
    logsnr_max: float
    num_steps: int

    @abc.abstractmethod
    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Return the unrounded diffusers timestep at log-SNR $\lambda$."""

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the factor $c_\mathrm{in}$ of the noisy data at the network's input."""
        return torch.ones_like(logsnr)


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps(Levels):
    """Conversion of log-SNR to discrete timesteps, by linear interpolation between them."""

    step: Int[Tensor, " steps"]
    logsnr: Float[Tensor, " steps"]

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        query = -logsnr.detach().double().cpu().numpy()
        return torch.from_numpy(np.interp(query, -self.logsnr.numpy(), self.step.numpy()))


@dataclass(frozen=True, kw_only=True, eq=False)
class LogSigma(Levels):
    r"""Conversion of log-SNR to the timesteps of EDM schedulers, $\frac14\ln\tilde\sigma$."""

    sigma_data: float = 1.0

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return -logsnr / 8

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        alpha, sigma = alpha_sigma(logsnr)
        return (sigma**2 + self.sigma_data**2 * alpha**2).rsqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowTime(Levels):
    r"""Conversion of log-SNR to timesteps $N\tau$ for noisy data $(1 - \tau) x + \tau\epsilon$."""

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self.num_steps * torch.sigmoid(-logsnr / 2)

    def input_scale(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        alpha, sigma = alpha_sigma(logsnr)
        return 1 / (alpha + sigma)


def levels_of(config: Config, table: LossTable) -> Levels:
    if flag(config, "invert_sigmas"):
        raise ValueError(
            "invert_sigmas is true, so that time runs from noise to data: use "
            "elbos.adapters.flow.denoiser(network, data_at=1, time_scale=...)."
        )
    kind, num_steps = BETAS.get(config["_class_name"]), num_steps_of(config)
    is_noisy = torch.isfinite(table.logsnr)
    if kind and kind.last is not None and flag(config, "rescale_betas_zero_snr"):
        is_noisy[-1] = False  # pure noise, also where a solver leaves a remainder of data
    if not is_noisy.any():
        raise ValueError(f"{config['_class_name']} has no step of both data and noise.")
    step = is_noisy.nonzero()[:, 0]
    logsnr = table.logsnr[step]
    low, high = float(logsnr.min()), float(logsnr.max())
    target = table.parameterization
    is_edm = isinstance(target, EDM)
    if not is_edm and (kind is None or (kind.has_flow and flag(config, "use_flow_sigmas"))):
        return FlowTime(logsnr_min=-math.inf, logsnr_max=high, num_steps=num_steps)
    if is_edm or (config.get("timestep_type") == "continuous" and target == V()):
        if config.get("sigma_min") is not None:
            high = -2 * math.log(number(config, "sigma_min", 1.0, above=0))
        if config.get("sigma_max") is not None:
            low = -2 * math.log(number(config, "sigma_max", 1.0, above=0))
        ends: dict[str, Any] = {"logsnr_min": low, "logsnr_max": high, "num_steps": num_steps}
        return LogSigma(**ends, sigma_data=target.sigma_data if isinstance(target, EDM) else 1.0)
    if not (logsnr.diff() < 0).all():
        last = int(step[int((logsnr.diff() >= 0).int().argmax())])
        raise ValueError(f"log-SNR does not fall from step {last} to {last + 1}: check the betas.")
    return Steps(logsnr_min=low, logsnr_max=high, num_steps=num_steps, step=step, logsnr=logsnr)
