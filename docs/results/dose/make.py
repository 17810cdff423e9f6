r"""Prints the tables of the dose of non-monotonicity, and draws dose.svg.

python docs/results/dose/make.py                  from scores.json beside this file
python docs/results/dose/make.py --runs FOLDER    writes that first, from finished runs

Differences are paired by seed. Intervals are 95 % by Student's t of these differences alone;
p-values are adjusted by Holm's method over the five pairs and three metrics.
"""

import argparse
import json
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from scipy.interpolate import PchipInterpolator
from weightings import SOLVED, rising

from elbos import weightings
from elbos.base.colors import COLORS
from elbos.base.numbers import interval, percent, plus_minus, signed
from elbos.base.tables import Table

HERE = Path(__file__).parent
METRICS = {
    "kernel_ancestral": "KD, ancestral",
    "kernel_heun": "KD, Heun",
    "bits_per_dim": "bits/dim",
}
MARGINS = {"kernel_ancestral": 0.001, "kernel_heun": 0.001, "bits_per_dim": 0.01}
PAIRS = {
    **{f"m{100 * dose:.0f}": f"d{100 * dose:.0f}" for dose in SOLVED["digits"]},
    "iddpm-monotone": "iddpm",
    "min-snr-monotone": "min-snr",
}
DOSES = {0: "d0", **{round(100 * dose): f"d{100 * dose:.0f}" for dose in SOLVED["digits"]}}
WEIGHTINGS = {
    **{f"d{100 * dose:.0f}": lambda logsnr, dose=dose: rising(logsnr, dose) for dose in SOLVED["digits"]},
    "iddpm": weightings.IDDPM(),
    "min-snr": weightings.MinSNR(gamma=5.0),
}
Seeds = Float[np.ndarray, " n"]


class Scores:
    """The scores of all runs of the seeds that every objective has."""

    def __init__(self, stored: dict) -> None:
        self.runs = {(run["objective"], run["seed"]): run for run in stored["runs"]}
        names = {name for name, _ in self.runs}
        seeds = {seed for _, seed in self.runs}
        self.seeds = sorted(s for s in seeds if all((name, s) in self.runs for name in names))

    def curves(self, objective: str, key: str) -> Float[np.ndarray, "n k"]:
        return np.array([self.runs[objective, seed][key] for seed in self.seeds])

    def difference(self, objective: str, minus: str, key: str) -> Seeds:
        return self.curves(objective, key) - self.curves(minus, key)

    @cached_property
    def logsnr(self) -> dict[str, Float[np.ndarray, " k"]]:
        run = next(iter(self.runs.values()))
        return {key: np.array(run[f"{key}_logsnr"]) for key in ("elbo", "loss")}

    def shares(self, objective: str) -> tuple[float, float]:
        """Compute the share of the trained networks' weighted loss where the weighting rises, and
        of that which making it monotone adds.
        """
        logsnr, loss = self.logsnr["loss"], self.curves(objective, "loss").mean(0)
        cells = np.linspace(logsnr[0], logsnr[-1], 10_001)
        w = WEIGHTINGS[objective](torch.from_numpy(cells)).numpy()
        nats = PchipInterpolator(logsnr, loss)(cells)
        added = np.maximum.accumulate(w[::-1])[::-1] - w
        total = (w * nats).sum()
        return (w * nats)[: w.argmax() + 1].sum() / total, (added * nats).sum() / total


def collect(folder: Path) -> None:
    """Write scores.json from the folder of a comparison."""
    runs = []
    for path in sorted(folder.glob("runs/*/scores.json")):
        scores = json.loads(path.read_text())["scores"]
        objective, _, seed = path.parent.name.rpartition("-")
        run = {"objective": objective, "seed": int(seed), "started": scores["started"]}
        run |= {key: scores["metrics"][key]["value"] for key in METRICS}
        for key in ("elbo", "loss"):
            x, y = scores[key]["x"], scores[key]["y"]
            run |= {f"{key}_logsnr": np.round(x, 4).tolist(), key: np.round(y, 6).tolist()}
        runs.append(run | {"machine": scores["machine"]})
    lines = ",\n".join(json.dumps(run) for run in runs)
    (HERE / "scores.json").write_text(f'{{"runs": [\n{lines}\n]}}\n')


