r"""Published training recipes, and the weighting that each of them implies.

A recipe that samples log-SNR with density $p$, predicts $y$ and multiplies $\|\hat y - y\|^2$ by
$c(\lambda)$ trains, whether it knows it or not,

$$w(\lambda) \propto
  p(\lambda)\; c(\lambda)\; \frac{\|\hat y - y\|^2}{\|\hat\epsilon - \epsilon\|^2}.$$

`Recipe.weighting` derives this product; `Recipe.closed_form` states what it comes to, and a test
compares the two. A new method is one entry here and, if its shape is new, one class in
`weightings`.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos import schedules, weightings
from elbos.parameterizations import EDM, Eps, Flow, Parameterization, V, X
from elbos.schedules import Cosine, Linear, Normal, Schedule
from elbos.weightings import Weighting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    r"""What a published method does to its loss.

    Attributes:
        title: The method, in a few words.
        schedule: The distribution $p$ it draws log-SNR from.
        parameterization: What its network predicts, $y$.
        coefficient: $c(\lambda)$, what it multiplies $\|\hat y - y\|^2$ with.
        closed_form: The weighting this comes to, up to a constant.
        reference: Where it was published.
    """

    title: str
    schedule: Schedule
    parameterization: Parameterization
    coefficient: Callable[[Tensor], Tensor]
    closed_form: Weighting
    reference: str

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The implied weighting: density times coefficient times error ratio, unnormalized.

        Beyond the ends of the schedule, where the recipe samples nothing, its formula continues.
        """
        error_ratio = 1 / self.parameterization.eps_error_per_error(logsnr)
        return self.schedule.log_density(logsnr).exp() * self.coefficient(logsnr) * error_ratio


def _exact(
    weighting: Weighting, schedule: Schedule, parameterization: Parameterization
) -> Callable[[Tensor], Tensor]:
    """The coefficient that trains exactly `weighting`, whatever is sampled and predicted."""
    return lambda logsnr: (
        weighting(logsnr)
        * torch.exp(-schedule.log_density(logsnr))
        * parameterization.eps_error_per_error(logsnr)
    )


