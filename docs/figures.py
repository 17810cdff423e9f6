"""The figure of README: what popular losses weigh. Writes docs/weightings.svg.

python docs/figures.py
"""

import math
from pathlib import Path

import torch

from elbos import analysis, weightings

LEFT, TOP, WIDTH, HEIGHT = 60, 28, 560, 250
LOGSNR_MIN, LOGSNR_MAX = -10.0, 10.0
DECADES = (-4, 1)
CURVES = [
    ("ELBO", weightings.ELBO(), "#777777"),
    ("sigmoid(2)", weightings.Sigmoid(k=2.0), "#1f77b4"),
    ("flow matching, v-loss", weightings.Exponential(), "#2ca02c"),
    ("EDM-monotonic", weightings.Monotone(weightings.EDM()), "#9467bd"),
    ("EDM", weightings.EDM(), "#9467bd"),
    ("Min-SNR", weightings.MinSNR(), "#d62728"),
    ("SD3 logit-normal", weightings.LogitNormalFlow(), "#ff7f0e"),
]


def main() -> None:
    """Draw and write the figure."""
    parts = [*axes(), *(part for i, curve in enumerate(CURVES) for part in drawn(i, *curve))]
    height = TOP + HEIGHT + 50
    svg = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 830 {height}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="830" height="{height}" fill="white"/>',
            *parts,
            "</svg>",
        ]
    )
    Path(__file__).with_name("weightings.svg").write_text(svg + "\n")


def position(logsnr: float, log10_w: float) -> tuple[float, float]:
    """Pixels."""
    x = LEFT + WIDTH * (logsnr - LOGSNR_MIN) / (LOGSNR_MAX - LOGSNR_MIN)
    y = TOP + HEIGHT * (DECADES[1] - log10_w) / (DECADES[1] - DECADES[0])
    return x, y


def axes() -> list[str]:
    """Frame, ticks and their labels."""
    parts = []
    for logsnr in range(-10, 11, 5):
        x, y = position(logsnr, DECADES[0])
        parts.append(f'<path d="M{x:.1f} {TOP}V{y}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{logsnr}</text>')
    for decade in range(DECADES[0], DECADES[1] + 1):
        x, y = position(LOGSNR_MIN, decade)
        parts.append(f'<path d="M{x} {y:.1f}H{LEFT + WIDTH}" stroke="#eeeeee"/>')
        parts.append(
            f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">10<tspan dy="-5" '
            f'font-size="9">{decade}</tspan></text>'
        )
    middle = LEFT + WIDTH / 2
    below = TOP + HEIGHT + 40
    parts.append(
        f'<text x="{middle}" y="{below}" text-anchor="middle">noisy ← log-SNR → clean</text>'
    )
    parts.append(
        f'<text x="{LEFT}" y="18">weight of each noise level; solid: never rises, '
        "a likelihood objective</text>"
    )
    return parts


def drawn(i: int, name: str, weighting: weightings.Weighting, color: str) -> list[str]:
    """The curve, one at log-SNR 2 by normalization, and its line in the legend."""
    is_monotone = analysis.is_monotone(weighting, LOGSNR_MIN, LOGSNR_MAX)
    logsnr = torch.linspace(LOGSNR_MIN, LOGSNR_MAX, 401, dtype=torch.float64)
    w = weighting(logsnr) / weighting(torch.tensor([2.0], dtype=torch.float64)) / 10
    points = [
        position(at, math.log10(value))
        for at, value in zip(logsnr.tolist(), w.tolist(), strict=True)
        if 10 ** DECADES[0] <= value <= 10 ** DECADES[1]
    ]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = f'stroke="{color}" stroke-width="2" fill="none"'
    style += "" if is_monotone else ' stroke-dasharray="5 4"'
    y = TOP + 14 + 24 * i
    return [
        f'<path d="{path}" {style}/>',
        f'<path d="M{LEFT + WIDTH + 14} {y}h32" {style}/>',
        f'<text x="{LEFT + WIDTH + 54}" y="{y + 4}">{name}</text>',
    ]


if __name__ == "__main__":
    main()
