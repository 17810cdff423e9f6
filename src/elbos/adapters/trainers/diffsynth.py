r"""DiffSynth-Studio: a table of 1,000 steps for each model, times a bell.

`diffsynth/diffusion/loss.py`, `FlowMatchSFTLoss`: a step $i$, uniform between the two boundaries,
shares of the table from noise to data. Its time is cast to bfloat16, and noise and weight are
those of the step that is then nearest: of the noisiest, one in four is left. The curves are those
of all steps, which the rounding moves by half a gap at most; what it moves to pure noise counts
there. The coefficient is

$$c = e^{-2 (t - 1/2)^2} - \min_j e^{-2 (t_j - 1/2)^2}.$$

`flow_match.py` has the tables. Most are $t = $ shifted $1, .999, \ldots, .001$, by 5 for Wan, 3 for
Z-Image, $e^{.8}$ for Qwen-Image, ...; Qwen-Image's and LTX-2's are stretched to end at .02 and .1.
Resolution does not matter in training. Stable Diffusion (`ddim_scheduler.py`) has its own table,
in float32, and no weight.

A command's model is in `model_id_with_origin_paths`; where that says too little, give the name
of the table as `template`.

References:
    https://github.com/modelscope/DiffSynth-Studio
"""

import math
import re
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import (
    findings,
    flow_table,
    shifted,
    stable_diffusion_logsnr,
)
from elbos.adapters.trainers.trainer import Option, Trainer
from elbos.audit import LossTable
from elbos.audit.diagnostics import DeclaredNoise, Diagnostic, RoundedTimes
from elbos.theory.parameterizations import Eps

_N = 1000
_FLOW_TASKS = ("sft", "sft:train", "sft:data_process")


def _even(shift: float, last: float = 0.001) -> Float[Tensor, " n"]:
    return shifted(torch.linspace(1, last, _N, dtype=torch.float64), shift)


def _stretched(shift: float, end: float) -> Float[Tensor, " n"]:
    data = 1 - _even(shift)
    return 1 - data * (1 - end) / data[-1]


_TABLES: dict[str, Callable[[], Tensor]] = {
    "FLUX.1": lambda: _even(3.0, 0.003 / 1.002),
    "FLUX.2": lambda: _even(math.exp(0.8)),
    "Wan": lambda: _even(5.0),
    "LingBot-Video": lambda: _even(5.0),
    "Qwen-Image": lambda: _stretched(math.exp(0.8), 0.02),
    "Z-Image": lambda: _even(3.0),
    "ERNIE-Image": lambda: _even(3.0),
    "ACE-Step": lambda: _even(3.0),
    "LTX-2": lambda: _stretched(math.exp(2.05), 0.1),
    "Krea-2": lambda: _even(math.exp(0.8)),
    "Boogu": lambda: _even(math.exp(1.15)),
    "MiniMax-Music3": lambda: _even(1.0),
}
_DIFFUSION = "Stable-Diffusion"
_IDS = {  # what a model's id contains: the template, the first that fits
    "FLUX.2": "FLUX.2",
    "Qwen-Image": "Qwen-Image",
    "Z-Image|Anima": "Z-Image",
    "Wan|VACE|MOVA|JoyAI-Image|LongCat|krea-realtime": "Wan",
    "FLUX.1|Flex": "FLUX.1",
    "stable-diffusion": _DIFFUSION,
    **{name: name for name in ("LTX-2", "LingBot-Video", "ERNIE-Image", "ACE-Step", "Krea-2")},
    **{name: name for name in ("Boogu", "MiniMax-Music3")},
}


def _template(settings: Settings) -> str:
    if settings.has("template"):
        return settings.one_of("template", "Wan", (*_TABLES, _DIFFUSION))
    ids = settings.text("model_id_with_origin_paths")
    for pattern, template in _IDS.items():
        if re.search(pattern, ids, flags=re.IGNORECASE):
            return template
    names = ", ".join([*_TABLES, _DIFFUSION])
    raise ValueError(
        f"model_id_with_origin_paths names no known model: give template, one of {names}."
    )


def _read(settings: Settings) -> LossTable:
    template = _template(settings)
    settings.one_of("task", "sft", _FLOW_TASKS)
    found = findings(settings, {"noise_scale": DeclaredNoise})
    if template == _DIFFUSION:
        return _diffusion(found)
    first = settings.number("min_timestep_boundary", 0.0, low=0, high=1)
    last = settings.number("max_timestep_boundary", 1.0, low=0, high=1)
    if int(last * _N) - int(first * _N) < 3:
        raise ValueError(f"max_timestep_boundary is {last:g}: give more than the min., {first:g}.")
    step = torch.arange(int(first * _N), int(last * _N))
    t = _TABLES[template]()
    bell = torch.exp(-2 * (t - 0.5) ** 2)
    nearest = _nearest(t, template)[step]
    num_levels = len(set(nearest.tolist()))
    rounded = RoundedTimes(dtype="bfloat16", num_levels=num_levels)
    step = torch.where(t[nearest] == 1, nearest, step)
    is_drawn = torch.bincount(step, minlength=_N).double()
    title = f"DiffSynth, {template}"
    return flow_table(title, t, is_drawn, bell - bell.min(), (*found, rounded))


def _nearest(t: Float[Tensor, " n"], template: str) -> Tensor:
    """The step that each step becomes after its time was in bfloat16."""
    times = (t if template == "Krea-2" else 1 - t if template == "Boogu" else t * _N).float()
    return (times.bfloat16().float()[:, None] - times[None]).abs().argmin(dim=1)


def _diffusion(found: tuple[Diagnostic, ...]) -> LossTable:
    logsnr = stable_diffusion_logsnr()
    return LossTable(
        title=f"DiffSynth, {_DIFFUSION}",
        logsnr=logsnr,
        probability=torch.full_like(logsnr, 1 / _N),
        coefficient=torch.ones_like(logsnr),
        parameterization=Eps(),
        diagnostics=found,
    )


DIFFSYNTH = Trainer(
    name="diffsynth",
    version="DiffSynth-Studio 2.1.2, fed7b18",
    read=_read,
    options=tuple(Option(settings={"template": name}) for name in (*_TABLES, _DIFFUSION)),
)
