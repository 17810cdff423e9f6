r"""Schedulers with a table of betas, $\bar\alpha_t = \prod_{r \le t} (1 - \beta_r)$."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.adapters.diffusers.flow import from_flow
from elbos.adapters.diffusers.training import (
    PREDICTIONS,
    Config,
    Training,
    flag,
    num_steps_of,
    number,
    one_of,
    prediction_type,
    refuse_flow_flags,
    table_of,
)
from elbos.audit import LossTable
from elbos.audit.diagnostics import (
    Diagnostic,
    MinSnrUndefined,
    SnrWeightedX,
    ZeroSnrIgnored,
    ZeroSnrRemainder,
)


@dataclass(frozen=True, kw_only=True)
class Betas:
    r"""Defaults and supported options of a diffusers scheduler class that is defined by betas.

    `last` is $\bar\alpha$ of the last step after `rescale_betas_zero_snr`; None for a class without
    this option.
    """

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    schedules: tuple[str, ...] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    last: float | None = None
    snr_shift_scale: float | None = None
    has_flow: bool = False
    has_dynamic_shift: bool = False


def from_betas(kind: Betas, config: Config, training: Training) -> LossTable:
    if kind.has_flow and flag(config, "use_flow_sigmas"):
        return from_flow("flow_shift", kind.has_dynamic_shift, config, training)
    name, gamma = config["_class_name"], training.snr_gamma
    refuse_flow_flags(name, training)
    prediction = training.prediction or prediction_type(config)
    if prediction == "flow":
        raise ValueError(f"{name} has no flow without use_flow_sigmas: predict eps, x or v.")
    num_steps = num_steps_of(config)
    logsnr = _logsnr(kind, config, _betas(kind, config, num_steps))[:num_steps]
    coefficient = _min_snr(prediction, gamma, logsnr)
    found = _diagnostics(kind, config, prediction, gamma)
    target = PREDICTIONS[prediction]
    return table_of(config, training, logsnr, target, coefficient, diagnostics=found)


def _betas(kind: Betas, config: Config, num_steps: int) -> Float[Tensor, " n"]:
    r"""Return $\beta$ of every training step. `trained_betas` may hold more entries than there are
    steps.
    """
    trained = config.get("trained_betas")
    if trained is None:
        schedule = one_of(config, "beta_schedule", kind.beta_schedule, kind.schedules)
        start = _beta(config, "beta_start", kind.beta_start)
        return _SCHEDULES[schedule](start, _beta(config, "beta_end", kind.beta_end), num_steps)
    if not isinstance(trained, list) or len(trained) < num_steps:
        raise ValueError(f"trained_betas is no list of num_train_timesteps={num_steps} numbers.")
    betas = [_beta({"a trained beta": beta}, "a trained beta", 0) for beta in trained]
    return torch.tensor(betas, dtype=torch.float64)


def _beta(config: Config, key: str, default: float) -> float:
    value = number(config, key, default)
    if not 0 <= value <= 1:
        raise ValueError(f"{key} is {value}: give a number from 0 to 1.")
    return value


def _ramp(start: float, end: float, num_steps: int) -> Float[Tensor, " n"]:
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def _discrete(alpha_bar: Callable[[Tensor], Tensor], num_steps: int) -> Float[Tensor, " n"]:
    levels = alpha_bar(torch.arange(num_steps + 1).double() / num_steps)
    return (1 - levels[1:] / levels[:-1]).clamp(max=0.999)


def _cosine(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    distance = -torch.log(1 - 2 * (0.5 - t).abs() + 1e-6) / 2
    return torch.sigmoid(torch.where(t > 0.5, -distance, distance)).sqrt()


_SCHEDULES: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _ramp,
    "scaled_linear": lambda start, end, n: _ramp(start**0.5, end**0.5, n) ** 2,
    "sigmoid": lambda start, end, n: start + (end - start) * torch.sigmoid(_ramp(-6, 6, n)),
    "squaredcos_cap_v2": lambda _start, _end, n: _discrete(_cosine, n),
    "exp": lambda _start, _end, n: _discrete(lambda t: torch.exp(-12 * t), n),
    "laplace": lambda _start, _end, n: _discrete(_laplace, n),
}


def _logsnr(kind: Betas, config: Config, betas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    logsnr = _logit_of_exp(torch.log1p(-betas).cumsum(0))
    if kind.snr_shift_scale is not None:
        shift = number(config, "snr_shift_scale", kind.snr_shift_scale, above=0)
        logsnr = logsnr - math.log(shift)
    if kind.last is not None and flag(config, "rescale_betas_zero_snr"):
        root = torch.exp(logsigmoid(logsnr) / 2)
        if not root[0] > root[-1]:
            raise ValueError("rescale_betas_zero_snr is true of steps without noise: set it false.")
        logsnr = _logit_of_exp(2 * torch.log((root - root[-1]) * root[0] / (root[0] - root[-1])))
        logsnr[-1] = math.log(kind.last / (1 - kind.last)) if kind.last else -math.inf
    return logsnr


def _logit_of_exp(log: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return log - torch.log(-torch.expm1(log))


def _min_snr(
    prediction: str, gamma: float | None, logsnr: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the min-SNR loss coefficient, in a form that is finite at SNR 0."""
    if gamma is None:
        return torch.ones_like(logsnr)
    if prediction == "eps":
        return (gamma * torch.exp(-logsnr)).clamp(max=1)
    if prediction == "x":
        return torch.exp(logsnr).clamp(max=gamma)
    return torch.minimum(torch.sigmoid(logsnr), gamma * torch.sigmoid(-logsnr))


