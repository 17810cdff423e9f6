"""Flags of a diffusers training script, and functions that check configuration values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory.parameterizations import Eps, Flow, Parameterization, V, X

Config = Mapping[str, Any]
Prediction = Literal["eps", "x", "v", "flow"]
Scheme = Literal["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


@dataclass(frozen=True, kw_only=True)
class Training:
    r"""Flags of a diffusers training script that change the loss.

    Names are those of the script.

    Attributes:
        prediction: The prediction target of the network. Default: the file's `prediction_type`.
        snr_gamma: Min-SNR's $\gamma > 0$. The coefficient is $\min(\mathrm{snr}, \gamma)$ for x,
            over $\mathrm{snr}$ for eps and over $\mathrm{snr} + 1$ for v. Default: it is 1.
        weighting_scheme: Scheme of flow matching: the distribution of steps (`logit_normal`,
            `mode`), or the weight of uniformly drawn steps (`sigma_sqrt`, `cosmap`).
        logit_mean: Mean of `logit_normal`; above 0 it draws clean data more often.
        logit_std: Standard deviation of `logit_normal`, above 0.
        mode_scale: Scale of `mode`, from -1 to 1.75: there its map of times is one to one.
        precondition_outputs: Regress $\hat x = z - \sigma\hat u$ instead of the network's $\hat u$
            in flow matching, a coefficient $\sigma^2$.

    Raises:
        ValueError: If a flag has an invalid value, or no effect without another flag.
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
        one_of(flags, "prediction", None, (None, *get_args(Prediction)))
        one_of(flags, "weighting_scheme", "none", get_args(Scheme))
        number(flags, "logit_mean", 0.0)
        number(flags, "logit_std", 1.0, above=0)
        if self.snr_gamma is not None:
            number(flags, "snr_gamma", 1.0, above=0)
        if not -1 <= self.mode_scale <= 2 / (math.pi - 2):
            raise ValueError(f"mode_scale is {self.mode_scale}: give a number from -1 to 1.75.")
        schemes = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        for key, scheme in schemes.items():
            if flags[key] != getattr(Training, key) and self.weighting_scheme != scheme:
                raise ValueError(f"{key} does nothing without weighting_scheme {scheme}: add it.")


PREDICTIONS: dict[str, Parameterization] = {"eps": Eps(), "x": X(), "v": V(), "flow": Flow()}
PREDICTION_TYPES: dict[str, Prediction] = {
    "epsilon": "eps",
    "sample": "x",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


def step_probability(training: Training, u: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Return the probability of training timesteps between successive entries of `u`."""
    if training.weighting_scheme == "logit_normal":
        z = (torch.logit(u) - training.logit_mean) / (training.logit_std * math.sqrt(2))
        return torch.where(z[1:] < 0, torch.erfc(-z).diff(), -torch.erfc(z).diff()) / 2
    if training.weighting_scheme == "mode":
        low, high = torch.zeros_like(u), torch.ones_like(u)
        for _ in range(60):  # bisection of u = w + s (w - sin^2(pi w / 2)) for w in [0, 1]
            w = (low + high) / 2
            is_below = w + training.mode_scale * (w - torch.sin(math.pi / 2 * w) ** 2) < u
            low, high = torch.where(is_below, w, low), torch.where(is_below, high, w)
        return high.diff()
    return u.diff()


def scheme_weight(training: Training, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return the coefficient of the loss at a time of flow matching, by the script's flags."""
    if training.weighting_scheme == "sigma_sqrt":
        return t**-2
    if training.weighting_scheme == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))
    return torch.ones_like(t)


def num_steps_of(config: Config) -> int:
    value = config.get("num_train_timesteps", 1000)
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise ValueError(f"num_train_timesteps is {value!r}: give a whole number, 1 to 1000000.")
    return value


def number(config: Config, key: str, default: float, *, above: float = -math.inf) -> float:
    value = config.get(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and above < value < 1e100):
        least = "" if above == -math.inf else f" above {above:g}"
        raise ValueError(f"{key} is {value!r}: give a finite number{least}.")
    return float(value)


def flag(config: Config, key: str) -> bool:
    return bool(one_of(config, key, False, (False, True, None)))


def one_of(config: Config, key: str, default: Any, options: tuple[Any, ...]) -> Any:
    value = config.get(key, default)
    if value not in options:
        raise ValueError(f"{key} is {value!r}: give one of {', '.join(map(str, options))}.")
    return value
