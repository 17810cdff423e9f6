r"""What a diffusers `scheduler_config.json` and a training script's flags train, step by step.

The file stands for a table of noise levels: of betas, of flow matching with time shift $s$, or of
EDM's grid,

$$\lambda_t = \ln\frac{\bar\alpha_t}{1 - \bar\alpha_t}, \;
  \bar\alpha_t = \prod_{r \le t} (1 - \beta_r); \qquad
  \lambda_i = 2\ln\frac{N - i}{s\,i}; \qquad \lambda_i = -2\ln\tilde\sigma_i.$$

The flags say how often each step is drawn, what is predicted and what its squared error is
multiplied with. Whatever else is in the file is about sampling and changes nothing here.

The table is that of the class which the file names, with its defaults for what is left out, and in
float64: diffusers' float32 puts $\lambda$ at the clean end of the usual betas off by up to 5e-4.
Its scripts load a file of betas as `DDPMScheduler`, whatever class it names; where zero terminal
SNR makes that another table, a note says so.

References:
    diffusers 0.42, https://github.com/huggingface/diffusers: its schedulers, `training_utils.py`
    and example scripts
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos import files
from elbos.audit import Diagnostic, LossTable
from elbos.parameterizations import EDM, Eps, Flow, Parameterization, V, X

Config = Mapping[str, Any]
Prediction = Literal["eps", "x", "v", "flow"]
Scheme = Literal["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


@dataclass(frozen=True, kw_only=True)
class Training:
    r"""The flags of a training script that change what is trained, named as the scripts name them.

    Attributes:
        prediction: What the network predicts. Default: the file's `prediction_type`.
        snr_gamma: Min-SNR's $\gamma > 0$. The coefficient is $\min(\mathrm{snr}, \gamma)$ for x,
            over $\mathrm{snr}$ for eps and over $\mathrm{snr} + 1$ for v. Default: it is 1.
        weighting_scheme: Of flow matching: how steps are drawn (`logit_normal`, `mode`) or, drawn
            uniformly, weighted (`sigma_sqrt`, `cosmap`).
        logit_mean: Mean of `logit_normal`; above 0 it draws clean data more often.
        logit_std: Standard deviation of `logit_normal`, above 0.
        mode_scale: Scale of `mode`, from -1 to 1.75: there its map of times is one to one.
        precondition_outputs: Of flow matching: whether $\hat x = z - \sigma\hat u$ is regressed
            instead of the network's $\hat u$, a coefficient $\sigma^2$.

    Raises:
        ValueError: If a flag has no such value.
    """

    prediction: Prediction | None = None
    snr_gamma: float | None = None
    weighting_scheme: Scheme = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    precondition_outputs: bool = False

    def __post_init__(self) -> None:
        flags = vars(self)
        _one_of(flags, "prediction", None, (None, *get_args(Prediction)))
        _one_of(flags, "weighting_scheme", "none", get_args(Scheme))
        _number(flags, "logit_mean", 0.0)
        _number(flags, "logit_std", 1.0, above=0)
        if self.snr_gamma is not None:
            _number(flags, "snr_gamma", 1.0, above=0)
        if not -1 <= self.mode_scale <= 2 / (math.pi - 2):
            raise ValueError(f"mode_scale is {self.mode_scale}: give a number from -1 to 1.75.")
        schemes = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        for key, scheme in schemes.items():
            if flags[key] != getattr(Training, key) and self.weighting_scheme != scheme:
                raise ValueError(f"{key} does nothing without weighting_scheme {scheme}: add it.")


def read_config(path: Path) -> dict[str, Any]:
    """Read a diffusers `scheduler_config.json`.

    Raises:
        OSError: If `path` cannot be read.
        ValueError: If it is not the configuration of a scheduler that is known here.
    """
    try:
        config: dict[str, Any] = json.loads(files.read(path).decode("utf-8-sig"))
        _reader(config)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be a configuration.") from error
    except ValueError as error:  # JSON's, and the encoding's, too
        raise ValueError(f"{path} is no scheduler_config.json to read: {error}") from error
    return config


def loss_table(config: Config, training: Training) -> LossTable:
    """The steps that training with this configuration and these flags draws.

    Raises:
        ValueError: If the configuration is malformed, or makes no sense with the flags.

    Examples:
        >>> config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 4}
        >>> loss_table(config, Training(weighting_scheme="logit_normal")).probability
        tensor([0.1360, 0.3640, 0.3640, 0.1360], dtype=torch.float64)
    """
    return _reader(config)(config, training)


def _table(
    config: Config,
    training: Training,
    logsnr: Float[Tensor, " n"],
    parameterization: Parameterization,
    coefficient: Float[Tensor, " n"],
    *,
    diagnostics: Iterable[Diagnostic],
) -> LossTable:
    a, b = parameterization.coefficients(logsnr)
    return LossTable(
        title=f"{config['_class_name']}, {len(logsnr)} steps",
        logsnr=logsnr,
        probability=_probability(training, len(logsnr)),
        a=a,
        b=b,
        coefficient=coefficient,
        parameterization=type(parameterization).__name__.lower(),
        sigma_data=getattr(parameterization, "sigma_data", None),
        diagnostics=tuple(diagnostics),
    )


# --- betas ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Betas:
    r"""How diffusers' classes of betas differ: defaults, and which options they have.

    `last` is $\bar\alpha$ of the last step after `rescale_betas_zero_snr`; None: no such option.
    """

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    schedules: tuple[str, ...] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    last: float | None = None
    snr_shift_scale: float | None = None
    has_flow: bool = False
    has_dynamic_shift: bool = False


def _from_betas(kind: _Betas, config: Config, training: Training) -> LossTable:
    if kind.has_flow and _flag(config, "use_flow_sigmas"):
        return _from_flow("flow_shift", kind.has_dynamic_shift, config, training)
    name, gamma = config["_class_name"], training.snr_gamma
    _refuse_flow_flags(name, training)
    prediction = training.prediction or _prediction_type(config)
    if prediction == "flow":
        raise ValueError(f"{name} has no flow without use_flow_sigmas: predict eps, x or v.")
    num_steps = _num_steps(config)
    logsnr = _logsnr(kind, config, _betas(kind, config, num_steps))[:num_steps]
    coefficient = _min_snr(prediction, gamma, logsnr)
    found = _diagnostics(kind, config, prediction, gamma)
    target = _PREDICTIONS[prediction]
    return _table(config, training, logsnr, target, coefficient, diagnostics=found)


def _betas(kind: _Betas, config: Config, num_steps: int) -> Float[Tensor, " n"]:
    r"""$\beta$ of every step; there may be more trained ones than are drawn."""
    trained = config.get("trained_betas")
    if trained is None:
        schedule = _one_of(config, "beta_schedule", kind.beta_schedule, kind.schedules)
        start = _beta(config, "beta_start", kind.beta_start)
        return _SCHEDULES[schedule](start, _beta(config, "beta_end", kind.beta_end), num_steps)
    if not isinstance(trained, list) or len(trained) < num_steps:
        raise ValueError(f"trained_betas is no list of num_train_timesteps={num_steps} numbers.")
    betas = [_beta({"a trained beta": beta}, "a trained beta", 0) for beta in trained]
    return torch.tensor(betas, dtype=torch.float64)


def _beta(config: Config, key: str, default: float) -> float:
    value = _number(config, key, default)
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


def _logsnr(kind: _Betas, config: Config, betas: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    logsnr = _logit_of_exp(torch.log1p(-betas).cumsum(0))
    if kind.snr_shift_scale is not None:
        shift = _number(config, "snr_shift_scale", kind.snr_shift_scale, above=0)
        logsnr = logsnr - math.log(shift)
    if kind.last is not None and _flag(config, "rescale_betas_zero_snr"):
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
    """Min-SNR's coefficient, written so that it has a value at SNR 0, too."""
    if gamma is None:
        return torch.ones_like(logsnr)
    if prediction == "eps":
        return (gamma * torch.exp(-logsnr)).clamp(max=1)
    if prediction == "x":
        return torch.exp(logsnr).clamp(max=gamma)
    return torch.minimum(torch.sigmoid(logsnr), gamma * torch.sigmoid(-logsnr))


