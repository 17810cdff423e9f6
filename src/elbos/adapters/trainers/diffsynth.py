r"""Trainer DiffSynth-Studio: a table of 1,000 time steps per model, and a bell-shaped weight.

`diffsynth/diffusion/loss.py`, `FlowMatchSFTLoss`: a step $i$ is uniform between two boundaries,
fractions of the table from noise to data. Its time is cast to bfloat16, and noise level and weight
are taken from the nearest step: of the noisiest steps, one in four is reached. The curves here use
all steps, which the rounding moves by at most half a gap, except that steps rounded to pure noise
count there. The coefficient is

$$c = e^{-2 (t - 1/2)^2} - \min_j e^{-2 (t_j - 1/2)^2}.$$

`flow_match.py` has the tables. Most are $t = $ shifted $1, .999, \ldots, .001$, by 5 for Wan, 3 for
Z-Image, $e^{.8}$ for Qwen-Image, ...; Qwen-Image's and LTX-2's are stretched to end at .02 and .1.
Resolution does not matter in training. Stable Diffusion (`ddim_scheduler.py`) has its own table,
in float32, and no weight.

The model is read from `model_id_with_origin_paths`; if that is ambiguous, give the name of the
table as `template`.

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
    NUM_STEPS,
    even_times,
    flow_table,
    stable_diffusion,
    steps_between,
)
from elbos.adapters.trainers.trainer import Option, Trainer
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds
from elbos.theory.recipes.flow import bell


def _stretched(shift: float, end: float) -> Float[Tensor, " n"]:
    data = 1 - even_times(shift)
    return 1 - data * (1 - end) / data[-1]


_TABLES: dict[str, Callable[[], Tensor]] = {
    "FLUX.1": lambda: even_times(3.0, 0.003 / 1.002),
    "FLUX.2": lambda: even_times(math.exp(0.8)),
    "Wan": lambda: even_times(5.0),
    "LingBot-Video": lambda: even_times(5.0),
    "Qwen-Image": lambda: _stretched(math.exp(0.8), 0.02),
    "Z-Image": lambda: even_times(3.0),
    "ERNIE-Image": lambda: even_times(3.0),
    "ACE-Step": lambda: even_times(3.0),
    "LTX-2": lambda: _stretched(math.exp(2.05), 0.1),
    "Krea-2": lambda: even_times(math.exp(0.8)),
    "Boogu": lambda: even_times(math.exp(1.15)),
    "MiniMax-Music3": lambda: even_times(1.0),
}
_DIFFUSION = "Stable-Diffusion"
_IDS = {  # pattern in a model id: template; the first match counts
    "FLUX.2": "FLUX.2",
    "Qwen-Image": "Qwen-Image",
    "Z-Image|Anima": "Z-Image",
    "Wan|VACE|MOVA|JoyAI-Image|LongCat|krea-realtime": "Wan",
    "FLUX.1|Flex": "FLUX.1",
    "stable-diffusion": _DIFFUSION,
    **{name: name for name in ("LTX-2", "LingBot-Video", "ERNIE-Image", "ACE-Step", "Krea-2")},
    **{name: name for name in ("Boogu", "MiniMax-Music3")},
}


def _read(settings: Settings) -> LossTable:
    names = (*_TABLES, _DIFFUSION)
    if settings.has("template"):
        template = settings.one_of("template", "Wan", names)
    else:
        ids = settings.text("model_id_with_origin_paths")
        patterns = [one for one in _IDS if re.search(one, ids, flags=re.IGNORECASE)]
        if not patterns:
            raise ValueError(
                "model_id_with_origin_paths names no known model: give template, one of "
                f"{', '.join(names)}."
            )
        template = _IDS[patterns[0]]
    title = f"DiffSynth, {template}"
    settings.one_of("task", "sft", ("sft", "sft:train", "sft:data_process"))
    if template == _DIFFUSION:
        return stable_diffusion(title)
    ends = ("min_timestep_boundary", "max_timestep_boundary")
    step = torch.arange(*steps_between(settings, *ends, is_share=True, least=3))
    t = _TABLES[template]()
    times = (t if template == "Krea-2" else 1 - t if template == "Boogu" else t * NUM_STEPS).float()
    nearest = (times.bfloat16().float()[step, None] - times[None]).abs().argmin(dim=1)
    settings.diagnostics.append(
        kinds.RoundedTimes(dtype="bfloat16", num_levels=len(set(nearest.tolist())))
    )
    step = torch.where(t[nearest] == 1, nearest, step)
    is_drawn = torch.bincount(step, minlength=NUM_STEPS).double()
    return flow_table(title, t, is_drawn, bell(t) - bell(t).min())


DIFFSYNTH = Trainer(
    name="diffsynth",
    version="DiffSynth-Studio 2.1.2, fed7b18",
    package=("diffsynth", "2.1.2"),
    read=_read,
    options=tuple(Option(settings={"template": name}) for name in (*_TABLES, _DIFFUSION)),
    findings={kinds.DeclaredNoise: ("noise_scale",)},
)
