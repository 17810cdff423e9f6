r"""Trainer FastVideo: fine-tuning on a table of 1,000 flow-matching steps, from a YAML file of its
`train` package.

`train/models/wan/wan.py` draws a step of the table by `weighting_scheme`: uniformly, logit-normal
or by mode, from noise to data; with `sigma_sqrt` and `cosmap` it draws uniformly and weighs
nothing. The table is shifted by `flow_shift` of the student; `pipeline.flow_shift` is of the
validation only. `train/methods/fine_tuning/finetune.py` takes the squared error of
$\epsilon - x$, or with `precondition_outputs` that of $x$, from $z - t\hat u$: a coefficient $t^2$.

References:
    https://github.com/hao-ai-lab/FastVideo
"""

import re
from dataclasses import replace

import torch

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.trainers.flow import time_of
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Option, Trainer
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds

_SHIFTS = {"wan": 3.0, "hunyuan": 7.0, "kandinsky5": 5.0, "cosmos": 1.0, "longcat": 12.0}
_SHIFTS["matrixgame2"] = 3.0
_SCHEMES = ("uniform", "logit_normal", "mode", "sigma_sqrt", "cosmap")


def _read(settings: Settings) -> LossTable:
    method = settings.text("method._target_", "FineTuneMethod")
    if not method.endswith(".FineTuneMethod") and method != "FineTuneMethod":
        raise ValueError(f"method is {method}: only FineTuneMethod is supported.")
    found = re.search(r"models\.(\w+)", settings.text("student._target_", "models.wan"))
    model = found[1] if found else ""
    if model not in _SHIFTS:
        raise ValueError(f"The student is {model!r}: the losses of {', '.join(_SHIFTS)} are known.")
    shift = settings.number("student.flow_shift", _SHIFTS[model], above=0)
    if settings.has("pipeline.flow_shift"):
        settings.diagnostics.append(kinds.SettingIgnored("pipeline.flow_shift"))
    scheme = settings.one_of("weighting_scheme", "uniform", _SCHEMES)
    training = Training()
    if scheme == "logit_normal":
        mean, std = settings.number("logit_mean", 0), settings.number("logit_std", 1, above=0)
        training = Training(weighting_scheme="logit_normal", logit_mean=mean, logit_std=std)
    elif scheme == "mode":
        scale = settings.number("mode_scale", 0, low=-1, high=1.75) or 1.0
        training = Training(weighting_scheme="mode", mode_scale=scale)
    elif scheme != "uniform":
        settings.diagnostics.append(kinds.SettingIgnored(f"weighting_scheme {scheme}"))
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift}
    table = replace(loss_table(config, training), title=f"FastVideo, {model}")
    if settings.flag("precondition_outputs"):
        return replace(table, coefficient=time_of(table.logsnr) ** 2)
    return replace(table, coefficient=torch.ones_like(table.logsnr))


_SHIFT = {"student.flow_shift": (3.0, 0.05, 50.0)}
FASTVIDEO = Trainer(
    name="fastvideo",
    version="FastVideo 0.2.0, 2f3d407",
    package=("fastvideo", "0.2.0"),
    read=_read,
    is_flags=False,
    options=(
        Option(settings={"weighting_scheme": "uniform"}, free=_SHIFT),
        Option(settings={"precondition_outputs": True}, free=_SHIFT),
        Option(
            settings={"weighting_scheme": "logit_normal"},
            free={"logit_std": (1.0, 0.2, 4.0), **_SHIFT},
        ),
    ),
)
