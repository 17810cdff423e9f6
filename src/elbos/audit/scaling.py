r"""Which process a loss runs, and in which scale it sees its data.

What is measured is $z = \alpha' x + \sigma'\epsilon$. A loss that first multiplies its data by $s$
has $\alpha' = s\alpha$, and the log-SNR of the data that it diffuses is
$\log(\alpha'^2/s^2\sigma'^2)$. The product alone does not tell $s$; the relation of $\alpha$ and
$\sigma$ over the noise levels does:

| process | relation |
|---|---|
| variance preserving | $\alpha^2 + \sigma^2 = 1$ |
| rectified flow | $\alpha + \sigma = 1$ |
| variance exploding | $\alpha = 1$ |

One case stays open: EDM's input scaling $c_\mathrm{in}$ with data of standard deviation $\sigma_d$
*is* the variance-preserving process on data multiplied by $1/\sigma_d$. It is read as EDM's, the
data untouched, if nothing is added to the data and $\sigma_d < 1$.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Process(NamedTuple):
    """A process by name, and the scale of the data.

    Args:
        name: What it is called, or None if the relation is none of those known.
        scale: $s$, what the data are multiplied with before they are diffused.
        sigma_data: $\\sigma_d$ of an input scaled like EDM's, or None.
    """

    name: str | None
    scale: float
    sigma_data: float | None = None


def process_of(
    alpha: Float[Tensor, " n"], sigma: Float[Tensor, " n"], *, offset: float, rtol: float
) -> Process:
    r"""The process that the measured scales belong to.

    Args:
        alpha: $\alpha'$, per sample.
        sigma: $\sigma'$, per sample.
        offset: What is added to the data; if it is not 0, so is a scale likely.
        rtol: Relative error of `sigma` of a single sample.
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
    scale = _rounded((alpha**4).sum().div(((1 - sigma**2) * alpha**2).sum()).abs().sqrt(), rtol)
    if holds(lambda a: 1 - (a / scale) ** 2):
        if scale > 1.002 and offset == 0:
            return Process("variance exploding, scaled by c_in", 1.0, 1 / scale)
        return Process("variance preserving", scale)
    scale = _rounded((alpha**2).sum() / ((1 - sigma) * alpha).sum(), rtol)
    if scale > 0 and holds(lambda a: (1 - a / scale) ** 2):
        return Process("rectified flow", scale)
    return Process(None, 1.0)


def relative_scale(alpha: Float[Tensor, "k n"], sigma: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """The scales of data whose `alpha` is known up to a factor for each of `n` samples, from the
    relation that holds best over `k` noise levels.
    """
    preserving = (alpha**4).sum(0).div(((1 - sigma**2) * alpha**2).sum(0)).abs().sqrt()
    flow = (alpha**2).sum(0) / ((1 - sigma) * alpha).sum(0)
    exploding = alpha.mean(0)
    errors = {
        (sigma**2 + (alpha / preserving) ** 2 - 1).square().mean(): preserving,
        (sigma + alpha / flow - 1).square().mean(): flow,
        (alpha / exploding - 1).square().mean(): exploding,
    }
    return errors[min(errors)]


def _rounded(scale: Tensor, rtol: float) -> float:
    """Without the errors of the measurement: a scale of about 1 is none."""
    value = float(f"{scale.item():.4g}")
    return 1.0 if abs(value - 1) < 2e-3 + 0.2 * rtol else value