def _diagnostics(
    kind: _Betas, config: Config, prediction: str, gamma: float | None
) -> Iterator[Diagnostic]:
    scheduler = {"scheduler": str(config["_class_name"])}
    if _flag(config, "rescale_betas_zero_snr"):
        if kind.last is None:
            yield Diagnostic("zero-snr-ignored", scheduler)
        elif kind.last > 0:
            yield Diagnostic("zero-snr-remainder", scheduler)
        elif prediction == "eps" and gamma is not None:
            yield Diagnostic("min-snr-undefined")
    if prediction == "x" and gamma is None:
        yield Diagnostic("snr-weighted-x")


# --- flow matching -------------------------------------------------------------------------------


def _from_flow(
    shift_key: str, has_dynamic_shift: bool, config: Config, training: Training
) -> LossTable:
    name, num_steps, is_solver = config["_class_name"], _num_steps(config), shift_key != "shift"
    if training.snr_gamma is not None:
        raise ValueError(f"snr_gamma is for betas, which {name} has none of here: leave it out.")
    prediction = training.prediction or (_prediction_type(config) if is_solver else "flow")
    if prediction == "v":
        raise ValueError(f"{name} is on the path of flow matching: predict flow, x or eps, not v.")
    if training.precondition_outputs and prediction != "flow":
        raise ValueError(f"precondition_outputs is not for {prediction}: predict flow.")
    is_dynamic = has_dynamic_shift and _flag(config, "use_dynamic_shifting")
    shift = 1.0 if is_dynamic else _number(config, shift_key, 1.0, above=0)
    i = torch.arange(num_steps, 0, -1, dtype=torch.float64)  # scripts count from noise to data
    logsnr = 2 * (torch.log(num_steps - i) - torch.log(i) - math.log(shift))
    found = {
        "dynamic-shift": is_dynamic,
        "sampling-only": is_solver,
        "logit-mean": training.weighting_scheme == "logit_normal" and training.logit_mean != 0,
    }
    diagnostics = [Diagnostic(kind, {"scheduler": name}) for kind, is_so in found.items() if is_so]
    coefficient = _flow_coefficient(training, torch.sigmoid(-logsnr / 2))
    target = _PREDICTIONS[prediction]
    return _table(config, training, logsnr, target, coefficient, diagnostics=diagnostics)


