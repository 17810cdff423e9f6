r"""Trainer LTX-2: times that depend on the number of tokens, from a YAML file of `ltx_trainer`.

`timestep_samplers.py` draws $s = \mathrm{sigmoid}(\mu + \sigma n)$ with $n \sim N(0, 1)$ and $\mu$
linear in the tokens, through (1024, 0.95) and (4096, 2.05), stretches it so that its .5 % and
99.9 % quantiles are 0 and 1, reflects it at $\varepsilon$ = `eps` and cuts it at 1, which is pure
noise. A share `uniform_prob`, by default 10 %, is uniform from $\varepsilon$ to 1. The loss is the
plain $\|\hat u - (\epsilon - x)\|^2$.

The tokens follow from `resolution_buckets` of its `process_dataset.py`. Where audio is generated,
too, its loss is added, with times by its own number of tokens. Conditions are clean positions,
which have no loss.

References:
    https://github.com/Lightricks/LTX-2
"""

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.trainers.flow import flow_loss, logsnr_of, time_of
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import flow_table
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.schedules import Flow as Uniform
from elbos.theory.schedules import FlowTimes

_BUCKET = "960x544x49"  # width, height and frames of the trainer's examples
_NUM_CELLS = 4000
_NOISIEST = -20.0  # log-SNR from which times count as 1


def _read(settings: Settings) -> Loss:
    modes = ("shifted_logit_normal", "uniform")
    if settings.one_of("timestep_sampling_mode", modes[0], modes) == "uniform":
        low = settings.number("min_value", 0, low=0, high=1)
        high = settings.number("max_value", 1, above=low, high=1)
        inner = FlowTimes(inner=Uniform(), time_min=low, time_max=high)
        return flow_loss("LTX-2, uniform", inner)
    std = settings.number("timestep_sampling_params.std", 1, above=0)
    eps = settings.number("timestep_sampling_params.eps", 1e-3, above=0, high=0.1)
    share = settings.number("uniform_prob", 0.1, low=0, high=1)
    is_video, is_audio = (settings.flag(f"{one}.is_generated") for one in ("video", "audio"))
    if is_audio and not is_video:
        raise ValueError(
            "training_strategy generates audio alone, whose times are not computed here: give a "
            "configuration that generates video."
        )
    mu = 0.95 + (2.05 - 0.95) * (_num_tokens(settings) - 1024) / (4096 - 1024)
    low, high = (1 / (1 + math.exp(-mu - std * n)) for n in (-2.5758, 3.0902))

    def stretched(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        n = (torch.logit((low + t * (high - low)).clamp(0, 1)) - mu) / std
        p: Tensor = torch.special.ndtr(n)
        return p  # the probability of times up to t, before the reflection

    start, end = logsnr_of(torch.tensor([1 - 1e-9, eps], dtype=torch.float64)).tolist()
    edges = torch.linspace(max(start, _NOISIEST), end, _NUM_CELLS + 1, dtype=torch.float64)
    t = time_of(edges)
    below = (1 - share) * (stretched(t) - stretched(2 * eps - t)) + share * (t - eps) / (1 - eps)
    p = torch.cat([1 - below[:1], -below.diff()])
    middle = time_of((edges[1:] + edges[:-1]) / 2)
    return flow_table("LTX-2", torch.cat([torch.ones(1, dtype=torch.float64), middle]), p)


def _num_tokens(settings: Settings) -> int:
    text = settings.text("resolution_buckets")
    if not text:
        text = _BUCKET
        found = kinds.DeclaredResolution(resolution=text, setting="resolution_buckets")
        settings.diagnostics.append(found)
    sides = [int(side) for side in re.findall(r"\d+", text)]
    if len(sides) != 3 or not all(sides):
        raise ValueError(
            f"resolution_buckets is {text[:40]!r}: give one of process_dataset.py, as 960x544x49, "
            "whose number of tokens decides the times."
        )
    width, height, frames = sides
    return (width // 32) * (height // 32) * ((frames - 1) // 8 + 1)


LTX = Trainer(
    name="ltx",
    version="LTX-2 trainer 1.2.0, 400fd31",
    package=("ltx-trainer", "1.2.0"),
    read=_read,
    is_flags=False,
    findings={
        kinds.DeclaredUneven: ("first_frame_conditioning_p", "video.conditions"),
        kinds.DeclaredTerm: ("with_audio", "audio.is_generated"),
    },
    options=(
        Option(
            settings={"resolution_buckets": _BUCKET},
            free={
                "timestep_sampling_params.std": (1.0, 0.2, 4.0),
                "uniform_prob": (0.1, 0.0, 1.0),
            },
        ),
        Option(settings={"timestep_sampling_mode": "uniform"}),
    ),
)
