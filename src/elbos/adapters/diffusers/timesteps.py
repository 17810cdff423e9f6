r"""Timestep and input scale of a diffusers network as functions of log-SNR, for each kind of
scheduler.

A network sees $c_\mathrm{in} z$ and a timestep. Which ones depends on the scheduler's family:

| family | timestep at $\lambda$ | $c_\mathrm{in}$ |
|---|---|---|
| betas | interpolated in the table $\lambda_0 > \lambda_1 > \dots$ | $1$ |
| `timestep_type` continuous | $\frac14\ln\tilde\sigma = -\lambda/8$ | $1$ |
| `EDMEuler` | $-\lambda/8$ | $(\sigma^2 + \sigma_d^2\alpha^2)^{-1/2}$ |
| `FlowMatchEulerDiscrete` | $N\,\mathrm{sigmoid}(-\lambda/2)$ | $1/(\alpha + \sigma)$ |

Euler's and other solvers in $\tilde z = z/\alpha$ scale the network's input by
$(\tilde\sigma^2 + 1)^{-1/2} = \alpha$ (`scale_model_input`): it is $z$ again. The time shift of
flow matching, static or dynamic, moves the steps; at a given noise level the network sees the same.

Between two steps of a table the timestep is linear in log-SNR, which is how diffusers itself finds
the timestep of a Karras sigma. U-Nets and transformers embed it by sines and cosines, so that a
fractional one is as good an input as a whole one.
"""

import abc
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

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
