"""Recipes on the path of rectified flow, $z = (1 - \tau)x + \tau\\epsilon$."""

import math

from elbos.theory import schedules
from elbos.theory.parameterizations import Eps, Flow, X
from elbos.theory.recipes.recipe import Recipe
from elbos.theory.schedules import Beta, Cosine, FlowTimes, Mixture, Mode, Normal, Schedule, UShape

_SD3 = "Esser et al. (2024), https://arxiv.org/abs/2403.03206"
_SIT = "Ma et al. (2024), https://arxiv.org/abs/2401.08740"
_JIT = "Li & He (2025), https://arxiv.org/abs/2511.13720"
_SHIFT = f"{_SD3} (as set by trainers)"
_TRAINERS = "as set by trainers"


def _velocity(
    title: str,
    schedule: Schedule,
    reference: str,
    coefficient: str = "1",
) -> Recipe:
    return Recipe(
        title=title,
        schedule=schedule,
        parameterization=Flow(),
        coefficient=coefficient,
        reference=reference,
    )


def _logit_normal(title: str, mean: float, std: float, reference: str) -> Recipe:
    r"""Return the recipe of a velocity loss with logit-normal times.

    A time shift by $k$ adds $\ln k$ to the mean of the logit.
    """
    return _velocity(title, Normal.logit_normal(mean=mean, std=std), reference)


def _shifted(shift: float, reference: str) -> Recipe:
    schedule = schedules.Flow(shift=shift)
    return _velocity(f"flow matching with time shift {shift:g}", schedule, reference)


def _beta(title: str, a: float, b: float, reference: str) -> Recipe:
    return _velocity(title, Beta(a=a, b=b), reference)


def _mode(scale: float, reference: str) -> Recipe:
    title = f"flow matching, mode sampling of times, scale {scale:g}"
    return _velocity(title, Mode(scale=scale), reference)


def _bell_shaped(shift: float) -> Recipe:
    return _velocity(
        f"flow matching times a bell, time shift {shift:g}",
        schedules.Flow(shift=shift),
        _TRAINERS,
        "expm1(2*t*(1 - t))",  # exp(-2*(t - 1/2)**2) - exp(-1/2), up to a constant
    )


def _jit(title: str, noise_scale: float) -> Recipe:
    return Recipe(
        title=title,
        schedule=Normal(mean=-1.6 - 2 * math.log(noise_scale), std=1.6),
        parameterization=X(),
        coefficient=f"1/max(1/(1 + {noise_scale:g}*sqrt(snr)), 0.05)**2",
        reference=_JIT,
    )


_THREE = (
    Normal.logit_normal(mean=1.15),
    Normal(mean=-6.0, std=2.0),
    Normal(mean=5.36, std=1.0),
)