def _probability(training: Training, num_steps: int) -> Float[Tensor, " n"]:
    r"""That $i \le uN < i + 1$, from the distribution of the scripts' $u$."""
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    if training.weighting_scheme == "logit_normal":
        z = (torch.logit(u) - training.logit_mean) / (training.logit_std * math.sqrt(2))
        return torch.where(z[1:] < 0, torch.erfc(-z).diff(), -torch.erfc(z).diff()) / 2
    if training.weighting_scheme == "mode":
        return _inverse_mode(u, training.mode_scale).diff()
    return torch.full_like(u[1:], 1 / num_steps)


def _inverse_mode(u: Float[Tensor, " n"], scale: float) -> Float[Tensor, " n"]:
    r"""The $w \in [0, 1]$, uniform, of $u = w + s(w - \sin^2(\pi w/2))$, by bisection."""
    low, high = torch.zeros_like(u), torch.ones_like(u)
    for _ in range(60):
        w = (low + high) / 2
        is_below = w + scale * (w - torch.sin(math.pi / 2 * w) ** 2) < u
        low, high = torch.where(is_below, w, low), torch.where(is_below, high, w)
    return high


def _flow_coefficient(training: Training, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    coefficient = torch.ones_like(sigma)
    if training.weighting_scheme == "sigma_sqrt":
        coefficient = sigma**-2
    if training.weighting_scheme == "cosmap":
        coefficient = 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
    return coefficient * sigma**2 if training.precondition_outputs else coefficient


# --- EDM -----------------------------------------------------------------------------------------


def _from_edm(draws_sigma_min: bool, config: Config, training: Training) -> LossTable:
    name, num_steps = config["_class_name"], _num_steps(config)
    _refuse_flow_flags(name, training)
    if training.snr_gamma is not None or training.prediction is not None:
        raise ValueError(f"{name} predicts EDM's F, without Min-SNR: leave out the flags of both.")
    predicts = _one_of(config, "prediction_type", "epsilon", ("epsilon", "v_prediction"))
    low = _number(config, "sigma_min", 0.002, above=0)
    high = _number(config, "sigma_max", 80.0, above=low)
    sigma_data = _number(config, "sigma_data", 0.5, above=1e-9)
    rho = _number(config, "rho", 7.0, above=0)
    ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - draws_sigma_min, 1)
    if _one_of(config, "sigma_schedule", "karras", ("karras", "exponential")) == "karras":
        log_sigma = rho * torch.log1p(ramp * ((low / high) ** (1 / rho) - 1))
    else:
        log_sigma = ramp * math.log(low / high)
    logsnr = -2 * (math.log(high) + log_sigma)
    square_of_c_out = 1 / (torch.exp(logsnr) + sigma_data**-2)
    diagnostics = [Diagnostic("edm-style")]
    if draws_sigma_min:
        diagnostics.append(Diagnostic("sigma-min-not-drawn"))
    f = EDM(sigma_data=sigma_data)
    table = _table(config, training, logsnr, f, square_of_c_out, diagnostics=diagnostics)
    if predicts == "epsilon":
        return table
    return replace(table, a=-table.a, b=-table.b, parameterization_factor=-1.0)


