r"""Denoiser of $z$ at any log-SNR, made of a diffusers network and its scheduler.

The scheduler determines the network's timestep and input scale at a noise level (`timesteps`). Its
`prediction_type` determines the network's target: $\epsilon$, $x$, $v$, the velocity of flow
matching, or EDM's $F$, each a pair $(a, b)$ of a `Parameterization` whose 2x2 solve gives both
estimates. Clipping in sampling is left to samplers (`clipping`).

The data are in the scale of the network's training: images in [-1, 1], or scaled latents. A network
that is called otherwise, with packed latents, other times or another sign, is given as a function
of `(z, timestep, **conditions)` that calls it, as in examples/packed_latents.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers.schedulers import BETAS, loss_table
from elbos.adapters.diffusers.timesteps import FlowTime, Levels, LogSigma, Steps
from elbos.adapters.diffusers.training import Config, Training, flag, num_steps_of, number
from elbos.audit import LossTable
from elbos.base.conditions import Condition
from elbos.models.calls import ForeignNetwork, input_dtype, output, require_logsnr, require_output
from elbos.theory.denoiser import Clipping, signature, unwrapped
from elbos.theory.parameterizations import EDM, Parameterization, V
from elbos.theory.process import align

_CALLED_OTHERWISE = (  # prefixes of class names: latents are packed, or time or sign is another
    *("AuraFlow", "BriaFibo2", "Chroma", "Flux", "HiDream", "Ideogram4", "Krea2", "LongCat"),
    *("Lumina", "Ovis", "PRX", "Qwen", "ZImage"),
)


@dataclass(frozen=True, kw_only=True)
class ScheduledDenoiser:
    r"""Denoiser made of a diffusers network and its noise scheduler.

    Attributes:
        network: Called as `network(c_in z, timestep)`.
        parameterization: The target that the network predicts.
        levels: The noise levels of the scheduler.
        sign: The factor of the network output, -1 where diffusers reverses its sign.
        is_discrete: Whether the timestep is rounded to the nearest step.
        time_name: The keyword of the timestep; None for the second positional argument.
        clipping: The scheduler's clipping of $\hat x$, which samplers apply; None without it.
    """

    network: ForeignNetwork
    parameterization: Parameterization
    levels: Levels
    sign: float
    is_discrete: bool
    time_name: str | None
    clipping: Clipping | None = None

    @property
    def logsnr_min(self) -> float:
        return self.levels.logsnr_min

    @property
    def logsnr_max(self) -> float:
        return self.levels.logsnr_max

    def timestep(self, logsnr: Float[Tensor, " b"], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the timestep of the network at a log-SNR.

        It is an integer if timesteps are discrete. Other timesteps are float64 if the network's
        parameters are (or `dtype` is, for a network without parameters), else float32.
        """
        timestep = self.levels.timestep(logsnr)
        if self.is_discrete:
            return timestep.round().long().to(logsnr.device)
        is_double = input_dtype(self.network, torch.empty(0, dtype=dtype)) == torch.float64
        dtype = torch.float64 if is_double else torch.float32
        return timestep.to(dtype).to(logsnr.device)

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        r"""Estimate data and noise, $(\hat x, \hat\epsilon)$, from noisy data $z$.

        Args:
            z: Noisy data.
            logsnr: Log-SNR $\lambda$, within `logsnr_min` and `logsnr_max`.
            cond: None, class labels, or a dict of the network's keywords, such as
                `{"encoder_hidden_states": text}`.

        Raises:
            ValueError: If a noise level is out of range, or network, condition and data do not fit.
        """
        logsnr = logsnr.expand(len(z)).to(z.device)
        require_logsnr(logsnr, self.logsnr_min, self.logsnr_max, "the scheduler's steps")
        scaled = z * self.levels.input_scale(align(logsnr, z)).to(z)
        timestep = self.timestep(logsnr, scaled.dtype)
        named = cond if cond is None or isinstance(cond, Mapping) else {"class_labels": cond}
        if self.time_name is None:
            y = output(self.network, scaled, timestep, cond=named)
        else:
            y = output(self.network, scaled, cond=named, **{self.time_name: timestep})
        if y.shape[1:2] == (2 * z.shape[1],) and y.shape[2:] == z.shape[2:]:
            y = y[:, : z.shape[1]]  # without a learned variance, the second half of the channels
        return self.parameterization.split(self.sign * require_output(y, z, logsnr), z, logsnr)


