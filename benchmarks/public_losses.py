r"""Losses of public training codes, called as their users call them, beside formulas by hand.

A function for each project imports its losses from a clone. The formulas of a network are the
scales of data and noise in its input, its time and its target, as functions of log-SNR. They are
those of the project's sampler or paper.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SHAPE = (3, 8, 8)
SIGMA_DATA = 0.5

Loss = Callable[[Any, Tensor], Any]
Function = Callable[[Tensor], Any]
Formulas = Callable[[Tensor], tuple[Any, ...]]
"""Functions of log-SNR: alpha and sigma of the input, the time, a and b of the target."""
Cases = Iterator["Case"]


@dataclass(frozen=True)
class Case:
    """A loss and what its network is.

    Without formulas, the loss determines no denoiser.
    """

    name: str
    loss: Loss
    formulas: Formulas | None = None
    form: Function = lambda y: y  # makes of an output what the project's networks return
    num_channels: int = SHAPE[0]  # of the output
    is_preconditioned: bool = False  # EDM's denoiser


def pair(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return an output with the zeros of a second one, such as a log-variance."""
    return y, torch.zeros(len(y), 1, 1, 1)


TARGETS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "x": lambda alpha, sigma: (1, 0),
    "eps": lambda alpha, sigma: (0, 1),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "score": lambda alpha, sigma: (0, -1 / sigma),
}


