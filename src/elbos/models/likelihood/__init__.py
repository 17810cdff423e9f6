r"""Likelihood of data under a denoiser: the loss at every noise level, and bits per dimension.

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
| `flow` | the ODE likelihood |

The bound of a data set is measured by `elbos.Validator`.

References:
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630
"""

from elbos.models.likelihood.flow import FlowLikelihood, flow_likelihood
from elbos.models.likelihood.terms import decoder_loss, eps_loss, prior_loss, warn_if_unresolved

__all__ = [
    "FlowLikelihood",
    "decoder_loss",
    "eps_loss",
    "flow_likelihood",
    "prior_loss",
    "warn_if_unresolved",
]
