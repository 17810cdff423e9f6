r"""ODE likelihood: the density of an image under the probability-flow ODE.

The flow carries the marginals of the process into one another, from data at $\lambda_\max$ down to
noise at $\lambda_\min$, and the density changes by its divergence,

$$\frac{dz}{d\lambda} = \tfrac12\bigl(\sigma^2 z - \sigma\,\hat\epsilon(z, \lambda)\bigr), \qquad
  \frac{d \log p_\lambda(z)}{d\lambda} = -\tfrac12\Bigl(\sigma^2 d
  - \sigma\,\mathrm{tr}\frac{\partial\hat\epsilon}{\partial z}\Bigr), \qquad
  p_{\lambda_\min} = \mathcal N(0, I).$$

The trace is $\sum_v v^\top \frac{\partial\hat\epsilon}{\partial z} v$: exact over the $d$ unit
vectors, unbiased for one vector of random signs (Skilling-Hutchinson), kept along the solve.

The model is the density of $\tilde x = z/\alpha$ at $\lambda_\max$,
$p(\tilde x) = \alpha^d p_{\lambda_\max}(\alpha\tilde x)$: of data *with noise* of standard
deviation $\tilde\sigma = e^{-\lambda_\max/2}$, as the network saw them.

- Continuous data: $-\log p(x)$ is the result, and no bound.
- Discrete data, $\delta = 2/(K - 1)$ apart, have the probability that the model puts in their cell,
  $P(x) = \int_{|u_i| \le \delta/2} p(x + u)\,du$. For any $q$ on the cell,
  $-\log P(x) \le \mathbb E_q[\log q(u) - \log p(x + u)]$, whose right side is the result, for one
  draw of $u$. The gap is $\mathrm{KL}(q(u)\,\|\,p(x + u)/P(x))$.

With the exact trace these hold to the solver's error; with random signs the result is an unbiased
estimate of them. Nats per dimension.

References:
    Song et al. (2021), https://arxiv.org/abs/2011.13456; truncated-normal dequantization: Zheng et
    al. (2023), https://arxiv.org/abs/2305.03935
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import require_positive, typed
from elbos.base.conditions import Condition, map_tensors
from elbos.base.extras import needs
from elbos.models.likelihood.terms import at_least_single, require_levels
from elbos.theory.denoiser import Denoise, estimate
from elbos.theory.process import alpha_sigma

MAX_STEP = 1.0  # log-SNR: a longer step can miss the whole evolution of N(0, 0.9^2)
MAX_NUM_STEPS = 1000  # six evaluations each; smooth flows need fewer

Dequantize = Callable[
    [torch.Size, float, float, torch.Generator | None],
    tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]],
]
r"""Draws $u$ for a shape, $\delta$, $\tilde\sigma$, generator; computes $-\log q(u)$, nats/dim."""


def uniform(
    shape: torch.Size,
    spacing: float,
    sigma_tilde: float,  # noqa: ARG001, a `Dequantize`
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]]:
    r"""Draw uniform dequantization noise on the interval of a pixel value.

    Returned are the noise $u$ and $-\log q(u)$. Here $-\log q(u) = d\ln\delta$. The bound is loose
    where $\tilde\sigma \ll \delta$: most of the interval then lies where the model saw no data.
    """
    u = spacing * (torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5)
    return u, torch.full(shape[:1], math.log(spacing), dtype=u.dtype)


def truncated_normal(
    shape: torch.Size, spacing: float, sigma_tilde: float, generator: torch.Generator | None
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]]:
    r"""Draw truncated-normal dequantization noise on the interval of a pixel value.

    Returned are the noise $u$ and $-\log q(u)$.

    $u \sim \mathcal N(0, \tilde\sigma^2 I)$, truncated, with $-\log q(u) =
    \frac{\|u\|^2}{2\tilde\sigma^2} + d\ln(\sqrt{2\pi}\,\tilde\sigma Z)$ and
    $Z = \mathrm{erf}(\delta/\sqrt8\tilde\sigma)$; this is returned per dimension, in nats.

    This is the noise of training at $\lambda_\max$: for an exact denoiser of well separated pixel
    values, the bound is loose only by the truncated mass, $-\ln Z$ per dimension.
    """
    within = math.erf(spacing / (math.sqrt(8) * sigma_tilde))
    v = 2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1
    normal = math.sqrt(2) * torch.erfinv(within * v)
    log_scale = math.log(math.sqrt(2 * math.pi) * sigma_tilde * within)
    return sigma_tilde * normal, 0.5 * normal.square().flatten(1).mean(1) + log_scale


@dataclass(frozen=True)
class FlowLikelihood:
    r"""Negative log-likelihood of each image under the probability-flow ODE.

    For discrete data it is an upper bound.

    Images are independent given the model, so the standard deviation of `nats` over $\sqrt n$ is
    the standard error of its mean, over images, dequantization and probes. The solver's error is
    not included: solve again at a tenth of the tolerances to estimate it.

    Args:
        nats: $-\log p(x)$ of continuous data, the bound on $-\log P(x)$ of discrete data; nats per
            dimension.
        num_evaluations: Forward passes of the network per image. Each is followed by one backward
            pass, or by $d$ for the exact trace.
    """

    nats: Float[Tensor, " b"]
    num_evaluations: int


@torch.inference_mode(mode=False)  # inference mode would exclude gradients
@torch.no_grad()
@typed
def flow_likelihood(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    *,
    logsnr_min: float,
    logsnr_max: float,
    num_levels: int | None,
    dequantize: Dequantize = truncated_normal,
    use_exact_trace: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    cond: Condition = None,
    generator: torch.Generator | None = None,
) -> FlowLikelihood:
    r"""Compute the negative log-likelihood of each image by the probability-flow ODE.

    The ODE is solved by the Dormand-Prince method.

    Steps are shared by the batch and accepted when the worst image is within the tolerances, so
    that an image's value does not depend, beyond them, on the others. The state is float32, or
    float64 for float64 data; under bfloat16 autocast the network's rounding sets the error, not the
    tolerances. Gradients are computed under `torch.no_grad()` and `torch.inference_mode()`, too.

    Args:
        denoiser: Estimates the noise; differentiable in `z`, without dropout. Numbers of steps
            differ between processes, so the network must not communicate: unwrap DDP.
        x: Data in [-1, 1]; discrete data have the values $2k/(K-1) - 1$. The result has no
            gradient.
        logsnr_min: $\lambda_\min$, where the flow ends and the density is taken to be normal.
        logsnr_max: $\lambda_\max$, where it starts. VDM uses 13.3 for 256 values,
            $\delta \approx 6\tilde\sigma$.
        num_levels: $K$ of discrete data, or None for continuous data, which are not dequantized.
        dequantize: $q$. Default: `truncated_normal`, the noise that the network knows.
        use_exact_trace: $d$ backward passes per evaluation instead of one. Default: one random
            probe per image, as noise of the probes averages out over images.
        rtol: Relative tolerance, per step, of the root mean square of $z$ and of the log-density
            per dimension. Default: 1e-5, below the standard error of any test set.
        atol: Absolute tolerance of the same. Default: 1e-5, in nats per dimension.
        cond: What the denoiser is conditioned on.
        generator: Source of dequantization and probes, on the CPU.

    Raises:
        ValueError: If the ends are not finite with `logsnr_min` below `logsnr_max`, a tolerance is
            not positive, discrete data have other values, the denoiser does not return a pair of
            finite, differentiable estimates, or the solver does not reach the end.
    """
    require_positive(rtol=rtol, atol=atol)
    if not -math.inf < logsnr_min < logsnr_max < math.inf:
        raise ValueError(
            f"logsnr_min={logsnr_min}, logsnr_max={logsnr_max}: "
            "give finite ends, the first below the second."
        )
    x = at_least_single(x)
    cond = map_tensors(torch.clone, cond)  # tensors made in inference mode have no backward pass
    level = torch.tensor(logsnr_max, dtype=torch.float64)
    nats = torch.full(x.shape[:1], -0.5 * logsigmoid(level).item()).to(x)  # p(x), not p(alpha x)
    if num_levels is not None:
        require_levels(x, num_levels)
        u, surprise = dequantize(
            x.shape, 2 / (num_levels - 1), math.exp(-logsnr_max / 2), generator
        )
        x, nats = x + u.to(x), nats - surprise.to(x)
    if use_exact_trace:
        unit = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        probes = unit.reshape(len(unit), 1, *x.shape[1:]).expand(-1, *x.shape)
    else:
        probes = 2 * torch.randint(2, (1, *x.shape), generator=generator).to(x) - 1
    flow = _Flow(denoiser, probes, cond, logsnr_min)
    alpha, _ = alpha_sigma(level)
    z, divergence = _solve(flow, alpha.item() * x, (logsnr_max, logsnr_min), rtol=rtol, atol=atol)
    nats += 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).mean(1) - divergence
    return FlowLikelihood(nats, flow.num_evaluations)


@dataclass
class _Flow:
    r"""Right-hand side of the probability-flow ODE.

    It is the velocity $dz/d\lambda$ and its divergence per dimension.
    """

    denoiser: Denoise
    probes: Float[Tensor, "m b *d"]
    cond: Condition
    logsnr_min: float
    num_evaluations: int = 0

    def __call__(
        self, logsnr: Float[Tensor, ""], state: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]]:
        self.num_evaluations += 1
        logsnr = logsnr.clamp(min=self.logsnr_min)  # the first trial step may leave the range
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            _, eps_hat = estimate(self.denoiser, z, logsnr[None], self.cond)
        if not eps_hat.requires_grad:
            raise ValueError(
                "the denoiser's output has no gradient, which the divergence is made of: "
                "take no_grad, inference_mode or detach out of it."
            )
        trace = torch.zeros_like(state[1])
        for v in self.probes:
            (product,) = torch.autograd.grad(eps_hat, z, v, retain_graph=True)
            trace += (v * product).flatten(1).mean(1)
        if not (eps_hat.isfinite().all() and trace.isfinite().all()):
            raise ValueError(
                f"the denoiser's output or derivative at log-SNR {logsnr.item():.6g} is not "
                "finite: check data and network, or narrow logsnr_min and logsnr_max."
            )
        _, sigma = alpha_sigma(logsnr)
        velocity = 0.5 * (sigma**2 * z.detach() - sigma * eps_hat.detach())
        return velocity, 0.5 * (sigma**2 - sigma * trace)


def _worst_image(error: tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]]) -> Float[Tensor, ""]:
    """Return the largest ODE solver error among the images of a batch.

    A mean over the batch would hide it.
    """
    z, divergence = error
    return torch.maximum(z.square().flatten(1).mean(1).sqrt(), divergence.abs()).max()


def _solve(
    flow: _Flow, z: Float[Tensor, "b *d"], ends: tuple[float, float], *, rtol: float, atol: float
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, " b"]]:
    with needs("evaluate"):
        from torchdiffeq import odeint
    levels = torch.tensor(ends, dtype=z.dtype, device=z.device)
    options = {
        "norm": _worst_image,
        "step_t": levels[1:],  # otherwise the last step evaluates the network beyond the end
        "max_step": MAX_STEP,
        "max_num_steps": MAX_NUM_STEPS,
        "dtype": z.dtype,  # torchdiffeq's own choice, float64, is not on all devices
    }
    state = (z, torch.zeros_like(z.flatten(1)[:, 0]))
    try:
        states = odeint(flow, state, levels, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:  # torchdiffeq's way to say that it cannot continue
        raise ValueError(
            f"the flow cannot be followed to rtol={rtol:g}, atol={atol:g} ({error}): loosen them, "
            "or run the network in higher precision."
        ) from error
    return states[0][-1], states[1][-1]