def scales(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def vp(time: Function, target: str, factor: float = 1) -> Formulas:
    """Variance preserving, with a time of log-SNR."""

    def formulas(logsnr: Tensor) -> tuple[Any, ...]:
        a, b = TARGETS[target](*scales(logsnr))
        return *scales(logsnr), time(logsnr), factor * a, factor * b

    return formulas


def ve(target: str) -> Formulas:
    """Variance exploding, with sigma as time."""

    def formulas(logsnr: Tensor) -> tuple[Any, ...]:
        sigma = (-logsnr / 2).exp()
        a, b = TARGETS[target](*scales(logsnr) if target == "v" else (1, sigma))
        return 1, sigma, sigma, a, b

    return formulas


def straight(time: Function = lambda share: share, factor: Function = lambda share: 1) -> Formulas:
    """A straight path, with time and the factor of x - eps as functions of the data's share."""

    def formulas(logsnr: Tensor) -> tuple[Any, ...]:
        share = (logsnr / 2).sigmoid()
        return share, 1 - share, time(share), factor(share), -factor(share)

    return formulas


def karras(time: Function) -> Formulas:
    """EDM's network within the preconditioning, with a time of sigma."""

    def formulas(logsnr: Tensor) -> tuple[Any, ...]:
        sigma = (-logsnr / 2).exp()
        norm = (sigma**2 + SIGMA_DATA**2).sqrt()
        c_skip, c_out = SIGMA_DATA**2 / norm**2, SIGMA_DATA * sigma / norm
        return 1 / norm, sigma / norm, time(sigma), (1 - c_skip) / c_out, -c_skip * sigma / c_out

    return formulas


def steps(alphas_cumprod: Any, factor: float = 1) -> Function:
    """Return the steps of a table, times a factor, linear in log-SNR between them."""
    bars = np.asarray(alphas_cumprod, dtype=float)[::-1]
    times = factor * np.arange(len(bars))[::-1]
    return lambda logsnr: torch.from_numpy(np.interp(logsnr, np.log(bars / (1 - bars)), times))


def angle(logsnr: Tensor) -> Tensor:
    return 2 / math.pi * (-logsnr / 2).exp().atan()


def sde_time(log_alpha: Tensor) -> Tensor:
    """Return the time of the VP-SDE, whose beta rises from 0.1 to 20."""
    return ((0.1**2 - 4 * 19.9 * log_alpha).sqrt() - 0.1) / 19.9


def vp_sde_time(logsnr: Tensor) -> Tensor:
    return sde_time(F.logsigmoid(logsnr) / 2)


def labels(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.long)


def of_classes(diffusion: Any) -> Loss:
    """Return the loss of OpenAI's `GaussianDiffusion`, or of a fork, with labels."""

    def loss(network: Any, x: Tensor) -> Any:
        t = torch.randint(diffusion.num_timesteps, (len(x),))
        return diffusion.training_losses(network, x, t, {"y": labels(x)})

    return loss


def edm() -> Cases:
    from training.loss import EDMLoss, VELoss

    yield Case("EDMLoss", EDMLoss(), ve("x"), is_preconditioned=True)
    yield Case("VELoss", partial(VELoss(), labels=None), ve("x"), is_preconditioned=True)


def edm2() -> Cases:
    from training.training_loop import EDM2Loss

    yield Case("EDM2Loss", EDM2Loss(), ve("x"), form=pair, is_preconditioned=True)


def denoising_diffusion_pytorch() -> Cases:
    import denoising_diffusion_pytorch as project
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import sigmoid_beta_schedule

    def loss_of(kind: str, **settings: Any) -> Loss:
        def loss(network: Any, x: Tensor) -> Any:
            network.channels = network.out_dim = 3
            network.self_condition = False
            network.random_or_learned_sinusoidal_cond = kind != "GaussianDiffusion"
            return getattr(project, kind)(network, image_size=8, **settings)((x + 1) / 2)

        return loss

    time = steps((1 - sigmoid_beta_schedule(1000)).cumprod(0))
    yield Case("GaussianDiffusion", loss_of("GaussianDiffusion"), vp(time, "v"))
    min_snr = loss_of("GaussianDiffusion", min_snr_loss_weight=True)
    yield Case("GaussianDiffusion, min_snr_loss_weight", min_snr, vp(time, "v"))
    elucidated = karras(lambda sigma: sigma.log() / 4)
    yield Case("ElucidatedDiffusion", loss_of("ElucidatedDiffusion"), elucidated)
    name = "VParamContinuousTimeGaussianDiffusion"
    yield Case(name, loss_of(name), vp(lambda logsnr: logsnr, "v"))
    offset = loss_of("GaussianDiffusion", offset_noise_strength=0.1)
    yield Case("GaussianDiffusion, offset_noise_strength=0.1", offset)


def rectified_flow_pytorch() -> Cases:
    from rectified_flow_pytorch import RectifiedFlow

    def loss_of(**settings: Any) -> Loss:
        return lambda network, x: RectifiedFlow(network, **settings)((x + 1) / 2)

    cosmap = loss_of(noise_schedule="cosmap")
    yield Case("RectifiedFlow, cosmap", cosmap, straight())
    yield Case("RectifiedFlow, pseudo_huber", loss_of(loss_fn="pseudo_huber"))
    yield Case("RectifiedFlow, time_cond_kwarg=None", loss_of(time_cond_kwarg=None))


def improved_diffusion() -> Cases:
    from improved_diffusion.script_util import create_gaussian_diffusion

    settings = {"learn_sigma": True, "rescale_learned_sigmas": True, "rescale_timesteps": True}
    diffusion = create_gaussian_diffusion(steps=4000, noise_schedule="cosine", **settings)
    formulas = vp(steps(diffusion.alphas_cumprod, 1 / 4), "eps")
    yield Case("4,000 cosine steps, learned sigma", of_classes(diffusion), formulas, num_channels=6)


def consistency_models() -> Cases:
    from cm.karras_diffusion import KarrasDenoiser
    from cm.resample import LogNormalSampler

    diffusion = KarrasDenoiser(loss_norm="l2")

    def loss(network: Any, x: Tensor) -> Any:
        return diffusion.training_losses(network, x, LogNormalSampler().sample(len(x), "cpu")[0])

    def consistency(network: Any, x: Tensor) -> Any:
        return diffusion.consistency_losses(network, x, num_scales=40, target_model=network)

    yield Case("training_losses", loss, karras(lambda sigma: 250 * sigma.log()))
    yield Case("consistency_losses", consistency)


def dit() -> Cases:
    from diffusion import create_diffusion

    diffusion = create_diffusion(timestep_respacing="")
    formulas = vp(steps(diffusion.alphas_cumprod), "eps")
    yield Case("training_losses", of_classes(diffusion), formulas, num_channels=6)


def flow_matching() -> Cases:
    from flow_matching.path import AffineProbPath, CondOTProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from training.train_loop import skewed_timestep_sample

    def loss_of(path: Any) -> Loss:
        def loss(network: Any, x: Tensor) -> Any:
            t = skewed_timestep_sample(len(x), device=x.device)
            sample = path.sample(t=t, x_0=torch.randn_like(x), x_1=x)
            return (network(sample.x_t, t, extra={}) - sample.dx_t).square().mean()

        return loss

    cubic = straight(lambda share: share ** (1 / 3), lambda share: 3 * share ** (2 / 3))
    yield Case("CondOT, skewed times", loss_of(CondOTProbPath()), straight())
    polynomial = AffineProbPath(PolynomialConvexScheduler(3))
    yield Case("PolynomialConvex(3), skewed times", loss_of(polynomial), cubic)


def sit() -> Cases:
    from transport import create_transport

    def velocity(logsnr: Tensor) -> tuple[Any, ...]:
        (alpha, sigma), t = scales(logsnr), vp_sde_time(logsnr)
        slope = alpha * (0.1 + 19.9 * t) / 2
        return alpha, sigma, 1 - t, slope, -slope * alpha / sigma

    formulas_of = {
        ("Linear", "velocity"): straight(),
        ("GVP", "score", "likelihood"): vp(lambda logsnr: 1 - angle(logsnr), "score"),
        ("VP", "velocity"): velocity,
    }
    for settings, formulas in formulas_of.items():
        yield Case(", ".join(settings), create_transport(*settings).training_losses, formulas)


def repa() -> Cases:
    from loss import SILoss

    def loss(network: Any, x: Tensor) -> Any:
        return SILoss(path_type="cosine")(network, x, zs=[torch.zeros(len(x), 1, 1)])

    yield Case("SILoss, cosine", loss, vp(angle, "v", math.pi / 2), form=pair)


def torchcfm() -> Cases:
    import ot
    import torchcfm as project

    if not hasattr(ot, "__version__"):  # a stand-in
        ot.unif = lambda num: np.full(num, 1 / num)
        ot.emd = lambda a, b, cost, **_: np.eye(len(a))[linear_sum_assignment(cost)[1]] / len(a)

    def loss_of(kind: str, sigma: float = 0) -> Loss:
        matcher = getattr(project, kind + "ConditionalFlowMatcher")(sigma)

        def loss(network: Any, x: Tensor) -> Any:
            t, z, u = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
            return (network(t, z) - u).square().mean()

        return loss

    def target(logsnr: Tensor) -> tuple[Any, ...]:
        t = 1 / ((-logsnr / 2).exp() + 0.9)
        return t, 1 - 0.9 * t, t, 1, -0.9

    circle = vp(lambda logsnr: 1 - angle(logsnr), "v", -math.pi / 2)
    yield Case("Target, sigma=0.1", loss_of("Target", 0.1), target)
    yield Case("VariancePreserving", loss_of("VariancePreserving"), circle)
    yield Case("ExactOptimalTransport", loss_of("ExactOptimalTransport"))


def k_diffusion() -> Cases:
    from k_diffusion import Denoiser, utils

    def loss(network: Any, x: Tensor) -> Any:
        sigma = utils.rand_log_normal([len(x)], loc=-1.2, scale=1.2)
        denoiser = Denoiser(network, sigma_data=SIGMA_DATA, weighting="soft-min-snr")
        return denoiser.loss(x, torch.randn_like(x), sigma)

    yield Case("Denoiser, soft-min-snr", loss, karras(lambda sigma: sigma))


def score_sde() -> Cases:
    from losses import get_sde_loss_fn
    from sde_lib import VESDE, VPSDE, subVPSDE

    def sub_vp(logsnr: Tensor) -> tuple[Any, ...]:
        half = (-logsnr / 2).exp() / 2
        alpha = 1 / (half + (1 + half**2).sqrt())
        return alpha, 1 - alpha**2, 999 * sde_time(alpha.log()), 0, 1

    loss_of = partial(get_sde_loss_fn, train=True, likelihood_weighting=False)
    formulas = vp(lambda logsnr: 999 * vp_sde_time(logsnr), "eps")
    yield Case("VPSDE, likelihood", get_sde_loss_fn(VPSDE(), train=True), formulas)
    yield Case("subVPSDE", loss_of(subVPSDE()), sub_vp)
    yield Case("VESDE", loss_of(VESDE()), ve("score"))


def u_vit() -> Cases:
    from sde import VPSDE, LSimple, ScoreModel, VPSDECosine

    def loss_of(pred: str, sde: Any) -> Loss:
        return lambda network, x: LSimple(ScoreModel(network, pred=pred, sde=sde), x, pred=pred)

    def cosine(logsnr: Tensor) -> Tensor:
        root = math.cos(0.008 / 1.008 * math.pi / 2) * logsnr.sigmoid().sqrt()
        return 999 * (1.008 * 2 / math.pi * root.acos() - 0.008)

    formulas = vp(lambda logsnr: 999 * vp_sde_time(logsnr), "eps")
    yield Case("LSimple, VPSDE", loss_of("noise_pred", VPSDE()), formulas)
    yield Case("LSimple, VPSDECosine", loss_of("x0_pred", VPSDECosine()), vp(cosine, "x"))


def smalldiffusion() -> Cases:
    import smalldiffusion as project

    def loss_of(kind: Any, schedule: Any) -> Loss:
        def loss(network: Any, x: Tensor) -> Any:
            x, sigma, eps, _ = project.generate_train_sample(x, schedule)
            return kind.get_loss(network, x, sigma, eps)

        return loss

    model, linear = project.ModelMixin, project.ScheduleLogLinear(1000)
    flow = loss_of(project.PredFlow(model), project.ScheduleLogNormalFlow())
    yield Case("ModelMixin, log-linear", loss_of(model, linear), ve("eps"))
    yield Case("PredV, log-linear", loss_of(project.PredV(model), linear), ve("v"))
    yield Case("PredFlow, log-normal", flow, straight(lambda t: 1 - t, lambda share: -1))


def min_rf() -> Cases:
    from rf import RF

    def loss(network: Any, x: Tensor) -> Any:
        return RF(network).forward(x, labels(x))

    yield Case("RF", loss, straight(lambda t: 1 - t, lambda share: -1))


def rectified_flow() -> Cases:
    from losses import get_rectified_flow_loss_fn
    from sde_lib import RectifiedFlow

    loss = get_rectified_flow_loss_fn(RectifiedFlow(), train=True)
    yield Case("get_rectified_flow_loss_fn", loss, straight(lambda t: 999 * t))


def ddim() -> Cases:
    from functions.losses import noise_estimation_loss

    betas = torch.linspace(0.0001, 0.02, 1000)

    def loss(network: Any, x: Tensor) -> Any:
        t = torch.randint(1000, (len(x) // 2,))
        t = torch.cat([t, 999 - t])
        return noise_estimation_loss(network, x, t, torch.randn_like(x), betas)

    yield Case("noise_estimation_loss", loss, vp(steps((1 - betas).cumprod(0)), "eps"))


def diffusers() -> Cases:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")

    def loss(network: Any, x: Tensor) -> Any:
        eps, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        return F.mse_loss(network(scheduler.add_noise(x, eps, t), t).sample, eps)

    formulas = vp(steps(scheduler.alphas_cumprod), "eps")
    yield Case("DDPMScheduler, squared cosine", loss, formulas, lambda y: SimpleNamespace(sample=y))


def mean_flow() -> Cases:
    from loss import SILoss

    yield Case("SILoss", SILoss())


def pfgmpp() -> Cases:
    from training.loss import EDMLoss

    loss = EDMLoss(N=math.prod(SHAPE), opts=SimpleNamespace(lsun=False))
    yield Case("EDMLoss, pfgmpp=True", partial(loss, pfgmpp=True))


PROJECTS: dict[str, Callable[[], Cases]] = {
    "NVlabs+edm": edm,
    "NVlabs+edm2": edm2,
    "lucidrains+denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "lucidrains+rectified-flow-pytorch": rectified_flow_pytorch,
    "openai+improved-diffusion": improved_diffusion,
    "openai+consistency_models": consistency_models,
    "facebookresearch+DiT": dit,
    "facebookresearch+flow_matching": flow_matching,
    "willisma+SiT": sit,
    "sihyun-yu+REPA": repa,
    "atong01+conditional-flow-matching": torchcfm,
    "crowsonkb+k-diffusion": k_diffusion,
    "yang-song+score_sde_pytorch": score_sde,
    "baofff+U-ViT": u_vit,
    "yuanchenyang+smalldiffusion": smalldiffusion,
    "cloneofsimo+minRF": min_rf,
    "gnobitab+RectifiedFlow": rectified_flow,
    "ermongroup+ddim": ddim,
    "diffusers": diffusers,
    "zhuyu-cs+MeanFlow": mean_flow,
    "Newbeeer+pfgmpp": pfgmpp,
}
