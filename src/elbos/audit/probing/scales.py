r"""Identification of the diffusion process, and of the scale of its data, from measured $\alpha,
\sigma$.

If the loss multiplies its data by an unknown $s$, the measured coefficient is $\alpha' = s\alpha$.
The relation of $\alpha$ and $\sigma$ over the noise levels gives $s$:

| process | relation |
|---|---|
| variance preserving | $\alpha^2 + \sigma^2 = 1$ |
| rectified flow | $\alpha + \sigma = 1$ |
| variance exploding | $\alpha = 1$ |
| sub-VP | $\alpha^2 + \sigma = 1$ |
| variance preserving with a wrong exponent (`SLIPS`) | $\alpha^m + \sigma^n = 1$ |

One case is ambiguous: EDM's input scaling $c_\mathrm{in}$ for data of standard deviation $\sigma_d$
is also the variance-preserving process of data multiplied by $1/\sigma_d$. The network's time input
resolves this if it is $\sigma/\alpha$, its logarithm, a quarter of its logarithm, or log-SNR.
Otherwise EDM's process is assumed if the data have no offset and $\sigma_d < 1$.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SLIPS = {
    (1, 2): "ᾱ in place of its square root",
    (4, 4): "the square roots of ᾱ and 1 - ᾱ taken twice",
}
r"""Typical bugs that lead to $\alpha^m + \sigma^n = 1$, by $(m, n)$; ᾱ is α²."""
SUB_VP = "sub-VP"
BUT_FOR = "variance preserving but for "
_GIVEN_ERROR = 1e-2  # float32 error of a log-SNR computed from the network's time input
_PURE = 30.0  # log-SNR beyond which float32 rounds signal or noise away


class Process(NamedTuple):
    """A diffusion process and the scale factor of its data."""

    name: str | None  # None if no known relation holds
    scale: float  # factor on the data before diffusion
    sigma_data: float | None = None  # if the input is scaled as in EDM

    def logsnr(self, alpha: Float[Tensor, " n"], sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Compute the log-SNR, infinite beyond the precision of float32."""
        logsnr = 2 * (torch.log(alpha / self.scale) - sigma.log())
        logsnr = torch.where(logsnr < -_PURE, -torch.inf, logsnr)
        return torch.where(logsnr > _PURE, torch.inf, logsnr)


def given_scale(logsnr: Float[Tensor, " n"], times: Iterable[Float[Tensor, " n"]]) -> float | None:
    """Infer the data's scale from a time input that is a function of log-SNR up to this scale."""
    is_mixed = logsnr.abs() < _PURE / 2
    for time in times:
        level = time[is_mixed]
        for value in (-2 * level.log(), -2 * level, -8 * level, level):
            off = logsnr[is_mixed] - value
            if len(off) and (off - off.median()).abs().max() < _GIVEN_ERROR:
                return _rounded((off.median() / 2).exp(), 0.0)
    return None


def process_of(
    alpha: Float[Tensor, " n"],
    sigma: Float[Tensor, " n"],
    *,
    offset: float,
    rtol: float,
    network_scale: float | None = None,
) -> Process:
    """Identify the diffusion process from measured coefficients of data and noise.

    Data with an `offset` are likely to be scaled, too. `rtol` is the error of a single `sigma`,
    `network_scale` that of `given_scale`.
    """
    order = alpha.argsort()
    groups = [(alpha[i], sigma[i]) for i in order.tensor_split(min(20, len(order)))]

    def holds(variance_of: Callable[[Tensor], Tensor]) -> bool:
        errors = [((s**2).mean() - variance_of(a).mean()).abs() for a, s in groups]
        largest = max((s**2).mean() for _, s in groups)
        size = min(len(s) for _, s in groups)
        return bool(max(errors) < (2e-3 + 8 * rtol / size**0.5) * largest)

    if alpha.max() - alpha.min() < 2e-3 * alpha.max():
        return Process("variance exploding", _rounded(alpha.median(), rtol))
    scale = _rounded(_preserving_scale(alpha, sigma), rtol)
    if holds(lambda a: 1 - (a / scale) ** 2):
        if network_scale is None:
            network_scale = 1.0 if scale > 1 and offset == 0 else scale
        if abs(network_scale / scale - 1) < 2e-3:
            return Process("variance preserving", scale)
        return Process("variance exploding, scaled by c_in", network_scale, network_scale / scale)
    scale = _rounded(_flow_scale(alpha, sigma), rtol)
    if scale > 0 and holds(lambda a: (1 - a / scale) ** 2):
        return Process("rectified flow", scale)
    if rtol == 0 and (alpha**2 + sigma - 1).abs().quantile(0.9) < 2e-3:
        return Process(SUB_VP, 1.0)
    for (m, n), slip in SLIPS.items():
        if rtol == 0 and (alpha**m + sigma**n - 1).abs().quantile(0.9) < 2e-3:
            return Process(BUT_FOR + slip, 1.0)
    return Process(None, 1.0)


def _preserving_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**4).sum(0).div(((1 - sigma**2) * alpha**2).sum(0)).abs().sqrt()


def _flow_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2).sum(0) / ((1 - sigma) * alpha).sum(0)


def _rounded(scale: Tensor, rtol: float) -> float:
    value = float(f"{scale.item():.4g}")
    return 1.0 if abs(value - 1) < 2e-3 + 0.2 * rtol else value


def relative_scale(alpha: Float[Tensor, "k n"], sigma: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """Estimate the data scale of each sample from its coefficients of data and noise."""
    preserving, flow = _preserving_scale(alpha, sigma), _flow_scale(alpha, sigma)
    exploding = alpha.mean(0)
    errors = {
        (sigma**2 + (alpha / preserving) ** 2 - 1).square().mean(): preserving,
        (sigma + alpha / flow - 1).square().mean(): flow,
        (alpha / exploding - 1).square().mean(): exploding,
    }
    return errors[min(errors)]
