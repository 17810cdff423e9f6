"""The tables and the picture: prints Markdown from scores.jsonl, and writes curves.svg beside it.

python docs/results/schedules/make.py [SCORES]

A run needs the images, or the seconds of a core, at which its best value so far comes to a target:
the value that cosine, of the same seed and the same choice of learning rate, has at a share of its
images. The ratio is to that share. Ratios are geometric means over seeds, differences are means;
both are paired by seed, and in parentheses are 95 % intervals by Student's t, each by itself.
"""

import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from elbos.base.colors import COLORS
from elbos.base.numbers import interval, signed
from elbos.base.tables import Table

HERE = Path(__file__).parent
BASE, PRESET_RATE = "cosine", 2e-3
METRICS = {
    "bits_per_dim": "bits/dim",
    "weighted_loss": "weighted loss",
    "kernel_distance": "kernel distance",
}
TARGETS = [*itertools.product(("bits_per_dim", "kernel_distance"), (0.5, 0.75, 1.0))]
TICKS = {"bits_per_dim": (2.5, 3, 4), "kernel_distance": (0.03, 0.05, 0.1, 0.2, 0.4)}


@dataclass(frozen=True)
class Column:
    """Curves of one schedule at one learning rate, `[seed, checkpoint]`."""

    name: str
    learning_rate: float
    curves: dict[str, Float[np.ndarray, "s k"]]

    def needed(self, axis: str, metric: str, targets: Float[np.ndarray, " s"]) -> np.ndarray:
        """Return images or seconds to the target of each seed; NaN where it is not reached.

        The best value so far is interpolated linearly in the logarithm of the axis.
        """
        found = []
        best = np.minimum.accumulate(self.curves[metric], 1)
        for x, y, target in zip(np.log(self.curves[axis]), best, targets, strict=True):
            i = int((y <= target).argmax())  # the first checkpoint there
            pair = [i, max(i - 1, 0)]
            found.append(np.interp(target, y[pair], x[pair]) if y[-1] <= target else math.nan)
        return np.exp(found)


def columns(lines: Sequence[dict], *, is_tuned: bool) -> list[Column]:
    """Return the runs of each schedule at the preset's learning rate, or at its own, if another."""
    found = []
    for name in dict.fromkeys(line["schedule"] for line in lines):
        runs = [line for line in lines if line["schedule"] == name]
        others = [one for one in runs if one["learning_rate"] != PRESET_RATE]
        runs = others if is_tuned and others else [one for one in runs if one not in others]
        runs.sort(key=lambda one: one["seed"])
        stacked = {
            key: np.array([one[key] for one in runs]) for key in ("images", "seconds", *METRICS)
        }
        found.append(Column(name, runs[0]["learning_rate"], stacked))
    return found


def with_ends(values: Float[np.ndarray, " s"]) -> Float[np.ndarray, "3"]:
    """Return the mean and the ends of its 95 % interval by Student's t."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() + half * np.array([0, -1, 1])


def ratio(values: Float[np.ndarray, " s"], base: Float[np.ndarray, " s"]) -> str:
    """Format the mean ratio, geometric, with its interval."""
    if num_missed := int(np.isnan(values).sum()):
        return f"not reached by {num_missed} of {len(values)}"
    mean, low, high = np.exp(with_ends(np.log(values / base)))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown."""
    print(Table(heads, rows).markdown(), end="\n\n")


def ends(found: Sequence[Column], base: Column) -> None:
    """Print the values at the end, and their differences from those of a base."""
    rows = []
    for one in found:
        cells = [one.name, f"{one.learning_rate:g}"]
        for metric in METRICS:
            last = one.curves[metric][:, -1]
            mean, *bounds = with_ends(last - base.curves[metric][:, -1])
            difference = f"{signed(mean, 4)} ({interval(*bounds, 4)})"
            cells += [f"{last.mean():.4f}", "" if one is base else difference]
        rows.append(cells)
    heads = [head for metric in METRICS.values() for head in (metric, f"minus {base.name}")]
    table(["schedule", "learning rate", *heads], rows)


def needs(found: Sequence[Column], base: Column, axis: str) -> None:
    """Print images or seconds to each target, over those of the base."""
    rows = []
    for one in (column for column in found if column is not base):
        cells = [one.name]
        for metric, share in TARGETS:
            at = round(share * base.curves[metric].shape[1]) - 1
            targets = base.curves[metric][:, at]
            cells.append(ratio(one.needed(axis, metric, targets), base.curves[axis][:, at]))
        rows.append(cells)
    table([axis, *(f"{METRICS[metric]} at {share:.0%}" for metric, share in TARGETS)], rows)


def overheads(found: Sequence[Column], base: Column) -> list[list[str]]:
    """Return the time of a training step, per image, and its ratio to that of the base."""
    rows = []
    for one in found:
        own, others = ((c.curves["seconds"] / c.curves["images"])[:, -1] for c in (one, base))
        rows.append([one.name, f"{1e3 * own.mean():.3f}", ratio(own, others)])
    return rows


def pilot(lines: Sequence[dict]) -> None:
    """Print bits/dim at the end by learning rate, means over the pilot's seeds."""
    ends: dict[str, dict[float, list[float]]] = {}
    for line in lines:
        found = ends.setdefault(line["schedule"], {}).setdefault(line["learning_rate"], [])
        found.append(line["bits_per_dim"][-1])
    rates = sorted({rate for one in ends.values() for rate in one})
    rows = [[name, *(f"{np.mean(one[r]):.3f}" for r in rates)] for name, one in ends.items()]
    table(["pilot, bits/dim at learning rate", *map(str, rates)], rows)


def main() -> None:
    """Print and draw."""
    scores = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "scores.jsonl"
    stored = [*map(json.loads, scores.open())]
    pilot([one for one in stored if one["num_checkpoints"] == 1])
    lines = [one for one in stored if one["num_checkpoints"] > 1]
    for is_tuned in (False, True):
        found = columns(lines, is_tuned=is_tuned)
        named = {column.name: column for column in found}
        base = named[BASE]
        rate = "each schedule's own" if is_tuned else "the preset's"
        print(f"Learning rate: {rate}. n = {len(base.curves['images'])} seeds.\n")
        ends(found, base)
        ends([named[name] for name in ("InfoNoise", "EDM") if name in named], named["adaptive"])
        for axis in ("images", "seconds"):
            needs(found, base, axis)
        table(["schedule", "ms of a core per image", f"over {BASE}"], overheads(found, base))
    draw(columns(lines, is_tuned=False), scores.parent / "curves.svg")


def draw(found: Sequence[Column], path: Path) -> None:
    """Draw the mean curves over seeds; those of fixed schedules are dashed."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "schedules"}
    figure, panels = plt.subplots(1, 2, figsize=(9.3, 3.6), layout="constrained")
    for panel, (metric, ticks) in zip(panels, TICKS.items(), strict=True):
        for one, color in zip(found, COLORS, strict=False):
            images, values = one.curves["images"][0], one.curves[metric].mean(0)
            style = "-" if one.name in ("adaptive", "InfoNoise") else "--"
            panel.loglog(images, values, style, color=color, label=one.name)
        panel.set(xlabel="images seen", ylabel=METRICS[metric])
        for axis, places in ((panel.xaxis, images[[0, 1, 3, -1]]), (panel.yaxis, ticks)):
            axis.set_ticks(places, labels=[f"{place:,g}" for place in places])
            axis.minorticks_off()
        panel.grid(color="0.92")
    panels[1].legend()
    figure.savefig(path, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
