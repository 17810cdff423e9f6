"""Recipes on Stable Diffusion's scaled-linear schedule, in the limit of many steps."""

from elbos.theory.parameterizations import Eps, V
from elbos.theory.recipes.recipe import Recipe
from elbos.theory.schedules import StableDiffusion, ZeroTerminal

_MIN_SNR = "Hang et al. (2023), https://arxiv.org/abs/2303.09556 (as set by trainers)"


def _zero_terminal_v(title: str, snr_shift: float) -> Recipe:
    return Recipe(
        title=f"{title}: v-loss on the scaled-linear schedule with zero terminal SNR",
        schedule=ZeroTerminal(inner=StableDiffusion(), snr_shift=snr_shift),
        parameterization=V(),
        reference="Yang et al. (2024), https://arxiv.org/abs/2408.06072",
    )


STABLE_DIFFUSION: dict[str, Recipe] = {
    "sd": Recipe(
        title="Stable Diffusion 1, XL: eps-loss on the scaled-linear schedule",
        schedule=StableDiffusion(),
        parameterization=Eps(),
        reference="Rombach et al. (2022), https://arxiv.org/abs/2112.10752",
    ),
    "sd-v": Recipe(
        title="Stable Diffusion 2: v-loss on the scaled-linear schedule",
        schedule=StableDiffusion(),
        parameterization=V(),
        reference="Salimans & Ho (2022), https://arxiv.org/abs/2202.00512",
    ),
    "sd-min-snr-5": Recipe(
        title="Stable Diffusion, Min-SNR, gamma = 5, eps-loss",
        schedule=StableDiffusion(),
        parameterization=Eps(),
        coefficient="min(snr, 5)/snr",
        reference=_MIN_SNR,
    ),
    "sd-min-snr-5-v": Recipe(
        title="Stable Diffusion, Min-SNR, gamma = 5, v-loss",
        schedule=StableDiffusion(),
        parameterization=V(),
        coefficient="min(snr, 5)/(snr + 1)",
        reference=_MIN_SNR,
    ),
    "sd-min-snr-1": Recipe(
        title="Stable Diffusion, Min-SNR, gamma = 1, eps-loss",
        schedule=StableDiffusion(),
        parameterization=Eps(),
        coefficient="min(snr, 1)/snr",
        reference=_MIN_SNR,
    ),
    "sd-debiased": Recipe(
        title="Stable Diffusion, debiased estimation: eps-loss over the root of the SNR",
        schedule=StableDiffusion(),
        parameterization=Eps(),
        coefficient="1/sqrt(snr)",
        reference="Yu et al. (2023), https://arxiv.org/abs/2310.08442 (as set by trainers)",
    ),
    "cogvideox-2b": _zero_terminal_v("CogVideoX 2B", 3.0),
    "cogvideox-5b": _zero_terminal_v("CogVideoX 5B", 1.0),
}
