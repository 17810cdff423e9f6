r"""Training losses, as tables over time steps, from a diffusers `scheduler_config.json` and the
flags of a training script.

The file defines a table of noise levels: of betas, of flow matching with time shift $s$, or of
EDM's grid,

$$\lambda_t = \ln\frac{\bar\alpha_t}{1 - \bar\alpha_t}, \;
  \bar\alpha_t = \prod_{r \le t} (1 - \beta_r); \qquad
  \lambda_i = 2\ln\frac{N - i}{s\,i}; \qquad \lambda_i = -2\ln\tilde\sigma_i.$$

The flags determine the probability of each step, the target, and the coefficient of its squared
error. All other entries of the file concern sampling and are ignored.

The table is computed as by the class that the file names, with the class defaults for missing
entries, in float64: diffusers' float32 puts $\lambda$ at the clean end of the usual betas off by up
to 5e-4. The scripts of diffusers load a file of betas as `DDPMScheduler`, even if the file names
another class; where zero terminal SNR makes the tables differ, a diagnostic reports it.

References:
    diffusers 0.42, https://github.com/huggingface/diffusers: its schedulers, `training_utils.py`
    and example scripts
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.adapters.diffusers.training import (
    PREDICTION_TYPES,
    PREDICTIONS,
    Config,
    Prediction,
    Training,
    flag,
    num_steps_of,
    number,
    one_of,
    scheme_weight,
    step_probability,
)
from elbos.audit import Diagnostic, LossTable
from elbos.audit import diagnostics as kinds
from elbos.base import files
from elbos.theory.parameterizations import EDM, Parameterization


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate a diffusers `scheduler_config.json`.

    Raises:
        OSError: If `path` cannot be read.
        ValueError: If it is not the configuration of a known scheduler; the error names `path`.
    """
    try:
        config: dict[str, Any] = files.read_value(path)
        _reader(config)
    except ValueError as error:  # JSON's, and the encoding's, too
        raise ValueError(f"{path} is no scheduler_config.json to read: {error}") from error
    return config


def loss_table(config: Config, training: Training) -> LossTable:
    """Return the loss of a scheduler's configuration and a script's flags as a table over time
    steps.

    Raises:
        ValueError: If the configuration is malformed or contradicts the flags.

    Examples:
        >>> config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 4}
        >>> loss_table(config, Training(weighting_scheme="logit_normal")).probability
        tensor([0.1360, 0.3640, 0.3640, 0.1360], dtype=torch.float64)
    """
    return _reader(config)(config, training)


def _reader(config: Any) -> Callable[[Config, Training], LossTable]:
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if name is None:
        raise ValueError("it names no _class_name, which diffusers writes: give the whole file.")
    if str(name) not in _READERS:
        kind = "unknown here" if str(name).endswith("Scheduler") else "no scheduler"
        raise ValueError(f"{name} is {kind}: give a scheduler of betas, flow matching or EDM.")
    return _READERS[name]


def _table(
    config: Config,
    training: Training,
    logsnr: Float[Tensor, " n"],
    parameterization: Parameterization,
    coefficient: Float[Tensor, " n"],
    diagnostics: Iterable[Diagnostic],
) -> LossTable:
    num = len(logsnr)
    probability = torch.full((num,), 1 / num, dtype=torch.float64)
    if training.weighting_scheme in ("logit_normal", "mode"):  # step i if i <= uN < i + 1
        probability = step_probability(training, torch.arange(num + 1).double() / num)
    return LossTable(
        title=f"{config['_class_name']}, {num} steps",
        logsnr=logsnr,
        probability=probability,
        coefficient=coefficient,
        parameterization=parameterization,
        diagnostics=tuple(diagnostics),
    )


def _refuse_flow_flags(name: str, training: Training) -> None:
    if training.weighting_scheme != "none" or training.precondition_outputs:
        raise ValueError(
            f"weighting_scheme and precondition_outputs are for flow matching, and {name} is not: "
            "leave them out."
        )


def _prediction(config: Config) -> Prediction:
    return PREDICTION_TYPES[one_of(config, "prediction_type", "epsilon", (*PREDICTION_TYPES,))]


# --- betas ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Betas:
    r"""Defaults and options of a diffusers scheduler with a beta schedule.

    `last` is $\bar\alpha$ of the last step after `rescale_betas_zero_snr`; None without the option.
    `clips` is the default of `clip_sample`; None where sampling does not read it.
    """

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    schedules: tuple[str, ...] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    last: float | None = None
    snr_shift_scale: float | None = None
    clips: bool | None = None
    has_flow: bool = False
    has_dynamic_shift: bool = False


