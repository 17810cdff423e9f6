r"""EDM's family: $\ln\tilde\sigma \sim \mathcal N(P_\mathrm{mean}, P_\mathrm{std}^2)$."""

from elbos.theory import weightings
from elbos.theory.parameterizations import EDM
from elbos.theory.recipes.recipe import Recipe
from elbos.theory.schedules import Normal

_EDM2 = "Karras et al. (2024), https://arxiv.org/abs/2312.02696"
_VDMPP = "Kingma & Gao (2023), https://arxiv.org/abs/2303.00848"
_SVD = "Blattmann et al. (2023), https://arxiv.org/abs/2311.15127"
_MICRODIT = "Sehwag et al. (2024), https://arxiv.org/abs/2407.15811"
_PHYSICSNEMO = "https://github.com/NVIDIA/physicsnemo (as set by trainers)"


def _edm(title: str, p_mean: float, p_std: float, sigma_data: float, reference: str) -> Recipe:
    return Recipe(
        title=title,
        schedule=Normal.edm(p_mean=p_mean, p_std=p_std),
        parameterization=EDM(sigma_data=sigma_data),
        reference=reference,
    )


EDMS: dict[str, Recipe] = {
    "edm": _edm("EDM", -1.2, 1.2, 0.5, "Karras et al. (2022), https://arxiv.org/abs/2206.00364"),
    "edm2": Recipe(
        title="EDM2 on latents, before its learned factor",
        schedule=Normal.edm(p_mean=-0.4, p_std=1.0),
        parameterization=EDM(),
        reference=_EDM2,
    ),
    "edm2-imagenet64": Recipe(
        title="EDM2 on ImageNet-64 pixels, before its learned factor",
        schedule=Normal.edm(p_mean=-0.8, p_std=1.6),
        parameterization=EDM(),
        reference=_EDM2,
    ),
    "edm-monotonic": Recipe(
        title="EDM's weighting, held at its maximum below its peak",
        schedule=Normal.edm(),
        parameterization=EDM(),
        exact=weightings.Monotone(weightings.EDM()),
        reference=_VDMPP,
    ),
    "svd": _edm("Stable Video Diffusion, 576 x 320", 0.7, 1.6, 1.0, _SVD),
    "svd-1024": _edm("Stable Video Diffusion, 1024 x 576", 1.0, 1.6, 1.0, _SVD),
    "cosmos": _edm(
        "Cosmos' diffusion world models", 0.0, 1.0, 0.5, "https://arxiv.org/abs/2501.03575"
    ),
    "trigflow": _edm(
        "TrigFlow, the diffusion loss of sCM",
        *(-1.0, 1.4, 0.5),
        "Lu & Song (2024), https://arxiv.org/abs/2410.11081",
    ),
    "microdit": _edm("MicroDiT", -0.6, 1.2, 0.9, _MICRODIT),
    "microdit-512": _edm("MicroDiT at 512 x 512", 0.0, 0.6, 0.9, _MICRODIT),
    "physicsnemo-stormcast": _edm("PhysicsNeMo's StormCast", -1.2, 1.2, 0.5, _PHYSICSNEMO),
    "physicsnemo-corrdiff": _edm("PhysicsNeMo's CorrDiff", 0.0, 1.2, 0.5, _PHYSICSNEMO),
}