# --- reading -------------------------------------------------------------------------------------

_PREDICTIONS: dict[str, Parameterization] = {"eps": Eps(), "x": X(), "v": V(), "flow": Flow()}
_PREDICTION_TYPES: dict[str, Prediction] = {
    "epsilon": "eps",
    "sample": "x",
    "v_prediction": "v",
    "flow_prediction": "flow",
}

_PLAIN = _Betas()
_ZERO_SNR = _Betas(last=0.0)
_DDPM = replace(_ZERO_SNR, schedules=(*_PLAIN.schedules, "sigmoid", "laplace"))
_LATENT = _Betas(beta_start=0.00085, beta_end=0.012)
_LCM = replace(_LATENT, beta_schedule="scaled_linear", last=0.0)
_FLOW = _Betas(has_flow=True, has_dynamic_shift=True)
_CLASSES: list[tuple[_Betas, str]] = [
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
    (_Betas(beta_schedule="squaredcos_cap_v2", schedules=("squaredcos_cap_v2",)), "UnCLIP"),
]
_READERS: dict[str, Callable[[Config, Training], LossTable]] = {
    **{
        f"{name}Scheduler": partial(_from_betas, kind)
        for kind, names in _CLASSES
        for name in names.split()
    },
    "EDMDPMSolverMultistepScheduler": partial(_from_edm, True),
    "EDMEulerScheduler": partial(_from_edm, False),
    "FlowMatchEulerDiscreteScheduler": partial(_from_flow, "shift", True),
    "FlowMatchHeunDiscreteScheduler": partial(_from_flow, "shift", False),
    "FlowMatchLCMScheduler": partial(_from_flow, "shift", True),
}


def _reader(config: Any) -> Callable[[Config, Training], LossTable]:
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if name is None:
        raise ValueError("it names no _class_name, which diffusers writes: give the whole file.")
    if str(name) not in _READERS:
        kind = "unknown here" if str(name).endswith("Scheduler") else "no scheduler"
        raise ValueError(f"{name} is {kind}: give a scheduler of betas, flow matching or EDM.")
    return _READERS[name]


def _refuse_flow_flags(name: str, training: Training) -> None:
    if training.weighting_scheme != "none" or training.precondition_outputs:
        raise ValueError(
            f"weighting_scheme and precondition_outputs are for flow matching, and {name} is not: "
            "leave them out."
        )


def _prediction_type(config: Config) -> Prediction:
    return _PREDICTION_TYPES[_one_of(config, "prediction_type", "epsilon", (*_PREDICTION_TYPES,))]


def _num_steps(config: Config) -> int:
    value = config.get("num_train_timesteps", 1000)
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise ValueError(f"num_train_timesteps is {value!r}: give a whole number, 1 to 1000000.")
    return value


def _number(config: Config, key: str, default: float, *, above: float = -math.inf) -> float:
    value = config.get(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and above < value < 1e100):
        least = "" if above == -math.inf else f" above {above:g}"
        raise ValueError(f"{key} is {value!r}: give a finite number{least}.")
    return float(value)


def _flag(config: Config, key: str) -> bool:
    return bool(_one_of(config, key, False, (False, True, None)))


def _one_of(config: Config, key: str, default: Any, options: tuple[Any, ...]) -> Any:
    value = config.get(key, default)
    if value not in options:
        raise ValueError(f"{key} is {value!r}: give one of {', '.join(map(str, options))}.")
    return value