def _from_betas(kind: Betas, config: Config, training: Training) -> LossTable:
    if kind.has_flow and flag(config, "use_flow_sigmas"):
        return _from_flow("flow_shift", kind.has_dynamic_shift, config, training)
    name, gamma = config["_class_name"], training.snr_gamma
    _refuse_flow_flags(name, training)
    prediction = training.prediction or _prediction(config)
    if prediction == "flow":
        raise ValueError(f"{name} has no flow without use_flow_sigmas: predict eps, x or v.")
    num_steps, is_zero = num_steps_of(config), flag(config, "rescale_betas_zero_snr")

    trained = config.get("trained_betas")
    if trained is None:
        schedule = one_of(config, "beta_schedule", kind.beta_schedule, kind.schedules)
        start = _beta(config, "beta_start", kind.beta_start)
        end = _beta(config, "beta_end", kind.beta_end)
        betas = _SCHEDULES[schedule](start, end, num_steps)
    elif isinstance(trained, list) and len(trained) >= num_steps:
        values = [_beta({"a trained beta": beta}, "a trained beta", 0) for beta in trained]
        betas = torch.tensor(values, dtype=torch.float64)
    else:
        raise ValueError(f"trained_betas is no list of num_train_timesteps={num_steps} numbers.")

    logsnr = _logit_of_exp(torch.log1p(-betas).cumsum(0))
    if kind.snr_shift_scale is not None:
        shift = number(config, "snr_shift_scale", kind.snr_shift_scale, above=0)
        logsnr = logsnr - math.log(shift)
    if kind.last is not None and is_zero:
        root = torch.exp(logsigmoid(logsnr) / 2)
        if not root[0] > root[-1]:
            raise ValueError("rescale_betas_zero_snr is true of steps without noise: set it false.")
        logsnr = _logit_of_exp(2 * torch.log((root - root[-1]) * root[0] / (root[0] - root[-1])))
        logsnr[-1] = math.log(kind.last / (1 - kind.last)) if kind.last else -math.inf
    logsnr = logsnr[:num_steps]

    if gamma is None:
        coefficient = torch.ones_like(logsnr)
    elif prediction == "eps":  # Min-SNR, in forms that are finite at SNR 0
        coefficient = (gamma * torch.exp(-logsnr)).clamp(max=1)
    elif prediction == "x":
        coefficient = torch.exp(logsnr).clamp(max=gamma)
    else:
        coefficient = torch.minimum(torch.sigmoid(logsnr), gamma * torch.sigmoid(-logsnr))

    diagnostics = list[Diagnostic]()
    if is_zero and kind.last is None:
        diagnostics.append(kinds.ZeroSnrIgnored(str(name)))
    elif is_zero and kind.last:
        diagnostics.append(kinds.ZeroSnrRemainder(str(name)))
    elif is_zero and prediction == "eps" and gamma is not None:
        diagnostics.append(kinds.MinSnrUndefined())
    if prediction == "x" and gamma is None:
        diagnostics.append(kinds.SnrWeightedX())
    return _table(config, training, logsnr, PREDICTIONS[prediction], coefficient, diagnostics)


def _beta(config: Config, key: str, default: float) -> float:
    value = number(config, key, default)
    if not 0 <= value <= 1:
        raise ValueError(f"{key} is {value}: give a number from 0 to 1.")
    return value


