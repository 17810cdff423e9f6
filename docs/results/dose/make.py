r"""Prints the tables of the dose of non-monotonicity, and draws dose.svg.

python docs/results/dose/make.py                                 from the files beside this one
python docs/results/dose/make.py --data digits --runs FOLDERS    stores their new runs first

Of a run that is stored already, as when a row is repeated, the difference is printed, last.

Differences are paired by seed. Intervals are 95 % by Student's t of these differences alone;
p-values are adjusted by Holm's method over the pairs and metrics of the data set.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from scipy import stats
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from weightings import rising

from elbos import weightings
from elbos.base.colors import COLORS
from elbos.base.numbers import interval, percent, plus_minus, signed
from elbos.base.tables import Table

HERE = Path(__file__).parent
BITS = "bits_per_dim"
METRIC_COLORS = dict(
    zip(("kernel_ancestral", "kernel_heun", BITS, "kernel_dpm"), COLORS, strict=False)
)
DOSE_COLORS = dict(zip((10, 30, 60), COLORS, strict=False))
CONTROL = "c60"  # monotone, with the centre of dose 60 made monotone
Seeds = Float[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One data set: its doses, its metrics and within which margins two are as good."""

    data: str
    title: str
    shares: tuple[float, ...]  # of the loss, where the weighting rises
    metrics: dict[str, str]
    margins: tuple[float, float] | None = None  # of a kernel distance, in bits/dim
    published: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @property
    def doses(self) -> dict[int, str]:
        return {0: "d0"} | {round(100 * dose): f"d{100 * dose:.0f}" for dose in self.shares}

    @property
    def weightings(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The weightings that rise, of which each is paired with itself made monotone."""
        doses = {
            f"d{100 * dose:.0f}": partial(rising, dose=dose, data=self.data.partition("-")[0])
            for dose in self.shares
        }
        return doses | self.published

    @property
    def pairs(self) -> dict[str, str]:
        monotone = (
            name.replace("d", "m", 1) if name in self.doses.values() else f"{name}-monotone"
            for name in self.weightings
        )
        return dict(zip(monotone, self.weightings, strict=True))

    @property
    def path(self) -> Path:
        return HERE / f"{self.data}.json"


STUDIES = {
    study.data: study
    for study in (
        Study(
            data="digits",
            title="digits",
            shares=(0.1, 0.3, 0.6),
            metrics={
                "kernel_ancestral": "KD, ancestral",
                "kernel_heun": "KD, Heun",
                BITS: "bits/dim",
            },
            margins=(0.001, 0.01),
            published={"iddpm": weightings.IDDPM(), "min-snr": weightings.MinSNR(gamma=5.0)},
        ),
        Study(
            data="fashion",
            title="Fashion-MNIST",
            shares=(0.1, 0.3, 0.6),
            metrics={"kernel_heun": "KD, Heun", "kernel_dpm": "KD, DPM-Solver++", BITS: "bits/dim"},
            margins=(0.003, 0.02),
        ),
        Study(
            data="fashion-28",
            title="Fashion-MNIST at 28x28",
            shares=(0.3,),
            metrics={"kernel_heun": "KD, Heun", "kernel_dpm": "KD, DPM-Solver++", BITS: "bits/dim"},
        ),
    )
}


class Scores:
    """The scores of all runs of a study."""

    def __init__(self, study: Study) -> None:
        stored = json.loads(study.path.read_text())
        self.study = study
        self.runs = {(run["objective"], run["seed"]): run for run in stored["runs"]}
        self.logsnr = {key: np.array(values) for key, values in stored["logsnr"].items()}
        self.objectives = {objective for objective, _ in self.runs}

    def seeds(self, *objectives: str) -> list[int]:
        """List the seeds that all of these objectives have."""
        return sorted(
            set.intersection(*({seed for name, seed in self.runs if name == o} for o in objectives))
        )

    def curves(self, objective: str, key: str) -> Float[np.ndarray, "n k"]:
        return np.array([self.runs[objective, seed][key] for seed in self.seeds(objective)])

    def difference(self, objective: str, minus: str, key: str) -> Seeds:
        seeds = self.seeds(objective, minus)
        return np.array(
            [np.subtract(self.runs[objective, s][key], self.runs[minus, s][key]) for s in seeds]
        )

    def shares(self, objective: str) -> tuple[float, float]:
        """Compute the share of the trained networks' weighted loss where the weighting rises, and
        of that which making it monotone adds.
        """
        logsnr, loss = self.logsnr["loss"], self.curves(objective, "loss").mean(0)
        cells = np.linspace(logsnr[0], logsnr[-1], 1_000_001)
        w = self.study.weightings[objective](torch.from_numpy(cells)).numpy()
        nats = PchipInterpolator(logsnr, loss)(cells)
        added = np.maximum.accumulate(w[::-1])[::-1] - w
        total = (w * nats).sum()
        return (w * nats)[: w.argmax() + 1].sum() / total, (added * nats).sum() / total


def collect(study: Study, folders: Sequence[Path]) -> list[str]:
    """Store the runs of comparisons that a study lacks; return the others' differences from it."""
    content, differences = json.loads(study.path.read_text()), []
    logsnr, stored = content["logsnr"], {(r["objective"], r["seed"]): r for r in content["runs"]}
    for folder in folders:
        if not [*folder.glob("runs/*/scores.json")]:
            raise SystemExit(f"{folder} holds no finished run of a comparison.")
    for path in (path for folder in folders for path in folder.glob("runs/*/scores.json")):
        scores = json.loads(path.read_text())["scores"]
        objective, _, seed = path.parent.name.rpartition("-")
        run = {"objective": objective, "seed": int(seed), "started": scores["started"]}
        run |= {key: scores["metrics"][key]["value"] for key in study.metrics}
        for key in logsnr:
            assert np.round(scores[key]["x"], 4).tolist() == logsnr[key]
            run[key] = np.round(scores[key]["y"], 6).tolist()
        before = stored.get((objective, int(seed)))
        if before is not None:
            changes = (f"{key} {run[key] - before[key]:+.1e}" for key in study.metrics)
            differences.append(f"{path.parent.name}, new minus stored: {', '.join(changes)}")
        else:
            stored[objective, int(seed)] = run | {"machine": scores["machine"]}
    lines = ",\n".join(
        json.dumps(run)
        for _, run in sorted(stored.items(), key=lambda item: "{}-{}".format(*item[0]))
    )
    study.path.write_text(f'{{"logsnr": {json.dumps(logsnr)},\n"runs": [\n{lines}\n]}}\n')
    return differences


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


def places(key: str) -> int:
    return 3 if key == BITS else 4


def values_table(scores: Scores) -> Table:
    study, rows = scores.study, []
    of_pairs = (name for pair in study.pairs.items() for name in reversed(pair))
    for name in filter(scores.objectives.__contains__, [study.doses[0], *of_pairs, CONTROL]):
        shares = map(percent, scores.shares(name)) if name in study.weightings else ("", "")
        cells = [scores.curves(name, key) for key in study.metrics]
        rows.append([name, *shares, *(plus_minus(v.mean(), v.std(ddof=1)) for v in cells)])
    heads = ["objective", "loss where w rises", "monotone adds", *study.metrics.values()]
    return Table(heads, rows)


def pairs_table(scores: Scores) -> Table:
    """Tabulate differences with p after Holm, and whether the monotone one is as good or worse."""
    study = scores.study
    cases = [(*pair, key) for pair in study.pairs.items() for key in study.metrics]
    differences = [scores.difference(*case) for case in cases]
    p = holm(np.array([stats.ttest_1samp(values, 0).pvalue for values in differences]))
    rows: dict[str, list[str]] = {}
    for (monotone, dose, key), values, adjusted in zip(cases, differences, p, strict=True):
        cell = with_interval(values, places(key))
        if study.margins is not None:
            mean, half = mean_and_half(values)
            is_as_good = abs(mean) + half < study.margins[key == BITS]
            verdict = ("better" if mean < 0 else "worse") if adjusted < 0.05 else ""
            words = ", ".join(filter(None, (verdict, "as good" if is_as_good else ""))) or "open"
            cell += f", {adjusted:.2g}: {words}"
        rows.setdefault(f"{monotone} minus {dose}", []).append(cell)
    test = "" if study.margins is None else ", p: monotone is"
    heads = ["pair", *(f"{title} (95 %){test}" for title in study.metrics.values())]
    return Table(heads, [[pair, *cells] for pair, cells in rows.items()])


def doses_table(scores: Scores) -> Table:
    """Tabulate what doses, and the control with the centre of m60, cost beside dose 0."""
    study = scores.study
    cases = [(f"{dose} %", name) for dose, name in study.doses.items() if dose]
    cases += [("60 %, made monotone", "m60"), ("none, the centre of that", CONTROL)]
    rows = [
        [
            title,
            *(
                with_interval(scores.difference(name, study.doses[0], key), places(key))
                for key in study.metrics
            ),
        ]
        for title, name in cases
    ]
    return Table(["dose", *(f"{name}, minus dose 0" for name in study.metrics.values())], rows)


def draw(scores: Scores, panels: list[Axes]) -> None:
    """Draw kernel distances and bits/dim by dose, and the loss at each noise level, of a study."""
    study = scores.study
    for key, title in study.metrics.items():
        i = int(key == BITS)
        series = {
            "as it rises": ("o-", study.doses),
            "made monotone": ("s--", {d + 0.7: f"m{d}" for d in study.doses if d}),
            "sigmoid, at the centre of m60": ("D", {1.5: CONTROL}),
        }
        for label, (style, objectives) in series.items():
            points = [mean_and_half(scores.difference(o, "d0", key)) for o in objectives.values()]
            mean, half = np.array(points).T
            panels[i].errorbar(
                [*objectives],
                mean,
                np.nan_to_num(half),
                fmt=style,
                color=METRIC_COLORS[key],
                label=label if key == BITS else f"{title}, {label}",
                capsize=2,
                markersize=4,
            )
    scale, logsnr = scores.curves("d0", "loss").mean(0), scores.logsnr["loss"]
    for dose, name in list(study.doses.items())[1:]:
        difference = scores.difference(name, "d0", "loss")
        mean, half = np.array([mean_and_half(column) for column in difference.T]).T
        panels[2].plot(logsnr, 100 * mean / scale, color=DOSE_COLORS[dose], label=f"{dose} %")
        low, high = 100 * (mean - half) / scale, 100 * (mean + half) / scale
        panels[2].fill_between(logsnr, low, high, color=DOSE_COLORS[dose], alpha=0.2)
    titles = ("kernel distance, minus dose 0", "bits/dim, minus dose 0", "loss, minus dose 0, %")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(f"{study.title}: {title}", fontsize=10)
        panel.axhline(0, color="gray", linewidth=0.6)
        panel.legend(fontsize=7, frameon=False, loc="upper center")
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("dose: % of the loss where the weighting rises")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high + 0.8 * (high - low))  # so that the legend covers no point
    panels[2].set(xlabel="log-SNR", ylim=(-20, 20))


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=STUDIES, default="digits", help="of the finished comparison"
    )
    parser.add_argument("--runs", type=Path, nargs="+", help="folders of comparisons to store")
    args = parser.parse_args()
    differences = collect(STUDIES[args.data], args.runs or [])
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dose"}
    studies = [Scores(study) for study in STUDIES.values()]
    with_dose_0 = [scores for scores in studies if "d0" in scores.objectives]
    figure, rows = plt.subplots(
        len(with_dose_0), 3, figsize=(11, 3.3 * len(with_dose_0)), layout="constrained"
    )
    for scores in studies:
        print(f"{scores.study.data}, seeds {sorted({seed for _, seed in scores.runs})}\n")
        tables = [values_table(scores), pairs_table(scores)]
        tables += [doses_table(scores)] if scores in with_dose_0 else []
        for table in tables:
            print(table.markdown(), end="\n\n")
    for scores, panels in zip(with_dose_0, rows, strict=True):
        draw(scores, panels)
    figure.savefig(HERE / "dose.svg", metadata={"Date": None})
    print(*differences, sep="\n")


if __name__ == "__main__":
    main()