def _diagnostics(
    kind: Betas, config: Config, prediction: str, gamma: float | None
) -> Iterator[Diagnostic]:
    scheduler = str(config["_class_name"])
    if flag(config, "rescale_betas_zero_snr"):
        if kind.last is None:
            yield ZeroSnrIgnored(scheduler)
        elif kind.last > 0:
            yield ZeroSnrRemainder(scheduler)
        elif prediction == "eps" and gamma is not None:
            yield MinSnrUndefined()
    if prediction == "x" and gamma is None:
        yield SnrWeightedX()


_PLAIN = Betas()
_ZERO_SNR = Betas(last=0.0)
_DDPM = replace(_ZERO_SNR, schedules=(*_PLAIN.schedules, "sigmoid", "laplace"))
_LATENT = Betas(beta_start=0.00085, beta_end=0.012)
_LCM = replace(_LATENT, beta_schedule="scaled_linear", last=0.0)
_FLOW = Betas(has_flow=True, has_dynamic_shift=True)
CLASSES: list[tuple[Betas, str]] = [
    (_DDPM, "DDPM DDPMParallel"),
    (_ZERO_SNR, "DDIM DDIMInverse DDIMParallel"),
    (_PLAIN, "LMSDiscrete PNDM"),
    (replace(_PLAIN, schedules=(*_PLAIN.schedules, "sigmoid")), "RePaint"),
    (replace(_PLAIN, last=2**-24), "EulerAncestralDiscrete EulerDiscrete"),
    (_LATENT, "DPMSolverSDE KDPM2AncestralDiscrete KDPM2Discrete"),
    (replace(_LATENT, schedules=(*_PLAIN.schedules, "exp")), "HeunDiscrete"),
    (_LCM, "LCM TCD"),
    (replace(_LCM, snr_shift_scale=3.0), "CogVideoXDDIM CogVideoXDPM"),
    (_FLOW, "DEISMultistep DPMSolverSinglestep"),
    (replace(_FLOW, last=2**-24), "DPMSolverMultistep UniPCMultistep"),
    (replace(_FLOW, has_dynamic_shift=False), "DPMSolverMultistepInverse SASolver"),
    (Betas(beta_schedule="squaredcos_cap_v2", schedules=("squaredcos_cap_v2",)), "UnCLIP"),
]
