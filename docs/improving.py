"""The figure of the guide "Is my model still improving?": writes results/improving.svg.

python docs/improving.py RUN [--num-images 250]

Every kept checkpoint of a run is measured on the same test images with the same noise. Prints the
table of the guide, too.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from figures import HEIGHT, TOP, write

from elbos import Run, Validator
from elbos.training import checkpoint
from elbos.training.data import to_unit
from elbos.training.randomness import generator
from elbos.validation import Validation
from elbos.validation.estimate import Estimate

BLUE, RED = "#1f77b4", "#d62728"
Points = Sequence[tuple[float, Estimate]]  # images seen, and an estimate there


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Images seen against a number, in pixels; the number on a logarithmic scale."""

    left: int
    width: int
    images: int
    ticks: Sequence[float]

    def position(self, images: float, value: float) -> tuple[float, float]:
        """Pixels; a value below the last tick is on it."""
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        share = (math.log(max(value, self.ticks[0])) - low) / (high - low)
        return self.left + self.width * images / self.images, TOP + HEIGHT * (1 - share)

    def drawn(self, title: str) -> list[str]:
        """Frame, ticks and their labels."""
        parts = [f'<text x="{self.left}" y="18">{title}</text>']
        for value in self.ticks:
            x, y = self.position(0, value)
            parts += [
                f'<path d="M{x} {y:.1f}h{self.width}" stroke="#eeeeee"/>',
                f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>',
            ]
        for images in range(0, self.images + 1, 25_000):
            x, y = self.position(images, self.ticks[0])
            parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{images:,}</text>')
        x, y = self.left + self.width / 2, TOP + HEIGHT + 40
        return [*parts, f'<text x="{x}" y="{y}" text-anchor="middle">images seen</text>']

    def line(self, points: Sequence[tuple[float, float]], color: str) -> str:
        """A curve."""
        path = "L".join("{:.1f} {:.1f}".format(*self.position(*point)) for point in points)
        return f'<path d="M{path}" stroke="{color}" stroke-width="2" fill="none"/>'

    def errors(self, points: Points, color: str) -> list[str]:
        """Two standard errors up and down."""
        parts = []
        for images, one in points:
            x, low = self.position(images, one.mean - 2 * one.standard_error)
            _, high = self.position(images, one.mean + 2 * one.standard_error)
            _, y = self.position(images, one.mean)
            parts += [
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{color}"/>',
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>',
            ]
        return parts


def measured(path: Path, num_images: int) -> dict[int, Validation]:
    """The validation of every checkpoint, by the images that it has seen."""
    runs = [Run(path, step=step) for step in checkpoint.kept(path / "checkpoints")]
    test, schedule = runs[0].dataset.test, runs[0].config.schedule
    rows = torch.randperm(len(test), generator=generator(0))[:num_images]
    validator = Validator(
        to_unit(test.x[rows], runs[0].data.num_levels),
        num_levels=runs[0].data.num_levels,
        logsnr_min=schedule.logsnr_min,
        logsnr_max=schedule.logsnr_max,
    )
    cond = None if test.labels is None or not runs[0].has_labels else test.labels[rows]
    with runs[0].autocast():
        return {
            run.step * run.config.batch_size: validator(run.denoiser, cond=cond, batch_size=250)
            for run in runs
        }


def figure(losses: list[tuple[float, float]], bounds: Points, gains: Points) -> list[str]:
    """The training loss, the bound and its gain from one checkpoint to the next."""
    images = round(bounds[-1][0])
    panels = [
        (Panel(left=60, width=240, images=images, ticks=(0.1, 0.2, 0.3, 0.6)), "training loss"),
        (Panel(left=360, width=240, images=images, ticks=(3, 3.5, 4, 5, 6)), "bits/dim, ± 2 s.e."),
        (
            Panel(left=670, width=240, images=images, ticks=(1e-3, 1e-2, 1e-1, 1)),
            "gain since the checkpoint before, bits/dim",
        ),
    ]
    parts = [part for panel, title in panels for part in panel.drawn(title)]
    parts.append(panels[0][0].line(losses, BLUE))
    parts += panels[1][0].errors(bounds, BLUE)
    parts += panels[2][0].errors(gains, RED)
    return parts


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-images", type=int, default=250)
    arguments = parser.parse_args()
    found = measured(arguments.run, arguments.num_images)
    lines = map(json.loads, (arguments.run / "metrics.jsonl").read_text().splitlines())
    losses = [(line["images"], line["loss"]) for line in lines if "loss" in line]
    bounds = [(images, one.bits) for images, one in found.items()]
    gains = [
        (images, before.difference(after))
        for (_, before), (images, after) in pairwise(found.items())
    ]
    write("results/improving.svg", 930, figure(losses, bounds, gains))
    print("| images seen | bits/dim | gain, on the same noise | if the errors were independent |")
    print("|---|---|---|---|")
    for (images, one), (_, gain) in zip(bounds[1:], gains, strict=True):
        print(
            f"| {images:,} | {one.mean:.3f} ± {one.standard_error:.3f} | {gain.mean:.4f} ± "
            f"{gain.standard_error:.4f} | ± {math.sqrt(2) * one.standard_error:.3f} |"
        )


if __name__ == "__main__":
    main()
