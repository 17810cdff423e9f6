r"""Whether what a loss does is a function of the noise level.

A weighting $w(\lambda)$ describes a loss if the level decides the target, and if the network is
given the level. So log-SNR must be a function of the time that the network is given: noise that is
multiplied by a random number per sample is not normal, given the time, but Student's t or such. A
coefficient may be random, if it does not depend on the noise: then its mean is the weight.

A function of sorted numbers is, at each of them, about the mean of its two neighbours.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.diagnostics import Diagnostic

_MIN_SCATTER = 0.1  # of log-SNR, that counts
_MIN_DISTINCT = 20  # values of a time
_MIN_CORRELATION = 0.5  # of the ranks of log-SNR and of a time
_NORMAL = 0.6745 * 1.5**0.5  # the median deviation of independent normal values


def of_the_levels(
    logsnr: Float[Tensor, " n"],
    alpha: Float[Tensor, " n"],
    given: Sequence[Float[Tensor, " n"]],
    *,
    error: float,
) -> list[Diagnostic]:
    """Whether the network is given a number that log-SNR is a function of.

    Args:
        logsnr: Log-SNR of samples, up to a constant.
        alpha: Their scales of the data, in place of a number where none is given.
        given: The other arguments of the network.
        error: Standard error of a single log-SNR.
    """
    kept = logsnr.isfinite() & (logsnr.abs() < 30)
    times = [one[kept] for one in given if _is_time(one[kept], logsnr[kept])]
    if not times and alpha.std() > 1e-3 * alpha.mean():
        times = [alpha[kept]]
    if not times or kept.sum() < 100:
        return []
    rising, place = logsnr[kept].sort()  # so that of equal times, levels rise
    orders = [time[place].argsort(stable=True) for time in times]
    scatter = min(_deviations(rising[order]).abs().median().item() for order in orders)
    spacing = (logsnr[kept].max() - logsnr[kept].min()).item() / int(kept.sum())
    if scatter / _NORMAL < max(_MIN_SCATTER, 3 * spacing) + 2 * error:
        return []
    return [Diagnostic("untold-levels", {"scatter": scatter / _NORMAL})]


def of_the_target(
    logsnr: Float[Tensor, " n"], factor: Float[Tensor, " n"], *, error: float
) -> list[Diagnostic]:
    r"""Whether $b - a\sigma/\alpha$ of the target is a function of log-SNR."""
    ordered = factor[logsnr.argsort()]
    size = (ordered[:-2].abs() + ordered[2:].abs()) / 2
    is_off = _deviations(ordered).abs() > (0.1 + 3 * error) * size
    share = is_off.double().mean().item()
    return [Diagnostic("scattered-target", {"share": share})] if share > 0.05 else []


def of_the_coefficient(
    logsnr: Float[Tensor, " n"], c: Float[Tensor, " n"], power: Float[Tensor, " n"]
) -> list[Diagnostic]:
    """Whether a coefficient that is random at one noise level depends on the noise.

    Args:
        logsnr: Log-SNR of samples.
        c: Their coefficients.
        power: The mean squares of their noise.
    """
    kept = (c > 0) & logsnr.isfinite()
    if kept.sum() < 100:
        return []
    order = logsnr[kept].argsort()
    pair = [_deviations(values[kept][order].log()) for values in (c, power)]
    if pair[0].abs().median() < 1e-3:
        return []
    is_dependent = abs(_rank_correlation(*pair)) > 6 / len(pair[0]) ** 0.5
    return [Diagnostic("noise-dependent")] if is_dependent else []


def time_sign(logsnr: Float[Tensor, " n"], given: Sequence[Float[Tensor, " n"]]) -> int:
    """1 if the time that the network is given runs from noise to data, -1 if from data to noise, 0
    if it is given none.
    """
    time = next((one for one in given if _is_time(one, logsnr)), None)
    return 0 if time is None else int(_rank_correlation(time, logsnr) > 0) * 2 - 1


def _is_time(given: Tensor, logsnr: Tensor) -> bool:
    """Whether log-SNR mostly rises, or mostly falls, with a number that the network is given."""
    if len(given) != len(logsnr) or len(set(given.tolist())) < _MIN_DISTINCT:
        return False
    return abs(_rank_correlation(given, logsnr)) > _MIN_CORRELATION


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1].item())


def _deviations(ordered: Tensor) -> Tensor:
    """Values less the means of their neighbours, but for both ends."""
    return ordered[1:-1] - (ordered[:-2] + ordered[2:]) / 2