def _one(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    return torch.ones_like(logsnr)


def _soft_min_snr(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""$(\tilde\sigma\sigma_d)^2/(\tilde\sigma^2 + \sigma_d^2)^2$ with $\sigma_d = 1/2$."""
    variance = torch.exp(-logsnr)
    return variance * 0.25 / (variance + 0.25) ** 2


_SD3 = "Esser et al. (2024), https://arxiv.org/abs/2403.03206"
_EDM2 = "Karras et al. (2024), https://arxiv.org/abs/2312.02696"
_VDMPP = "Kingma & Gao (2023), https://arxiv.org/abs/2303.00848"
_DISTILLATION = "Salimans & Ho (2022), https://arxiv.org/abs/2202.00512"
_P2 = "Choi et al. (2022), https://arxiv.org/abs/2204.00227"
_EDM_MONOTONIC = weightings.Monotone(weightings.EDM())

RECIPES: dict[str, Recipe] = {
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
        coefficient=_one,
        closed_form=weightings.ELBO(),
        reference="Kingma et al. (2021), https://arxiv.org/abs/2107.00630",
    ),
    "iddpm": Recipe(
        title="improved DDPM: eps-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=Eps(),
        coefficient=_one,
        closed_form=weightings.IDDPM(),
        reference="Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672",
    ),
    "ddpm": Recipe(
        title="DDPM: eps-loss on the linear-beta schedule",
        schedule=schedules.DDPM(),
        parameterization=Eps(),
        coefficient=_one,
        closed_form=weightings.DDPM(),
        reference="Ho et al. (2020), https://arxiv.org/abs/2006.11239",
    ),
    "edm": Recipe(
        title="EDM",
        schedule=Normal.edm(),
        parameterization=EDM(),
        coefficient=_one,
        closed_form=weightings.EDM(),
        reference="Karras et al. (2022), https://arxiv.org/abs/2206.00364",
    ),
    "edm2": Recipe(
        title="EDM2 on latents, before its learned factor",
        schedule=Normal.edm(p_mean=-0.4, p_std=1.0),
        parameterization=EDM(),
        coefficient=_one,
        closed_form=weightings.EDM2(),
        reference=_EDM2,
    ),
    "edm2-imagenet64": Recipe(
        title="EDM2 on ImageNet-64 pixels, before its learned factor",
        schedule=Normal.edm(p_mean=-0.8, p_std=1.6),
        parameterization=EDM(),
        coefficient=_one,
        closed_form=weightings.EDM2(mean=1.6, std=3.2),
        reference=_EDM2,
    ),
    "v-cosine": Recipe(
        title="v-loss on the cosine schedule",
        schedule=Cosine(),
        parameterization=V(),
        coefficient=_one,
        closed_form=weightings.Exponential(),
        reference=_DISTILLATION,
    ),
    "flow": Recipe(
        title="flow matching on the OT path, uniform times",
        schedule=schedules.Flow(),
        parameterization=Flow(),
        coefficient=_one,
        closed_form=weightings.Exponential(),
        reference="Lipman et al. (2023), https://arxiv.org/abs/2210.02747",
    ),
    "flow-shift-3": Recipe(
        title="flow matching with time shift 3",
        schedule=schedules.Flow(shift=3.0),
        parameterization=Flow(),
        coefficient=_one,
        closed_form=weightings.ShiftedFlow(shift=3.0),
        reference=_SD3,
    ),
    "sd3": Recipe(
        title="Stable Diffusion 3: flow matching, logit-normal(0, 1) times",
        schedule=Normal.logit_normal(),
        parameterization=Flow(),
        coefficient=_one,
        closed_form=weightings.LogitNormalFlow(),
        reference=_SD3,
    ),
    "sd3-logit-normal-0.5-0.6": Recipe(
        title="flow matching, logit-normal(0.5, 0.6) times",
        schedule=Normal.logit_normal(mean=0.5, std=0.6),
        parameterization=Flow(),
        coefficient=_one,
        closed_form=weightings.LogitNormalFlow(mean=0.5, std=0.6),
        reference=_SD3,
    ),
    "sd3-cosmap": Recipe(
        title="flow matching with the cosine schedule's times",
        schedule=Cosine(),
        parameterization=Flow(),
        coefficient=_one,
        closed_form=weightings.CosMap(),
        reference=_SD3,
    ),
    "indi": Recipe(
        title="inversion by direct iteration: x-loss on the flow path",
        schedule=schedules.Flow(),
        parameterization=X(),
        coefficient=_one,
        closed_form=weightings.InDI(),
        reference="Delbracio & Milanfar (2023), https://arxiv.org/abs/2303.11435",
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
        reference="Hang et al. (2023), https://arxiv.org/abs/2303.09556",
    ),
    "soft-min-snr-4": Recipe(
        title="soft Min-SNR, gamma = 4",
        schedule=Cosine(),
        parameterization=EDM(),
        coefficient=_soft_min_snr,
        closed_form=weightings.SoftMinSNR(gamma=4.0),
        reference="Crowson et al. (2024), https://arxiv.org/abs/2401.11605",
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
    "laplace": Recipe(
        title="v-loss with Laplace(0, 0.5) log-SNR",
        schedule=schedules.Laplace(),
        parameterization=V(),
        coefficient=_one,
        closed_form=weightings.Laplace(),
        reference="Hang & Gu (2024), https://arxiv.org/abs/2407.03297",
    ),
    "sigmoid-2": Recipe(
        title="sigmoid weighting, k = 2 (VDM++, SiD2)",
        schedule=Cosine(),
        parameterization=V(),
        coefficient=_exact(weightings.Sigmoid(k=2.0), Cosine(), V()),
        closed_form=weightings.Sigmoid(k=2.0),
        reference=_VDMPP,
    ),
    "edm-monotonic": Recipe(
        title="EDM's weighting, held at its maximum below its peak",
        schedule=Normal.edm(),
        parameterization=EDM(),
        coefficient=_exact(_EDM_MONOTONIC, Normal.edm(), EDM()),
        closed_form=_EDM_MONOTONIC,
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
}
"""Every recipe by name."""