def _logit_of_exp(log: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return log - torch.log(-torch.expm1(log))


def _ramp(start: float, end: float, num_steps: int) -> Float[Tensor, " n"]:
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def _discrete(alpha_bar: Callable[[Tensor], Tensor], num_steps: int) -> Float[Tensor, " n"]:
    levels = alpha_bar(torch.arange(num_steps + 1).double() / num_steps)
    return (1 - levels[1:] / levels[:-1]).clamp(max=0.999)


def _laplace(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    distance = -torch.log(1 - 2 * (0.5 - t).abs() + 1e-6) / 2
    return torch.sigmoid(torch.where(t > 0.5, -distance, distance)).sqrt()


_SCHEDULES: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _ramp,
    "scaled_linear": lambda start, end, n: _ramp(start**0.5, end**0.5, n) ** 2,
    "sigmoid": lambda start, end, n: start + (end - start) * torch.sigmoid(_ramp(-6, 6, n)),
    "squaredcos_cap_v2": lambda _start, _end, n: _discrete(
        lambda t: torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2, n
    ),
    "exp": lambda _start, _end, n: _discrete(lambda t: torch.exp(-12 * t), n),
    "laplace": lambda _start, _end, n: _discrete(_laplace, n),
}

_PLAIN = Betas()
_ZERO_SNR = Betas(last=0.0, clips=True)
_DDPM = replace(_ZERO_SNR, schedules=(*_PLAIN.schedules, "sigmoid", "laplace"))
_LATENT = Betas(beta_start=0.00085, beta_end=0.012)
_LCM = replace(_LATENT, beta_schedule="scaled_linear", last=0.0)
_UNCLIP = Betas(beta_schedule="squaredcos_cap_v2", clips=True)
_FLOW = Betas(has_flow=True, has_dynamic_shift=True)
_CLASSES: list[tuple[Betas, str]] = [
    (_DDPM, "DDPM DDPMParallel"),
    (_ZERO_SNR, "DDIM DDIMInverse DDIMParallel"),
    (_PLAIN, "LMSDiscrete PNDM"),
    (replace(_PLAIN, schedules=(*_PLAIN.schedules, "sigmoid"), clips=True), "RePaint"),
    (replace(_PLAIN, last=2**-24), "EulerAncestralDiscrete EulerDiscrete"),
    (_LATENT, "DPMSolverSDE KDPM2AncestralDiscrete KDPM2Discrete"),
    (replace(_LATENT, schedules=(*_PLAIN.schedules, "exp"), clips=False), "HeunDiscrete"),
    (_LCM, "TCD"),
    (replace(_LCM, clips=False), "LCM"),
    (replace(_LCM, snr_shift_scale=3.0), "CogVideoXDDIM CogVideoXDPM"),
    (_FLOW, "DEISMultistep DPMSolverSinglestep"),
    (replace(_FLOW, last=2**-24), "DPMSolverMultistep UniPCMultistep"),
    (replace(_FLOW, has_dynamic_shift=False), "DPMSolverMultistepInverse SASolver"),
    (replace(_UNCLIP, schedules=("squaredcos_cap_v2",)), "UnCLIP"),
]
BETAS = {f"{name}Scheduler": kind for kind, names in _CLASSES for name in names.split()}
"""The scheduler classes of diffusers that are defined by betas."""


# --- flow matching and EDM ------------------------------------------------------------------------


def _from_flow(
    shift_key: str, has_dynamic_shift: bool, config: Config, training: Training
) -> LossTable:
    name, num_steps, is_solver = config["_class_name"], num_steps_of(config), shift_key != "shift"
    scheme = training.weighting_scheme
    if training.snr_gamma is not None:
        raise ValueError(f"snr_gamma needs betas, and {name} has none here: leave it out.")
    prediction = training.prediction or (_prediction(config) if is_solver else "flow")
    if prediction == "v":
        raise ValueError(f"{name} is on the path of flow matching: predict flow, x or eps, not v.")
    if training.precondition_outputs and prediction != "flow":
        raise ValueError(f"precondition_outputs is not for {prediction}: predict flow.")
    is_dynamic = has_dynamic_shift and flag(config, "use_dynamic_shifting")
    shift = 1.0 if is_dynamic else number(config, shift_key, 1.0, above=0)
    i = torch.arange(num_steps, 0, -1, dtype=torch.float64)  # scripts count from noise to data
    logsnr = 2 * (torch.log(num_steps - i) - torch.log(i) - math.log(shift))

    sigma = torch.sigmoid(-logsnr / 2)
    coefficient = scheme_weight(training, sigma)
    if training.precondition_outputs:
        coefficient = coefficient * sigma**2

    diagnostics = list[Diagnostic]()
    if is_dynamic:
        diagnostics.append(kinds.DynamicShift(name))
    if is_solver:
        diagnostics.append(kinds.SamplingOnly(name))
    if scheme == "logit_normal" and training.logit_mean != 0:
        diagnostics.append(kinds.LogitMean(name))
    return _table(config, training, logsnr, PREDICTIONS[prediction], coefficient, diagnostics)


def _from_edm(draws_sigma_min: bool, config: Config, training: Training) -> LossTable:
    name, num_steps = config["_class_name"], num_steps_of(config)
    _refuse_flow_flags(name, training)
    if training.snr_gamma is not None or training.prediction is not None:
        raise ValueError(f"{name} predicts EDM's F, without Min-SNR: leave out the flags of both.")
    predicts = one_of(config, "prediction_type", "epsilon", ("epsilon", "v_prediction"))
    low = number(config, "sigma_min", 0.002, above=0)
    high = number(config, "sigma_max", 80.0, above=low)
    sigma_data = number(config, "sigma_data", 0.5, above=1e-9)
    rho = number(config, "rho", 7.0, above=0)
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - draws_sigma_min, 1)
    if one_of(config, "sigma_schedule", "karras", ("karras", "exponential")) == "karras":
        log_sigma = rho * torch.log1p(ramp * ((low / high) ** (1 / rho) - 1))
    else:
        log_sigma = ramp * math.log(low / high)
    logsnr = -2 * (math.log(high) + log_sigma)
    square_of_c_out = 1 / (torch.exp(logsnr) + sigma_data**-2)
    diagnostics = (kinds.EdmStyle(), *[kinds.SigmaMinNotDrawn()] * draws_sigma_min)
    target = EDM(sigma_data=sigma_data)
    table = _table(config, training, logsnr, target, square_of_c_out, diagnostics)
    return table if predicts == "epsilon" else replace(table, factor=-1.0)


_READERS: dict[str, Callable[[Config, Training], LossTable]] = {
    **{name: partial(_from_betas, kind) for name, kind in BETAS.items()},
    "EDMDPMSolverMultistepScheduler": partial(_from_edm, True),
    "EDMEulerScheduler": partial(_from_edm, False),
    "FlowMatchEulerDiscreteScheduler": partial(_from_flow, "shift", True),
    "FlowMatchHeunDiscreteScheduler": partial(_from_flow, "shift", False),
    "FlowMatchLCMScheduler": partial(_from_flow, "shift", True),
}
