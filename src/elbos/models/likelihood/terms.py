r"""Terms of the variational bound: loss at a noise level, prior loss and decoder loss.

All per image and in nats per dimension.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.conditions import Condition
from elbos.base.errors import warn
from elbos.theory.denoiser import Denoise, estimate
from elbos.theory.process import diffuse

DECODER_CHUNK = 2**24  # numbers held at once by the discrete decoder
MAX_LEVEL_ERROR = 0.05  # share of the spacing; float16 rounds 256 values by up to 0.03
MIN_SPACING = 6.0  # standard deviations between pixel values at the clean end; VDM's are 6.06
DECODER_REACH = 17.0  # standard deviations: 17^2 / 2 - 6 * 17 > 40


def at_least_single(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
    """Convert data to float32 or a wider dtype.

    In float16 neighbouring pixel values are not distinguished.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def eps_loss(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " b"],
    *,
    cond: Condition = None,
    eps: Float[Tensor, "b *d"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""Return the loss $\tfrac12\|\hat\epsilon - \epsilon\|^2$ at given noise levels.

    It is in nats per dimension.

    Args:
        denoiser: Estimates the noise.
        x: Data.
        logsnr: One level per sample.
        cond: What the denoiser is conditioned on.
        eps: The noise. Default: it is drawn.
        generator: Source of the noise, on the CPU.

    Returns:
        `[b]`, without a gradient: use `Objective` for training.
    """
    if eps is None:
        eps = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    return eps_errors(denoiser, x, logsnr, cond, eps).flatten(1).mean(1)


def eps_errors(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " b"],
    cond: Condition,
    eps: Float[Tensor, "b *d"],
) -> Float[Tensor, "b *d"]:
    r"""Return $\tfrac12(\hat\epsilon - \epsilon)^2$ of every element at given noise levels."""
    _, eps_hat = estimate(denoiser, diffuse(x, eps, logsnr), logsnr, cond)
    return 0.5 * (eps_hat - eps).square()


@torch.no_grad()
def prior_loss(x: Float[Tensor, "b *d"], logsnr_min: float) -> Float[Tensor, " b"]:
    r"""Return the prior loss $\mathrm{KL}(q(z_{\lambda_\min} \mid x)\,\|\,\mathcal N(0, I))$ in
    nats per dimension.

    $\tfrac12(\alpha^2 x^2 + \sigma^2 - 1 - \ln\sigma^2)$, and $\sigma^2 = 1 - \alpha^2$.
    """
    level = torch.tensor(logsnr_min, dtype=torch.float64)
    log_variance = logsigmoid(-level).item()
    return 0.5 * (torch.sigmoid(level).item() * (x.square() - 1) - log_variance).flatten(1).mean(1)


@torch.no_grad()
def decoder_loss(
    x: Float[Tensor, "b *d"],
    logsnr_max: float,
    num_levels: int | None,
    *,
    eps: Float[Tensor, "b *d"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""Return the decoder loss $-\log p(x \mid z_{\lambda_\max})$ in nats per dimension.

    For discrete data it is computed with one random $z$, for continuous data it is the exact mean
    over $z$, $\tfrac12(1 - \lambda_\max + \ln 2\pi)$.

    With pixel values $s$ standard deviations of the noise apart, the logit of the value that is $j$
    above the true one is $-\tfrac12(\epsilon - js)^2$. Values with logits of 40 less, but for one
    draw of $\epsilon$ in $10^9$, are left out: at VDM's end 7 of 256 remain.

    Args:
        x: Data; discrete data have the values $2k/(K-1) - 1$.
        logsnr_max: $\lambda_\max$. For discrete data it has to resolve the values: VDM uses 13.3
            for 256.
        num_levels: $K$, or None for continuous data.
        eps: The noise. Default: it is drawn.
        generator: Source of the noise, on the CPU.
    """
    if num_levels is not None:
        require_levels(x, num_levels)
    if eps is None:
        dtype = at_least_single(x).dtype
        eps = torch.randn(x.shape, dtype=dtype, generator=generator).to(x.device)
    return loss_of_levels(x, logsnr_max, num_levels, eps)


def loss_of_levels(
    x: Float[Tensor, "b *d"], logsnr_max: float, num_levels: int | None, eps: Float[Tensor, "b *d"]
) -> Float[Tensor, " b"]:
    """Return the decoder loss without checking the data.

    A check that they are pixel values would synchronize the device.
    """
    if num_levels is None:
        return torch.full_like(x.flatten(1)[:, 0], 0.5 * (1 - logsnr_max + math.log(2 * math.pi)))
    x = at_least_single(x)
    spacing = 2 / (num_levels - 1) * math.exp(logsnr_max / 2)
    reach = min(num_levels - 1, math.ceil(DECODER_REACH / spacing))
    steps = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    level = ((x + 1) / 2 * (num_levels - 1)).round()
    num_rows = max(1, DECODER_CHUNK // (x[0].numel() * len(steps)))
    losses = []
    chunks = zip(torch.split(eps, num_rows), torch.split(level, num_rows), strict=True)
    for some_eps, some_level in chunks:
        logits = -0.5 * (some_eps[..., None] - spacing * steps).square()
        neighbours = some_level[..., None] + steps
        is_missing = (neighbours < 0) | (neighbours >= num_levels)
        log_p = logits.masked_fill(is_missing, -math.inf).log_softmax(-1)[..., reach]
        losses.append(-log_p.flatten(1).mean(1))
    return torch.cat(losses)


def require_levels(x: Float[Tensor, "b *d"], num_levels: int) -> None:
    r"""Raise a ValueError unless all data are pixel values.

    These are $2k/(K-1) - 1$, up to 5 % of the spacing, where $K \ge 2$ is `num_levels`. Data
    rounded to float16 pass; data in [0, 1], where every other value is half a step off, or in
    0..255 do not.
    """
    if num_levels < 2:
        raise ValueError(
            f"num_levels is {num_levels}: give 2 or more, or None for continuous data."
        )
    x = at_least_single(x)
    level = (x + 1) / 2 * (num_levels - 1)
    is_level = (level - level.round()).abs() < MAX_LEVEL_ERROR
    is_level &= (level.round() >= 0) & (level.round() < num_levels)
    if not is_level.all():
        raise ValueError(
            f"data hold {x[~is_level][0].item():g}, not one of the num_levels={num_levels} pixel "
            f"values in [-1, 1]: give 2 * k / {num_levels - 1} - 1 for k from 0 to "
            f"{num_levels - 1}, or num_levels=None for continuous data."
        )


def warn_if_unresolved(logsnr_max: float, num_levels: int | None) -> None:
    r"""Warn if the lowest noise level is too high to separate neighbouring pixel values.

    At $\lambda_\max$ they then differ by less than 6 standard deviations of the noise,
    $\tfrac{2}{K-1} e^{\lambda_\max/2} < 6$.

    The decoder sees only the noisy pixel, so that its loss then increases: for 17 equally likely
    values by 0.14 bits/dim at 4.1 standard deviations, by 0.008 at 6.2.

    Args:
        logsnr_max: The clean end of the noise levels.
        num_levels: $K$, or None for continuous data, which have nothing to resolve.
    """
    if num_levels is None:
        return
    spacing = 2 / (num_levels - 1) * math.exp(logsnr_max / 2)
    if spacing < MIN_SPACING:
        enough = 2 * math.log(MIN_SPACING / 2 * (num_levels - 1))
        warn(
            f"logsnr_max={logsnr_max:g} leaves the {num_levels} levels of the data {spacing:.2f} "
            f"standard deviations of the noise apart, which costs bits/dim: give "
            f"{math.ceil(10 * enough) / 10:g} or more, if the network was trained so far; "
            "differences of two models are hardly affected."
        )