FLOW: dict[str, Recipe] = {
    "flow": _velocity(
        "flow matching on the OT path, uniform times",
        schedules.Flow(),
        "Lipman et al. (2023), https://arxiv.org/abs/2210.02747",
    ),
    "sit-velocity": _velocity("SiT, linear path, velocity loss", schedules.Flow(), _SIT),
    "sit-likelihood": _velocity(
        "SiT, linear path, likelihood weighting",
        schedules.Flow(),
        _SIT,
        "(1 - t)/t",
    ),
    "flow-eps": Recipe(
        title="eps-loss on the flow path, uniform times",
        schedule=schedules.Flow(),
        parameterization=Eps(),
        reference=_TRAINERS,
    ),
    "indi": Recipe(
        title="inversion by direct iteration: x-loss on the flow path",
        schedule=schedules.Flow(),
        parameterization=X(),
        reference="Delbracio & Milanfar (2023), https://arxiv.org/abs/2303.11435",
    ),
    "flow-shift-3": _shifted(3.0, _SD3),
    "flow-shift-5": _shifted(5.0, _SHIFT),
    "flow-shift-7": _shifted(7.0, _SHIFT),
    "sd3": _logit_normal("Stable Diffusion 3: flow matching, logit-normal(0, 1) times", 0, 1, _SD3),
    "sd3-logit-normal-0.5-0.6": _logit_normal(
        "flow matching, logit-normal(0.5, 0.6) times", 0.5, 0.6, _SD3
    ),
    **{
        f"logit-normal-shift-{k}": _logit_normal(
            f"flow matching, logit-normal(0, 1) times, time shift {k}", math.log(k), 1, _SHIFT
        )
        for k in (3, 5, 7)
    },
    "flux-1024": _logit_normal(
        "Flux' shift at 1024 x 1024, mu = 1.15, of logit-normal(0, 1) times", 1.15, 1, _TRAINERS
    ),
    "qwen-image-1024": _logit_normal(
        "Qwen-Image's shift at 1024 x 1024, mu = 0.694", 0.694, 1, _TRAINERS
    ),
    "meanflow": _logit_normal(
        "MeanFlow's times, logit-normal(-0.4, 1), where its target is the velocity",
        -0.4,
        1,
        "Geng et al. (2025), https://arxiv.org/abs/2505.13447",
    ),
    "style-friendly": _logit_normal(
        "style-friendly log-SNR, N(-6, 2^2)",
        3,
        1,
        "Choi et al. (2024), https://arxiv.org/abs/2411.14793",
    ),
    "three-densities": _velocity(
        "79 % Flux' shift, 11 % style-friendly, 10 % N(5.36, 1)",
        Mixture(schedules=_THREE, shares=(0.79, 0.11, 0.1)),
        _TRAINERS,
    ),
    "sd3-cosmap": _velocity("flow matching with the cosine schedule's times", Cosine(), _SD3),
    "cosmap-weight": _velocity(
        "flow matching, uniform times, weighted as the cosine schedule's times",
        schedules.Flow(),
        _SHIFT,
        "1/(1 - 2*t + 2*t**2)",
    ),
    "sigma-sqrt": _velocity(
        "flow matching, uniform times, weighted by 1/tau^2",
        schedules.Flow(),
        _TRAINERS,
        "1/t**2",
    ),
    "mode-0.81": _mode(0.81, _SHIFT),
    "mode-1.29": _mode(1.29, _SD3),
    "mode-1.75": _mode(1.75, _SD3),
    "pi0": _velocity(
        "pi0: Beta(1.5, 1) times u, mapped to 0.001 + 0.999 u",
        FlowTimes(inner=Beta(), time_min=0.001),
        "Black et al. (2024), https://arxiv.org/abs/2410.24164",
    ),
    "beta-2-2": _beta("flow matching, Beta(2, 2) times", 2.0, 2.0, _TRAINERS),
    "beta-1-2": _beta("flow matching, Beta(1, 2) times", 1.0, 2.0, _TRAINERS),
    "u-shape": _velocity(
        "flow matching, U-shaped density of times, a = 4",
        UShape(),
        "Lee et al. (2024), https://arxiv.org/abs/2405.20320",
    ),
    "bell": _bell_shaped(1.0),
    "bell-shift-3": _bell_shaped(3.0),
    "bell-shift-5": _bell_shaped(5.0),
    "jit": _jit("JiT at 256 x 256: x-prediction, v-loss, logit-normal(-0.8, 0.8)", 1.0),
    "jit-512": _jit("JiT at 512 x 512: the same with twice the noise", 2.0),
    "torchtitan-flux": _velocity(
        "torchtitan's Flux: flow matching, uniform times",
        schedules.Flow(),
        f"https://github.com/pytorch/torchtitan ({_TRAINERS})",
    ),
    "lerobot-smolvla": _velocity(
        "lerobot's SmolVLA: Beta(1.5, 1) times u, mapped to 0.001 + 0.999 u",
        FlowTimes(inner=Beta(), time_min=0.001),
        f"https://github.com/huggingface/lerobot ({_TRAINERS})",
    ),
    "automodel-beta": _beta(
        "NeMo AutoModel: Beta(2.5, 1.5) times, without its weights",
        2.5,
        1.5,
        f"https://github.com/NVIDIA-NeMo/Automodel ({_TRAINERS})",
    ),
    "fastvideo-hunyuan": _velocity(
        "FastVideo's fine-tuning of HunyuanVideo: flow matching, time shift 7",
        schedules.Flow(shift=7.0),
        f"https://github.com/hao-ai-lab/FastVideo ({_TRAINERS})",
    ),
    "fastvideo-wan": _velocity(
        "FastVideo's fine-tuning of Wan: flow matching, time shift 3",
        schedules.Flow(shift=3.0),
        f"https://github.com/hao-ai-lab/FastVideo ({_TRAINERS})",
    ),
}
