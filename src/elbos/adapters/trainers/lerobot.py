r"""Trainer lerobot: policies that denoise actions (pi0, pi0.5, EO-1, SmolVLA and Diffusion Policy).

`policies/common/flow_matching.py` draws times

$$t = s\,b + o, \qquad b \sim \mathrm{Beta}(\alpha, \beta),$$

with $s = .999$, $o = .001$ and $\mathrm{Beta}(1.5, 1)$ unless the settings
`time_sampling_*` of pi0, pi0.5 or EO-1 say otherwise; SmolVLA
(`policies/smolvla/modeling_smolvla.py`) has no settings
for them. The loss is the plain $\|\hat u - (\epsilon - x)\|^2$, so
$w \propto t^\alpha(1 - t)^{\beta - 2}$ where $s = 1$. Diffusion Policy
(`policies/diffusion/modeling_diffusion.py`) draws the steps of a DDPM table uniformly, by default
100 of a cosine schedule, and regresses noise or data without a weight.

References:
    https://github.com/huggingface/lerobot; Black et al. (2024), https://arxiv.org/abs/2410.24164
"""

from dataclasses import replace

from elbos.adapters import diffusers
from elbos.adapters.trainers.flow import flow_loss
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.schedules import Beta, FlowTimes


def _read(settings: Settings) -> Loss:
    key = "policy.type" if settings.has("policy.type") else "type"
    policy = settings.one_of(key, "pi0", ("pi0", "pi05", "eo1", "smolvla", "diffusion"))
    if policy == "diffusion":
        kind = settings.one_of("noise_scheduler_type", "DDPM", ("DDPM", "DDIM"))
        num_steps = settings.integer("num_train_timesteps", 100, low=3, high=100_000)
        config = {
            "_class_name": f"{kind}Scheduler",
            "num_train_timesteps": num_steps,
            "beta_schedule": settings.text("beta_schedule", "squaredcos_cap_v2"),
            "beta_start": settings.number("beta_start", 0.0001, low=0, high=1),
            "beta_end": settings.number("beta_end", 0.02, low=0, high=1),
            "prediction_type": settings.one_of("prediction_type", "epsilon", ("epsilon", "sample")),
        }
        table = diffusers.loss_table(config, diffusers.Training())
        return replace(table, title="lerobot, diffusion", diagnostics=())
    alpha, beta, scale, offset = 1.5, 1.0, 0.999, 0.001
    if policy != "smolvla":
        alpha = settings.number("time_sampling_beta_alpha", alpha, above=0)
        beta = settings.number("time_sampling_beta_beta", beta, above=0)
        scale = settings.number("time_sampling_scale", scale, above=0, high=1)
        offset = settings.number("time_sampling_offset", offset, low=0, high=1)
    if offset + scale > 1 + 1e-9:
        raise ValueError(
            f"time_sampling_scale + time_sampling_offset is {scale + offset:g}: times end at 1."
        )
    inner, last = Beta(a=alpha, b=beta), min(offset + scale, 1.0)
    schedule = FlowTimes(inner=inner, time_min=offset, time_max=last)
    return flow_loss(f"lerobot, {policy}", schedule)


LEROBOT = Trainer(
    name="lerobot",
    version="lerobot after 0.6.1, 7427f31",
    package=("lerobot", "0.6.2"),
    read=_read,
    options=(
        Option(
            settings={"policy.type": "pi0"},
            free={
                "time_sampling_beta_alpha": (1.5, 0.1, 10.0),
                "time_sampling_beta_beta": (1.0, 0.1, 10.0),
            },
        ),
    ),
    findings={
        kinds.DeclaredUneven: ("rtc_training_max_delay", "do_mask_loss_for_padding", "use_rabc"),
    },
)
