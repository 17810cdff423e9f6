r"""Flow matching with time shift $s$, $\lambda_i = 2\ln\frac{N - i}{s\,i}$."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers.training import (
    PREDICTIONS,
    Config,
    Training,
    flag,
    num_steps_of,
    number,
    prediction_type,
    table_of,
)
from elbos.audit import LossTable
from elbos.audit.diagnostics import Diagnostic, DynamicShift, LogitMean, SamplingOnly


def from_flow(
    shift_key: str, has_dynamic_shift: bool, config: Config, training: Training
) -> LossTable:
    name, num_steps, is_solver = config["_class_name"], num_steps_of(config), shift_key != "shift"
    if training.snr_gamma is not None:
        raise ValueError(f"snr_gamma needs betas, and {name} has none here: leave it out.")
    prediction = training.prediction or (prediction_type(config) if is_solver else "flow")
    if prediction == "v":
        raise ValueError(f"{name} is on the path of flow matching: predict flow, x or eps, not v.")
    if training.precondition_outputs and prediction != "flow":
        raise ValueError(f"precondition_outputs is not for {prediction}: predict flow.")
    is_dynamic = has_dynamic_shift and flag(config, "use_dynamic_shifting")
    shift = 1.0 if is_dynamic else number(config, shift_key, 1.0, above=0)
    i = torch.arange(num_steps, 0, -1, dtype=torch.float64)  # scripts count from noise to data
    logsnr = 2 * (torch.log(num_steps - i) - torch.log(i) - math.log(shift))
    has_mean = training.weighting_scheme == "logit_normal" and training.logit_mean != 0
    found: list[tuple[bool, Diagnostic]] = [
        (is_dynamic, DynamicShift(name)),
        (is_solver, SamplingOnly(name)),
        (has_mean, LogitMean(name)),
    ]
    diagnostics = [finding for is_found, finding in found if is_found]
    coefficient = _flow_coefficient(training, torch.sigmoid(-logsnr / 2))
    target = PREDICTIONS[prediction]
    return table_of(config, training, logsnr, target, coefficient, diagnostics=diagnostics)


def _flow_coefficient(training: Training, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    coefficient = torch.ones_like(sigma)
    if training.weighting_scheme == "sigma_sqrt":
        coefficient = sigma**-2
    if training.weighting_scheme == "cosmap":
        coefficient = 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
    return coefficient * sigma**2 if training.precondition_outputs else coefficient