def denoiser(
    network: ForeignNetwork,
    scheduler: Any,
    *,
    is_discrete: bool = False,
) -> ScheduledDenoiser:
    r"""Return a denoiser made of a diffusers UNet or transformer and its noise scheduler.

    Args:
        network: Any module or function that is called `network(sample, timestep, ...)` or
            `network(hidden_states, timestep=timestep, ...)` and returns a tensor, a tuple or an
            object with `.sample`. Where it returns twice the channels (a learned variance), the
            first half is taken, as diffusers does.
        scheduler: A scheduler of betas, flow matching or EDM, or its configuration. Its steps say
            at which noise levels the denoiser can be called: `logsnr_min` and `logsnr_max`.
        is_discrete: Whether the timestep is rounded to the nearest step, for networks that look it
            up in a table. Default: only where diffusers' configuration says so
            (`time_embedding_type` learned); sines and cosines take fractional ones.

    Returns:
        The denoiser, called as `(z, logsnr, cond)`. Conditions are class labels, or a dict of the
        network's keywords: `encoder_hidden_states`, `pooled_projections`, `added_cond_kwargs`.

    Raises:
        ValueError: If the scheduler is unknown or malformed, or does not fit the network.

    Examples:
        >>> from elbos.theory.parameterizations import V
        >>> config = {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}
        >>> wiener = denoiser(lambda z, timestep: torch.zeros_like(z), config)  # x ~ N(0, 1)
        >>> f"{wiener.logsnr_min:.2f} to {wiener.logsnr_max:.2f}"
        '-10.12 to 9.21'
        >>> wiener(torch.ones(1, 2), torch.tensor([0.0]))[0]
        tensor([[0.7071, 0.7071]])
    """
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"scheduler is of type {type(scheduler).__name__}: give one of diffusers' schedulers, "
            "or the dict of its scheduler_config.json."
        )
    if config is not scheduler:
        config = {**config, "_class_name": type(scheduler).__name__}
        if config.get("trained_betas") is not None:
            config["trained_betas"] = [float(beta) for beta in config["trained_betas"]]
    table = loss_table(config, Training())
    levels = levels_of(config, table)
    table_of_scheduler = getattr(scheduler, "alphas_cumprod", None)
    if isinstance(levels, Steps) and isinstance(table_of_scheduler, Tensor):
        alpha_bar, step = table_of_scheduler.double().cpu(), levels.step
        expected = torch.sigmoid(levels.logsnr)
        is_long = len(alpha_bar) > int(step[-1])
        if not (is_long and torch.allclose(alpha_bar[step], expected, rtol=1e-3, atol=1e-5)):
            raise ValueError(
                f"the alphas_cumprod of the {type(scheduler).__name__} are not those of its "
                "configuration: give a scheduler with trained_betas."
            )
    inner = unwrapped(network)
    network_config = getattr(inner, "config", None)
    network_config = network_config if isinstance(network_config, Mapping) else {}
    is_discrete = is_discrete or network_config.get("time_embedding_type") == "learned"
    _require_fit(type(inner).__name__, network_config, levels, is_discrete)
    try:
        names = [*signature(network).parameters]
    except (TypeError, ValueError):
        names = []
    return ScheduledDenoiser(
        network=network,
        parameterization=table.parameterization,
        levels=levels,
        sign=table.factor,
        is_discrete=is_discrete,
        time_name=next((name for name in ("timestep", "timesteps") if name in names), None),
        clipping=_clipping(config),
    )


def _clipping(config: Config) -> Clipping | None:
    if flag(config, "thresholding"):
        return Clipping(
            limit=number(config, "sample_max_value", 1.0, above=0),
            quantile=number(config, "dynamic_thresholding_ratio", 0.995, above=0),
        )
    kind = BETAS.get(config["_class_name"])
    if kind is not None and kind.clips is not None and config.get("clip_sample", kind.clips):
        return Clipping(limit=number(config, "clip_sample_range", 1.0, above=0))
    return None


def _require_fit(
    name: str, network_config: Mapping[str, Any], levels: Levels, is_discrete: bool
) -> None:
    if name.startswith(_CALLED_OTHERWISE):
        raise ValueError(
            f"{name} takes packed latents, or another time or sign than the scheduler's: give a "
            "function of (z, timestep, **conditions) that calls it."
        )
    if is_discrete and isinstance(levels, LogSigma):
        raise ValueError("the scheduler's timesteps are ln(sigma) / 4: leave out is_discrete.")
    if network_config.get("time_embedding_type") == "fourier":
        raise ValueError(
            f"{name} has a fourier time_embedding_type, which takes the sigma of data with noise "
            "added: no scheduler here has that as timestep."
        )
    num_known, num_steps = network_config.get("num_train_timesteps"), levels.num_steps
    if is_discrete and num_known is not None and num_known < num_steps:
        raise ValueError(
            f"{name} knows {num_known} timesteps, and the scheduler has {num_steps}: give the "
            "scheduler that it was trained with."
        )


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
