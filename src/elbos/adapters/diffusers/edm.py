r"""EDM's grid of noise levels, $\lambda_i = -2\ln\tilde\sigma_i$."""

import math
from dataclasses import replace

import torch

from elbos.adapters.diffusers.training import (
    Config,
    Training,
    num_steps_of,
    number,
    one_of,
    refuse_flow_flags,
    table_of,
)
from elbos.audit import LossTable
from elbos.audit.diagnostics import Diagnostic, EdmStyle, SigmaMinNotDrawn
from elbos.theory.parameterizations import EDM


def from_edm(draws_sigma_min: bool, config: Config, training: Training) -> LossTable:
    name, num_steps = config["_class_name"], num_steps_of(config)
    refuse_flow_flags(name, training)
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
    diagnostics: list[Diagnostic] = [EdmStyle()]
    if draws_sigma_min:
        diagnostics.append(SigmaMinNotDrawn())
    f = EDM(sigma_data=sigma_data)
    table = table_of(config, training, logsnr, f, square_of_c_out, diagnostics=diagnostics)
    return table if predicts == "epsilon" else replace(table, factor=-1.0)