def mean_and_half(values: Seeds) -> tuple[float, float]:
    """Return the mean over seeds and half of the width of its 95 % interval."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), stats.t.ppf(0.975, len(values) - 1) * error


def with_interval(values: Seeds, places: int) -> str:
    mean, half = mean_and_half(values)
    return f"{signed(mean, places)} ({interval(mean - half, mean + half, places)})"


def holm(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    order = p.argsort()
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted[order.argsort()]


def values_table(scores: Scores) -> Table:
    rows = []
    for name in [DOSES[0], *(name for pair in PAIRS.items() for name in reversed(pair))]:
        shares = map(percent, scores.shares(name)) if name in WEIGHTINGS else ("", "")
        cells = [scores.curves(name, key) for key in METRICS]
        rows.append([name, *shares, *(plus_minus(v.mean(), v.std(ddof=1)) for v in cells)])
    heads = ["objective", "loss where w rises", "monotone adds", *METRICS.values()]
    return Table(heads, rows)


def pairs_table(scores: Scores) -> Table:
    cases = [(monotone, dose, key) for monotone, dose in PAIRS.items() for key in METRICS]
    differences = [scores.difference(*case) for case in cases]
    p = holm(np.array([stats.ttest_1samp(values, 0).pvalue for values in differences]))
    rows = []
    for (monotone, dose, key), values, adjusted in zip(cases, differences, p, strict=True):
        mean, half = mean_and_half(values)
        is_as_good = abs(mean) + half < MARGINS[key]
        verdict = ("better" if mean < 0 else "worse") if adjusted < 0.05 else ""
        words = ", ".join(filter(None, (verdict, "as good" if is_as_good else ""))) or "open"
        places = 3 if key == "bits_per_dim" else 4
        pair, cell = f"{monotone} minus {dose}", with_interval(values, places)
        rows.append([pair, METRICS[key], cell, f"{adjusted:.2g}", words])
    for key, title in METRICS.items():
        mean_of_pairs = np.mean([scores.difference(*pair, key) for pair in PAIRS.items()], axis=0)
        cell = with_interval(mean_of_pairs, 3 if key == "bits_per_dim" else 4)
        rows.append(["mean of the five, not planned", title, cell, "", ""])
    return Table(["pair", "score", "difference (95 %)", "p, Holm", "monotone is"], rows)


def doses_table(scores: Scores) -> Table:
    rows = [
        [
            f"{dose} %",
            *(
                with_interval(scores.difference(name, DOSES[0], key), 3 + key.startswith("kernel"))
                for key in METRICS
            ),
        ]
        for dose, name in DOSES.items()
        if dose
    ]
    return Table(["dose", *(f"{name}, minus dose 0" for name in METRICS.values())], rows)


def draw(scores: Scores) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    doses = np.array([*DOSES])
    series = {
        "kernel_ancestral": (0, COLORS[0]),
        "kernel_heun": (0, COLORS[1]),
        "bits_per_dim": (1, COLORS[2]),
    }
    for key, (i, color) in series.items():
        names = {"as it rises": DOSES, "made monotone": {d: f"m{d}" for d in doses if d}}
        for (label, objectives), style in zip(names.items(), ("o-", "s--"), strict=True):
            points = [mean_and_half(scores.difference(o, "d0", key)) for o in objectives.values()]
            mean, half = np.array(points).T
            title = f"{METRICS[key]}, {label}" if i == 0 else label
            x = np.array([*objectives]) + (0.7 if style == "s--" else 0)
            panels[i].errorbar(
                x,
                mean,
                np.nan_to_num(half),
                fmt=style,
                color=color,
                label=title,
                capsize=2,
                markersize=4,
            )
    for i, dose in enumerate(doses[1:]):
        difference = scores.difference(DOSES[dose], "d0", "loss")
        mean, half = np.array([mean_and_half(column) for column in difference.T]).T
        scale = scores.curves("d0", "loss").mean(0)
        panels[2].plot(
            scores.logsnr["loss"], 100 * mean / scale, color=COLORS[i], label=f"{dose} %"
        )
        low, high = 100 * (mean - half) / scale, 100 * (mean + half) / scale
        panels[2].fill_between(scores.logsnr["loss"], low, high, color=COLORS[i], alpha=0.2)
    titles = (
        "kernel distance, minus dose 0",
        "bits/dim, minus dose 0",
        "loss by noise level, minus dose 0, %",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=10)
        panel.axhline(0, color="gray", linewidth=0.6)
        panel.legend(fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("dose: % of the loss where the weighting rises")
    panels[2].set(xlabel="log-SNR", ylim=(-20, 20))
    figure.savefig(HERE / "dose.svg", metadata={"Date": None})


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of the finished comparison")
    folder = parser.parse_args().runs
    if folder:
        collect(folder)
    scores = Scores(json.loads((HERE / "scores.json").read_text()))
    print(f"{len(scores.seeds)} seeds: {', '.join(map(str, scores.seeds))}\n")
    for table in (values_table(scores), pairs_table(scores), doses_table(scores)):
        print(table.markdown(), end="\n\n")
    draw(scores)


if __name__ == "__main__":
    main()
