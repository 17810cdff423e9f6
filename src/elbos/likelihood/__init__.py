r"""Likelihood: the loss at every noise level, and bits per dimension.

$$-\log p(x) \le
  \underbrace{\mathbb E[-\log p(x \mid z_{\lambda_\max})]}_\text{decoder}
  + \underbrace{\tfrac12\int_{\lambda_\min}^{\lambda_\max}
    \mathbb E\|\hat\epsilon - \epsilon\|^2 d\lambda}_\text{diffusion}
  + \underbrace{\mathrm{KL}(q(z_{\lambda_\min} \mid x)\,\|\,\mathcal N(0, I))}_\text{prior}.$$

Discrete data with $K$ pixel values are decoded by
$p(x \mid z) = \prod_i \mathrm{softmax}_k\, {-\tfrac12} e^{\lambda_\max}(z_i/\alpha - l_k)^2$:
no dequantization, and a true bound on the discrete log-likelihood. Continuous data are decoded by
$\mathcal N(x; z/\alpha, e^{-\lambda_\max} I)$, a bound on the density.

Everything is per image and in nats per dimension; bits per dimension are that over $\ln 2$.

| file | what it does |
|---|---|
| `terms` | the loss at a noise level, the prior's and the decoder's |
| `bound` | the variational bound of each image, and bits per dimension |
| `measurements` | losses at many noise levels, from which any integral follows, precisely |
| `flow` | the ODE likelihood |

References:
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630
"""

from elbos.likelihood.bound import Bound, variational_bound
from elbos.likelihood.flow import FlowLikelihood, flow_likelihood
from elbos.likelihood.measurements import (
    Curve,
    Estimate,
    Measurements,
    fit,
    losses_at,
    stratified_times,
)
from elbos.likelihood.terms import decoder_loss, eps_loss, prior_loss, warn_if_unresolved

__all__ = [
    "Bound",
    "Curve",
    "Estimate",
    "FlowLikelihood",
    "Measurements",
    "decoder_loss",
    "eps_loss",
    "fit",
    "flow_likelihood",
    "losses_at",
    "prior_loss",
    "stratified_times",
    "variational_bound",
    "warn_if_unresolved",
]
