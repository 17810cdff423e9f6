"""Recipes of diffusion models: the cosine schedule, that of DDPM, and others in log-SNR."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory import schedules, weightings
from elbos.theory.parameterizations import EDM, Eps, Score, V, X
from elbos.theory.recipes.recipe import Recipe, exact
from elbos.theory.schedules import Cosine, Linear

_VDMPP = "Kingma & Gao (2023), https://arxiv.org/abs/2303.00848"
_DISTILLATION = "Salimans & Ho (2022), https://arxiv.org/abs/2202.00512"
_P2 = "Choi et al. (2022), https://arxiv.org/abs/2204.00227"
_MIN_SNR = "Hang et al. (2023), https://arxiv.org/abs/2303.09556"
_SCORE_SDE = "Song et al. (2021), https://arxiv.org/abs/2011.13456"


def _soft_min_snr(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Return the loss coefficient of soft Min-SNR.

    It is $(\tilde\sigma\sigma_d)^2/(\tilde\sigma^2 + \sigma_d^2)^2$ with $\sigma_d = 1/2$.
    """
    variance = torch.exp(-logsnr)
    return variance * 0.25 / (variance + 0.25) ** 2


DIFFUSION: dict[str, Recipe] = {
    "elbo": Recipe(
        title="variational diffusion models: eps-loss times -dlogsnr/dt",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=lambda logsnr: torch.exp(-Cosine().log_density(logsnr)),
        closed_form=weightings.ELBO(),
        reference="Kingma et al. (2021), https://arxiv.org/abs/2107.00630",
    ),
    "elbo-ve": Recipe(
        title="variance exploding, log-uniform noise, x-loss over its variance",
        schedule=Linear(),
        parameterization=X(),
        coefficient=torch.exp,
        closed_form=weightings.ELBO(),
        reference="Song et al. (2021), https://arxiv.org/abs/2101.09258",
    ),
    "elbo-linear": Recipe(
        title="eps-loss with log-SNR linear in time",
        schedule=Linear(),
        parameterization=Eps(),
        closed_form=weightings.ELBO(),
        reference="Kingma et al. (2021), https://arxiv.org/abs/2107.00630",
    ),
    "iddpm": Recipe(
        title="improved DDPM: eps-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=Eps(),
        closed_form=weightings.IDDPM(),
        reference="Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672",
    ),
    "ddpm": Recipe(
        title="DDPM: eps-loss on the linear-beta schedule",
        schedule=schedules.DDPM(),
        parameterization=Eps(),
        closed_form=weightings.DDPM(),
        reference="Ho et al. (2020), https://arxiv.org/abs/2006.11239",
    ),
    "score-sde": Recipe(
        title="score SDE, variance preserving: score-loss times the variance of the noise",
        schedule=schedules.DDPM(),
        parameterization=Score(),
        coefficient=lambda logsnr: torch.sigmoid(-logsnr),
        closed_form=weightings.DDPM(),
        reference=_SCORE_SDE,
    ),
    "score-sde-likelihood": Recipe(
        title="score SDE, likelihood weighting: score-loss times g(t)^2",
        schedule=schedules.DDPM(),
        parameterization=Score(),
        coefficient=lambda logsnr: (
            torch.sigmoid(-logsnr) * torch.exp(-schedules.DDPM().log_density(logsnr))
        ),
        closed_form=weightings.ELBO(),
        reference="Song et al. (2021), https://arxiv.org/abs/2101.09258",
    ),
    "v-cosine": Recipe(
        title="v-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=V(),
        closed_form=weightings.Exponential(),
        reference=_DISTILLATION,
    ),
    "truncated-snr": Recipe(
        title="x-loss times max(SNR, 1)",
        schedule=Cosine(),
        parameterization=X(),
        coefficient=lambda logsnr: logsnr.exp().clamp(min=1.0),
        closed_form=weightings.TruncatedSNR(),
        reference=_DISTILLATION,
    ),
    "snr-plus-1": Recipe(
        title="x-loss times SNR + 1",
        schedule=Cosine(),
        parameterization=X(),
        coefficient=lambda logsnr: 1 + logsnr.exp(),
        closed_form=weightings.Exponential(),
        reference=_DISTILLATION,
    ),
    "p2-0.5": Recipe(
        title="P2 weighting, gamma = 0.5",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=lambda logsnr: (1 + logsnr.exp()) ** -0.5,
        closed_form=weightings.P2(gamma=0.5),
        reference=_P2,
    ),
    "p2-1": Recipe(
        title="P2 weighting, gamma = 1",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=lambda logsnr: 1 / (1 + logsnr.exp()),
        closed_form=weightings.P2(gamma=1.0),
        reference=_P2,
    ),
    "min-snr-5": Recipe(
        title="Min-SNR, gamma = 5",
        schedule=Cosine(),
        parameterization=X(),
        coefficient=lambda logsnr: logsnr.exp().clamp(max=5.0),
        closed_form=weightings.MinSNR(gamma=5.0),
        reference=_MIN_SNR,
    ),
    "min-snr-5-eps": Recipe(
        title="Min-SNR, gamma = 5, as an eps-loss",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=lambda logsnr: (5.0 * torch.exp(-logsnr)).clamp(max=1.0),
        closed_form=weightings.MinSNR(gamma=5.0),
        reference=_MIN_SNR,
    ),
    "min-snr-5-v": Recipe(
        title="Min-SNR, gamma = 5, as a v-loss",
        schedule=Cosine(),
        parameterization=V(),
        coefficient=lambda logsnr: logsnr.exp().clamp(max=5.0) / (logsnr.exp() + 1),
        closed_form=weightings.MinSNR(gamma=5.0),
        reference=_MIN_SNR,
    ),
    "soft-min-snr-4": Recipe(
        title="soft Min-SNR, gamma = 4",
        schedule=Cosine(),
        parameterization=EDM(),
        coefficient=_soft_min_snr,
        closed_form=weightings.SoftMinSNR(gamma=4.0),
        reference="Crowson et al. (2024), https://arxiv.org/abs/2401.11605",
    ),
    "debiased": Recipe(
        title="debiased estimation: eps-loss over the root of the SNR",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=lambda logsnr: torch.exp(-logsnr / 2),
        closed_form=weightings.Sigmoid(k=0.0),
        reference="Yu et al. (2023), https://arxiv.org/abs/2310.08442",
    ),
    "laplace": Recipe(
        title="v-loss with Laplace(0, 0.5) log-SNR",
        schedule=schedules.Laplace(),
        parameterization=V(),
        closed_form=weightings.Laplace(),
        reference="Hang & Gu (2024), https://arxiv.org/abs/2407.03297",
    ),
    "sigmoid-2": Recipe(
        title="sigmoid weighting, k = 2 (VDM++, SiD2)",
        schedule=Cosine(),
        parameterization=V(),
        coefficient=exact(weightings.Sigmoid(k=2.0), Cosine(), V()),
        closed_form=weightings.Sigmoid(k=2.0),
        reference=_VDMPP,
    ),
    "sigmoid-2-slip": Recipe(
        title="a slip: sigmoid(2 - logsnr) times the eps-loss, without -dlogsnr/dt",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=weightings.Sigmoid(k=2.0),
        closed_form=weightings.SoftMinSNR(gamma=math.exp(2.0)),
        reference="seen in public trainers",
    ),
    "lerobot-diffusion": Recipe(
        title="lerobot's Diffusion Policy: eps-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=Eps(),
        closed_form=weightings.IDDPM(),
        reference="https://github.com/huggingface/lerobot (as set by trainers)",
    ),
}
