"""Recipes of diffusion models: the cosine schedule, that of DDPM, and others in log-SNR."""

from elbos.theory import schedules, weightings
from elbos.theory.parameterizations import EDM, Eps, Score, V, X
from elbos.theory.recipes.recipe import Recipe
from elbos.theory.schedules import Cosine, Linear

_VDMPP = "Kingma & Gao (2023), https://arxiv.org/abs/2303.00848"
_DISTILLATION = "Salimans & Ho (2022), https://arxiv.org/abs/2202.00512"
_P2 = "Choi et al. (2022), https://arxiv.org/abs/2204.00227"
_MIN_SNR = "Hang et al. (2023), https://arxiv.org/abs/2303.09556"
_SCORE_SDE = "Song et al. (2021), https://arxiv.org/abs/2011.13456"


DIFFUSION: dict[str, Recipe] = {
    "elbo": Recipe(
        title="variational diffusion models: eps-loss times -dlogsnr/dt",
        schedule=Cosine(),
        parameterization=Eps(),
        exact=weightings.ELBO(),
        reference="Kingma et al. (2021), https://arxiv.org/abs/2107.00630",
    ),
    "elbo-ve": Recipe(
        title="variance exploding, log-uniform noise, x-loss over its variance",
        schedule=Linear(),
        parameterization=X(),
        coefficient="snr",
        reference="Song et al. (2021), https://arxiv.org/abs/2101.09258",
    ),
    "elbo-linear": Recipe(
        title="eps-loss with log-SNR linear in time",
        schedule=Linear(),
        parameterization=Eps(),
        reference="Kingma et al. (2021), https://arxiv.org/abs/2107.00630",
    ),
    "iddpm": Recipe(
        title="improved DDPM: eps-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=Eps(),
        reference="Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672",
    ),
    "ddpm": Recipe(
        title="DDPM: eps-loss on the linear-beta schedule",
        schedule=schedules.DDPM(),
        parameterization=Eps(),
        reference="Ho et al. (2020), https://arxiv.org/abs/2006.11239",
    ),
    "score-sde": Recipe(
        title="score SDE, variance preserving: score-loss times the variance of the noise",
        schedule=schedules.DDPM(),
        parameterization=Score(),
        coefficient="1/(snr + 1)",
        reference=_SCORE_SDE,
    ),
    "score-sde-likelihood": Recipe(
        title="score SDE, likelihood weighting: score-loss times g(t)^2",
        schedule=schedules.DDPM(),
        parameterization=Score(),
        exact=weightings.ELBO(),
        reference="Song et al. (2021), https://arxiv.org/abs/2101.09258",
    ),
    "v-cosine": Recipe(
        title="v-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=V(),
        reference=_DISTILLATION,
    ),
    "truncated-snr": Recipe(
        title="x-loss times max(SNR, 1)",
        schedule=Cosine(),
        parameterization=X(),
        coefficient="max(snr, 1)",
        reference=_DISTILLATION,
    ),
    "snr-plus-1": Recipe(
        title="x-loss times SNR + 1",
        schedule=Cosine(),
        parameterization=X(),
        coefficient="snr + 1",
        reference=_DISTILLATION,
    ),
    "p2-0.5": Recipe(
        title="P2 weighting, gamma = 0.5",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient="1/sqrt(snr + 1)",
        reference=_P2,
    ),
    "p2-1": Recipe(
        title="P2 weighting, gamma = 1",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient="1/(snr + 1)",
        reference=_P2,
    ),
    "min-snr-5": Recipe(
        title="Min-SNR, gamma = 5",
        schedule=Cosine(),
        parameterization=X(),
        coefficient="min(snr, 5)",
        reference=_MIN_SNR,
    ),
    "min-snr-5-eps": Recipe(
        title="Min-SNR, gamma = 5, as an eps-loss",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient="min(snr, 5)/snr",
        reference=_MIN_SNR,
    ),
    "min-snr-5-v": Recipe(
        title="Min-SNR, gamma = 5, as a v-loss",
        schedule=Cosine(),
        parameterization=V(),
        coefficient="min(snr, 5)/(snr + 1)",
        reference=_MIN_SNR,
    ),
    "soft-min-snr-4": Recipe(
        title="soft Min-SNR, gamma = 4",
        schedule=Cosine(),
        parameterization=EDM(),
        coefficient="snr/(snr + 4)**2",
        reference="Crowson et al. (2024), https://arxiv.org/abs/2401.11605",
    ),
    "debiased": Recipe(
        title="debiased estimation: eps-loss over the root of the SNR",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient="1/sqrt(snr)",
        reference="Yu et al. (2023), https://arxiv.org/abs/2310.08442",
    ),
    "laplace": Recipe(
        title="v-loss with Laplace(0, 0.5) log-SNR",
        schedule=schedules.Laplace(),
        parameterization=V(),
        reference="Hang & Gu (2024), https://arxiv.org/abs/2407.03297",
    ),
    "sigmoid-2": Recipe(
        title="sigmoid weighting, k = 2 (VDM++, SiD2)",
        schedule=Cosine(),
        parameterization=V(),
        exact=weightings.Sigmoid(k=2.0),
        reference=_VDMPP,
    ),
    "sigmoid-2-slip": Recipe(
        title="a slip: sigmoid(2 - logsnr) times the eps-loss, without -dlogsnr/dt",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient="1/(1 + exp(-2)*snr)",
        reference="seen in public trainers",
    ),
    "lerobot-diffusion": Recipe(
        title="lerobot's Diffusion Policy: eps-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=Eps(),
        reference="https://github.com/huggingface/lerobot (as set by trainers)",
    ),
}
