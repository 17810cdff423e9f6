"""The figures of README and of the guide to the audit: writes weightings.svg and min-snr.svg.

python docs/figures.py

The first draws the weightings of published recipes from their formulas. The second is measured: its
losses are an example of examples/audit, which needs diffusers, and their weightings what the audit
finds.
"""

import math
import runpy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from elbos import audit
from elbos.theory import elbo as analysis
from elbos.theory import recipes, weightings

DOCS = Path(__file__).parent
TOP, HEIGHT = 28, 250
REFERENCE = 2.0  # the log-SNR at which all curves of a figure are made equal


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Log-SNR against the logarithm of the weight, in pixels."""

    left: int
    width: int
    logsnr: tuple[float, float]
    ticks: range
    decades: tuple[int, int]

    def position(self, logsnr: float, log10_w: float) -> tuple[float, float]:
        """Pixels."""
        low, high = self.logsnr
        x = self.left + self.width * (logsnr - low) / (high - low)
        y = TOP + HEIGHT * (self.decades[1] - log10_w) / (self.decades[1] - self.decades[0])
        return x, y

    def drawn(self, title: str) -> list[str]:
        """Frame, ticks and their labels."""
        parts = []
        for logsnr in self.ticks:
            x, y = self.position(logsnr, self.decades[0])
            parts.append(f'<path d="M{x:.1f} {TOP}V{y}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{logsnr}</text>')
        for decade in range(self.decades[0], self.decades[1] + 1):
            x, y = self.position(self.logsnr[0], decade)
            parts.append(f'<path d="M{x} {y:.1f}H{self.left + self.width}" stroke="#eeeeee"/>')
            parts.append(
                f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">10<tspan dy="-5" '
                f'font-size="9">{decade}</tspan></text>'
            )
        middle = self.left + self.width / 2
        below = TOP + HEIGHT + 40
        parts.append(
            f'<text x="{middle}" y="{below}" text-anchor="middle">noisy ← log-SNR → clean</text>'
        )
        parts.append(f'<text x="{self.left}" y="18">{title}</text>')
        return parts

    def line(self, logsnr: Float[Tensor, " n"], w: Float[Tensor, " n"], style: str) -> str:
        """A curve, where it is inside of the frame."""
        low, high = (10.0**decade for decade in self.decades)
        points = [
            self.position(at, math.log10(value))
            for at, value in zip(logsnr.tolist(), w.tolist(), strict=True)
            if low <= value <= high and self.logsnr[0] <= at <= self.logsnr[1]
        ]
        return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" {style}/>'


def stroke(color: str, *, is_dashed: bool) -> str:
    """The style of a line."""
    style = f'stroke="{color}" stroke-width="2" fill="none"'
    return style + (' stroke-dasharray="5 4"' if is_dashed else "")


def write(name: str, width: int, parts: list[str]) -> None:
    """Write a figure beside this file, on white: legible in a dark theme, too."""
    height = TOP + HEIGHT + 50
    svg = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *parts,
            "</svg>",
        ]
    )
    (DOCS / name).write_text(svg + "\n")


# --- what popular losses weigh -------------------------------------------------------------------

POPULAR = [
    ("ELBO", weightings.ELBO(), "#777777"),
    ("sigmoid(2)", weightings.Sigmoid(k=2.0), "#1f77b4"),
    ("flow matching, v-loss", weightings.Exponential(), "#2ca02c"),
    ("EDM-monotonic", weightings.Monotone(weightings.EDM()), "#9467bd"),
    ("EDM", weightings.EDM(), "#9467bd"),
    ("Min-SNR", weightings.MinSNR(), "#d62728"),
    ("SD3 logit-normal", recipes.RECIPES["sd3"].weighting, "#ff7f0e"),
]


def popular() -> list[str]:
    """Curves, one tenth at the reference, and a legend beside them."""
    axes = Axes(left=60, width=560, logsnr=(-10.0, 10.0), ticks=range(-10, 11, 5), decades=(-4, 1))
    parts = axes.drawn("weight of each noise level; solid: never rises, a likelihood objective")
    logsnr = torch.linspace(*axes.logsnr, 401, dtype=torch.float64)
    for i, (name, weighting, color) in enumerate(POPULAR):
        w = weighting(logsnr) / weighting(torch.tensor([REFERENCE], dtype=torch.float64)) / 10
        style = stroke(color, is_dashed=not analysis.is_monotone(weighting, *axes.logsnr))
        x, y = axes.left + axes.width + 14, TOP + 14 + 24 * i
        parts += [
            axes.line(logsnr, w, style),
            f'<path d="M{x} {y}h32" {style}/>',
            f'<text x="{x + 40}" y="{y + 4}">{name}</text>',
        ]
    return parts


# --- three formulas for one flag -----------------------------------------------------------------

FORMULAS = [
    ("plus_one", "min(snr, 5)/snr + 1", "#1f77b4"),
    ("snr_plus_one", "min(snr + 1, 5)/(snr + 1)", "#ff7f0e"),
    ("correct", "min(snr, 5)/(snr + 1)", "#d62728"),
]


def min_snr() -> list[str]:
    """Measured curves, one at the reference, dashed where they rise, and a legend among them."""
    axes = Axes(left=60, width=620, logsnr=(-6.0, 8.0), ticks=range(-6, 9, 2), decades=(-4, 3))
    parts = axes.drawn("weight of each noise level, equal at log-SNR 2; dashed: it rises")
    losses = runpy.run_path(str(DOCS.parent / "examples/audit/diffusers_v_prediction.py"))
    x = 2 * torch.rand(64, 4, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    for i, (name, formula, color) in enumerate(FORMULAS):
        result = audit.probe(losses[name], x)
        at_reference = result.weighting(torch.tensor([REFERENCE], dtype=torch.float64))
        for logsnr, is_rising in pieces(result):
            w = result.weighting(logsnr) / at_reference
            parts.append(axes.line(logsnr, w, stroke(color, is_dashed=is_rising)))
        left, y = 450, TOP + 16 + 24 * i
        parts += [
            f'<path d="M{left} {y}h32" {stroke(color, is_dashed=False)}/>',
            f'<text x="{left + 40}" y="{y + 4}">{formula}</text>',
        ]
    x_clean, y_clean = axes.position(4.0, -2.0)
    parts.append(
        f'<text x="{x_clean - 10:.1f}" y="{y_clean:.1f}" text-anchor="end">'
        "beyond SNR 5, orange lies under red</text>"
    )
    return parts


def pieces(result: audit.Audit) -> list[tuple[Float[Tensor, " n"], bool]]:
    """The noise levels of an audit, cut where the weighting begins and ceases to rise."""
    turns = [end for interval in result.rising for end in interval]
    cuts = sorted({result.logsnr[0].item(), *turns, result.logsnr[-1].item()})
    return [
        (
            torch.linspace(start, end, 201, dtype=torch.float64),
            any(low <= start and end <= high for low, high in result.rising),
        )
        for start, end in pairwise(cuts)
    ]


if __name__ == "__main__":
    write("weightings.svg", 830, popular())
    write("min-snr.svg", 700, min_snr())
