r"""Timestep and input scale of a diffusers network as functions of log-SNR, for each kind of
scheduler, and the scheduler of a network that this library trains.

A network sees $c_\mathrm{in} z$ and a timestep. Which ones depends on the scheduler's family:

| family | timestep at $\lambda$ | $c_\mathrm{in}$ | predicts |
|---|---|---|---|
| betas | interpolated in the table $\lambda_0 > \lambda_1 > \dots$ | $1$ | |
| `timestep_type` continuous | $\frac14\ln\tilde\sigma = -\lambda/8$ | $1$ | |
| `DDIM` | $(N - 1)(\lambda_+ - \lambda)/(\lambda_+ - \lambda_-)$ | $1$ | $\epsilon$, $x$, $v$ |
| `EDMEuler` | $-\lambda/8$ | $(\sigma^2 + \sigma_d^2\alpha^2)^{-1/2}$ | EDM's $F$ |
| `FlowMatchEulerDiscrete` | $N\,\mathrm{sigmoid}(-\lambda/2)$ | $1/(\alpha + \sigma)$ | flow |

The last three are those of networks trained here, with $N = 1000$ steps between the ends
$\lambda_\pm$ of the noise levels in training. Steps of `DDIM` are even in log-SNR, so that the
closed form holds at every noise level. Its table, $\bar\alpha_t = \mathrm{sigmoid}(\lambda_t)$, is
stored as `trained_betas`, from which any other scheduler of betas can be made. diffusers stores the
table in float32: at $\lambda = 13.3$ it is off by 0.02.

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

from elbos.theory.parameterizations import EDM, Eps, Flow, Parameterization, V, X
from elbos.theory.process import alpha_sigma

NUM_STEPS = 1000
_PREDICTION_TYPES = {Eps(): "epsilon", X(): "sample", V(): "v_prediction"}


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


@dataclass(frozen=True, kw_only=True, eq=False)
class EvenSteps(Levels):
    r"""Timesteps that are even in log-SNR, from 0 at $\lambda_+$ to $N - 1$ at $\lambda_-$."""

    def timestep(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        share = (self.logsnr_max - logsnr) / (self.logsnr_max - self.logsnr_min)
        return (self.num_steps - 1) * share


def trained_levels(
    parameterization: Parameterization, logsnr_min: float, logsnr_max: float
) -> Levels:
    """Return the map from log-SNR to timesteps for a network trained by this library.

    Raises:
        ValueError: If diffusers has no scheduler for the target or the noise levels.

    Examples:
        >>> trained_levels(V(), -10.0, 10.0).timestep(torch.tensor([10.0, 0.0, -10.0]))
        tensor([  0.0000, 499.5000, 999.0000])
    """
    if not math.isfinite(logsnr_max - logsnr_min):
        raise ValueError(
            f"The noise levels are log-SNR {logsnr_min:g} to {logsnr_max:g}, and a network of "
            "diffusers has a step for each: choose a schedule with finite ends."
        )
    ends: dict[str, Any] = {"logsnr_min": logsnr_min, "logsnr_max": logsnr_max}
    ends |= {"num_steps": NUM_STEPS}
    if parameterization in _PREDICTION_TYPES:
        return EvenSteps(**ends)
    if parameterization == Flow():
        return FlowTime(**ends)
    if isinstance(parameterization, EDM):
        return LogSigma(**ends, sigma_data=parameterization.sigma_data)
    raise ValueError(
        f"diffusers has no scheduler for a network that predicts {parameterization}: choose eps, "
        "x, v, flow or edm as the parameterization of a network of diffusers."
    )


def trained_scheduler(parameterization: Parameterization, levels: Levels) -> dict[str, Any]:
    """Return a diffusers scheduler configuration for a network trained by this library.

    It neither clips nor skips the noisiest step, like the samplers of this library. `levels` are
    the network's `trained_levels`.
    """
    num_steps = {"num_train_timesteps": levels.num_steps}
    if isinstance(parameterization, EDM):
        return {
            "_class_name": "EDMEulerScheduler",
            **num_steps,
            "prediction_type": "epsilon",
            "sigma_data": parameterization.sigma_data,
            "sigma_min": math.exp(-levels.logsnr_max / 2),
            "sigma_max": math.exp(-levels.logsnr_min / 2),
        }
    if parameterization == Flow():
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", **num_steps}
    # beta_t = 1 - alpha_bar_t / alpha_bar_{t-1} = sigma_t^2 (1 - exp(logsnr_t - logsnr_{t-1}))
    ends = levels.logsnr_max, levels.logsnr_min
    logsnr = torch.linspace(*ends, levels.num_steps, dtype=torch.float64)
    share = torch.cat([torch.ones(1, dtype=torch.float64), -torch.expm1(logsnr.diff())])
    return {
        "_class_name": "DDIMScheduler",
        **num_steps,
        "prediction_type": _PREDICTION_TYPES[parameterization],
        "trained_betas": (torch.sigmoid(-logsnr) * share).tolist(),
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
