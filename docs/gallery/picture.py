"""Small SVG picture of the weighting and the density of one audit.

All pictures have the same axes: log-SNR from noisy to clean, and the weight on a logarithmic scale
of `DECADES` below the largest weight in the picture.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from markupsafe import Markup

from elbos.audit.result import Audit
from elbos.base.arrays import Array

LOGSNR = (-14.0, 14.0)
DECADES = (
    6  # of weight: the range of exp(-logsnr/2), the weighting of flow matching, over the picture
)
WIDTH, HEIGHT = 280, 100
_TICKS = (-10, -5, 0, 5, 10)
_EVERY = 2.5  # pixels between points of a curve


def picture(audit: Audit, beside: Audit | None = None) -> Markup:
    """Draw an audit's weighting and noise-level density as SVG.

    A second weighting has the same geometric mean under $p$ as the first.
    """
    low, high = max(LOGSNR[0], audit.logsnr[0].item()), min(LOGSNR[1], audit.logsnr[-1].item())
    if low >= high:
        return _ticks()
    levels = np.linspace(low, high, max(2, round((_across(high) - _across(low)) / _EVERY)))
    p = np.interp(levels, audit.logsnr.numpy(), audit.density.numpy())
    log_w = _log_weight(audit, levels)
    undecided = [interval[:2] for interval in audit.undecided]
    outline = f"{_path(levels, p / p.max() / 2)}V{HEIGHT}H{_across(low):.1f}Z"
    shapes = [_ticks(), *_bands(audit.rising, "rising"), *_bands(undecided, "undecided")]
    shapes.append(Markup('<path class="density" d="{}"/>').format(outline))
    if beside is not None:
        is_common = (levels >= beside.logsnr[0].item()) & (levels <= beside.logsnr[-1].item())
        if is_common.any():
            log_v = _log_weight(beside, levels[is_common])
            log_v += np.average(log_w[is_common] - log_v, weights=p[is_common])
            shapes.append(_line(levels[is_common], log_v - log_w.max(), "line beside"))
    return Markup("").join([*shapes, _line(levels, log_w - log_w.max(), "line")])


def _log_weight(audit: Audit, levels: Float[Array, " n"]) -> Float[Array, " n"]:
    return np.asarray(audit.weighting(torch.from_numpy(levels)).log10().numpy())


def _line(levels: Float[Array, " n"], decades: Float[Array, " n"], kind: str) -> Markup:
    path = _path(levels, 1 + decades / DECADES)
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _ticks() -> Markup:
    path = "".join(f"M{_across(tick):.0f} 0V{HEIGHT}" for tick in _TICKS)
    return Markup('<path class="ticks" d="{}"/>').format(path)


def _bands(intervals: Sequence[tuple[float, float]], kind: str) -> list[Markup]:
    rect = Markup('<rect class="{}" x="{:.1f}" width="{:.1f}" height="{}"/>')
    ends = [np.clip(ends, *LOGSNR) for ends in intervals]
    return [
        rect.format(kind, _across(start), _across(end) - _across(start), HEIGHT)
        for start, end in ends
        if start < end
    ]


def _across(logsnr: float) -> float:
    return WIDTH * (logsnr - LOGSNR[0]) / (LOGSNR[1] - LOGSNR[0])


def _path(levels: Float[Array, " n"], up: Float[Array, " n"]) -> str:
    y = 3 + (HEIGHT - 3) * (1 - np.clip(up, -0.05, 1.1))
    return "M" + "L".join(f"{_across(a):.1f} {b:.1f}" for a, b in zip(levels, y, strict=True))
