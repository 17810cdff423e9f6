r"""Multistep exponential integrators: UniPC of any order, and DPM-Solver++(3M), which has no
corrector.

As in `dpm_solver`, a step is $z_s = \frac{\sigma_s}{\sigma_t} z_t + \alpha_s \int_0^h e^{\tau -
h}\,\hat x(\tau)\,d\tau$. Here $\hat x$ is the polynomial through the last $k$ estimates, for order
$k$. A last step to $\lambda_s = \infty$, where no polynomial but a constant has a limit, lands on
$\hat x$ itself. Deterministic.

References:
    Lu et al. (2022), https://arxiv.org/abs/2211.01095; Zhao et al. (2023),
    https://arxiv.org/abs/2302.04867
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor

from elbos.models.samplers.sampler import Estimate, Noise, Sampler
from elbos.theory.process import alpha_sigma

Estimates = list[tuple[Tensor, Tensor]]  # pairs of noise level and estimate of the data


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler):
    r"""Predictor-corrector sampler UniPC with $B_2(h)$.

    Each new estimate also corrects the preceding step. A step is predicted from the last `order`
    estimates. The estimate at its end joins them, and the step is taken again with one more, for no
    further evaluation: of order `order` + 1 on the ODE. Prediction and correction are the exact
    integrals of their polynomials, in which $B(h)$ cancels, but where a step knows one difference
    alone, whose weight is $B_2(h)/2$ with $B_2(h) = 1 - e^{-h}$: the prediction of order 2 is then
    `DPMSolver`.

    The first steps are of lower order, since estimates are missing, and where the last level is
    $\infty$ the last ones are, too, the last of order 1: what its authors call `bh2` with
    `lower_order_final`.

    Attributes:
        order: Number of estimates in a prediction: 1, 2 or 3. Default: 2, as good as the best
            sampler at few steps, and with guidance its authors' advice; 3 is more exact from about
            24 evaluations on.

    Raises:
        ValueError: If `order` is not 1, 2 or 3.

    References:
        Zhao et al. (2023), https://arxiv.org/abs/2302.04867
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order is {self.order}: give 1, 2 or 3.")

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        del noise  # deterministic
        return _multistep(estimate, z, levels, order=self.order, is_corrected=True)


@dataclass(frozen=True, kw_only=True)
class DPMSolver3(Sampler):
    r"""DPM-Solver++(3M): a three-step exponential integrator of the data estimate.

    It is the exact integral of the parabola through the last three estimates, `UniPC` of order 3
    without corrections. diffusers' step of this name weighs the second difference with half of its
    integral, which makes it of order 2.

    A parabola extrapolates poorly from estimates that are far apart: below about 12 evaluations
    `DPMSolver` is better.

    References:
        Lu et al. (2022), https://arxiv.org/abs/2211.01095
    """

    def _sample(self, estimate: Estimate, z: Tensor, levels: Tensor, noise: Noise) -> Tensor:
        del noise  # deterministic
        return _multistep(estimate, z, levels, order=3, is_corrected=False)


def _multistep(
    estimate: Estimate,
    z: Float[Tensor, "b *d"],
    levels: Float[Tensor, "n 1"],
    *,
    order: int,
    is_corrected: bool,
) -> Float[Tensor, "b *d"]:
    is_clean, num_steps = bool(levels[-1].isinf()), len(levels) - 1
    estimates: Estimates = []
    used: Estimates = []
    begin, z_begin = None, z
    for step, (now, after) in enumerate(pairwise(levels)):
        new = now, estimate(z, now)[0]
        if is_corrected and begin is not None:
            z = _integrate(z_begin, begin, now, [new, *used])
        estimates = [new, *estimates[: order - 1]]
        used = estimates[: num_steps - step] if is_clean else estimates
        begin, z_begin = now, z
        z = _integrate(z, now, after, used)
    return z


def _integrate(
    z: Float[Tensor, "b *d"],
    now: Float[Tensor, " 1"],
    after: Float[Tensor, " 1"],
    estimates: Estimates,
) -> Float[Tensor, "b *d"]:
    h = (after - now).item() / 2
    weights = _quadrature([(level - now).item() / 2 for level, _ in estimates], h)
    (_, sigma), (alpha_next, sigma_next) = alpha_sigma(now), alpha_sigma(after)
    integral = sum(w * x_hat for w, (_, x_hat) in zip(weights, estimates, strict=True))
    return sigma_next / sigma * z + alpha_next * integral


def _quadrature(nodes: list[float], h: float) -> list[float]:
    r"""Return the quadrature weights of $\int_0^h e^{\tau - h} f(\tau)\,d\tau$ at given nodes.

    They are exact for $f = (\tau/h)^k$ with $k$ below the number of nodes, whose integrals are
    $m_0 = 1 - e^{-h}$ and, by parts, $m_k = 1 - k\,m_{k-1}/h$. Of two nodes, $m_1$ is
    $B_2(h)/2 = m_0/2$: as exact to the order of the step, and better at steps that are long.
    """
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k * moments[-1] / h)
    if len(nodes) == 2:
        moments[1] = moments[0] / 2
    powers = np.vander(np.array(nodes) / h, increasing=True).T
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights
