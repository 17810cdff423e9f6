r"""Prints the tables and draws the pictures of a comparison of objectives, from stored scores.

python docs/results/objectives.py digits                  from report.json, scores.json and samples/
python docs/results/objectives.py digits --runs FOLDER    writes these first, from finished runs

Instead of `digits`, `fashion`. All files are in the folder of that name, beside this one.

report.json is the comparison's own result. scores.json adds what it holds only as means over seeds,
for each run the ELBO of noisy test images at each log-SNR, beside the loss under each weighting.

**As good.** A monotone weighting is as good as the other of its pair if the report's interval of
their difference, at 95 % for all verdicts together, lies within the protocol's margins. Beside it
is the interval of the paired t-test: of the differences of this pair alone, seed by seed, with the
same correction for all pairs and metrics. It was not planned.

**Ranking.** With $r$ the centred ranks of a quantity, such as the ELBO at a noise level, and $s$
those of the kernel distance, the correlation is Spearman's, averaged over groups $g$:

$$\rho = \operatorname*{mean}_g \frac{r_g \cdot s_g}{\lVert r_g \rVert \lVert s_g \rVert}.$$

*Between* objectives there is one group, the distinct monotone weightings, each a mean over seeds
and over the objectives that have it. *Within* objectives each objective is a group, of its seeds;
what a seed does to all objectives, the median of their deviations, is subtracted first, as scores
with the same seed share the noise of the scoring. One-sided p-values are from permutations of $s$,
within objectives of all groups alike, so that what objectives have in common stays common.
"""

import argparse
import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from elbos import Run
from elbos.base.colors import COLORS
from elbos.base.numbers import decimals, fixed, interval, plus_minus, signed
from elbos.base.tables import Column, Table
from elbos.comparison.result import Comparison, loss_key
from elbos.comparison.tables import component_label
from elbos.theory.weightings import Weighting
from elbos.training.data import to_unit
from elbos.training.pictures import png

SAMPLERS = "ancestral", "heun"
LOSS = loss_key("")
ANCESTRAL, HEUN, BITS = "kernel_ancestral", "kernel_heun", "bits_per_dim"
PICKING, TESTING = slice(3), slice(3, None)  # seeds that pick a noise level, and that test it
NUM_PERMUTATIONS, NUM_DRAWS = 10_000, 2_000
BLUE, ORANGE, GREEN, *_, GREY = COLORS
Draws = Int[np.ndarray, "d m"]
Correlations = Float[np.ndarray, "d k"]  # the observed ones, then those of permutations


@dataclass(frozen=True)
class Study:
    """A comparison in a folder beside this file, and what its protocol fixes.

    Attributes:
        name: Name of the folder.
        margins: Largest difference that is as good, by metric.
        max_bits: Largest bits/dim in the picture; objectives beyond are marked at its edge.
        level: Log-SNR of the ELBO that was chosen before the runs; None if the first seeds pick it.
        curve: k of sigmoid(k - λ) by objective, in the order of the curve.
    """

    name: str
    margins: dict[str, float]
    max_bits: float
    level: float | None = None
    curve: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(__file__).parent / self.name

    @cached_property
    def comparison(self) -> Comparison:
        return Comparison.from_dict(json.loads((self.folder / "report.json").read_text()))

    @cached_property
    def stored(self) -> dict:
        return json.loads((self.folder / "scores.json").read_text())

    def values(self, key: str) -> Float[np.ndarray, "r n"]:
        """A metric by objective and seed."""
        every = self.comparison.objectives
        return np.array([list(self.comparison.values[o.name][key].values()) for o in every])

    @cached_property
    def weightings(self) -> list[str]:
        """The distinct monotone weightings."""
        monotone = (o.weighting for o in self.comparison.objectives if o.is_monotone)
        return list(dict.fromkeys(monotone))

    def quantities(self) -> Float[np.ndarray, "r n k"]:
        """What may rank models: the ELBO at each noise level, losses by weighting, and bits/dim."""
        runs, seeds = self.stored["runs"], self.comparison.seeds
        x = [[runs[f"{one.name}-{s}"] for s in seeds] for one in self.comparison.objectives]
        return np.concatenate([np.array(x), self.values(BITS)[..., None]], axis=2)

    def save(self, figure: plt.Figure, name: str) -> None:
        figure.savefig(self.folder / name, metadata={"Date": None})


DIGITS = Study(
    "digits",
    margins={ANCESTRAL: 0.004, HEUN: 0.004, BITS: 0.04},
    max_bits=2.7,
    curve={
        "k-2": "−2",
        "k0": "0",
        "k1": "1",
        "v-adaptive-sigmoid-2": "2",
        "k3": "3",
        "k4": "4",
        "k6": "6",
        "elbo": "∞",  # the limit is the ELBO
    },
)
FASHION = Study(
    "fashion",
    margins={ANCESTRAL: 0.008, HEUN: 0.008, BITS: 0.05},
    max_bits=5.1,
    level=3.8,  # the one that digits' seeds picked
)
STUDIES = {study.name: study for study in (DIGITS, FASHION)}


def collect(study: Study, runs: Path) -> None:
    """Write report.json, scores.json and samples/ from the folder of a finished comparison."""
    report = json.loads((runs / "report.json").read_text())
    (study.folder / "report.json").write_text(json.dumps(report) + "\n")
    found = {}
    for row, seed in itertools.product(report["objectives"], report["seeds"]):
        run = runs / "runs" / f"{row['name']}-{seed}"
        scores = json.loads((run / "scores.json").read_text())["scores"]
        losses = {key: v["value"] for key, v in scores["metrics"].items() if key.startswith(LOSS)}
        numbers = *scores["elbo"]["y"], *losses.values()
        found[run.name] = [float(f"{number:.6g}") for number in numbers]
        for sampler in SAMPLERS if seed == report["seeds"][0] else ():
            picture = study.folder / "samples" / sampler / f"{row['name']}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run / "samples" / f"{sampler}.png", picture)
    weightings = [key.removeprefix(LOSS) for key in losses]
    shared = {"logsnr": scores["elbo"]["x"], "weightings": weightings}
    content = json.dumps({**shared, "runs": found})
    (study.folder / "scores.json").write_text(content + "\n")
    data = Run(run).config.data.load()
    rows = torch.stack([(data.test.labels == label).nonzero()[:4, 0] for label in range(10)], 1)
    for sampler, part in zip(SAMPLERS, rows.split(2), strict=True):
        real = to_unit(data.test.x[part.flatten()], data.num_levels)
        (study.folder / "samples" / f"real-{sampler}.png").write_bytes(png(real, num_columns=10))


# --- as good, better or worse ---------------------------------------------------------------------


def equivalence(study: Study) -> Table:
    """The planned pairs in the main metrics, by the report's interval and by their own seeds."""
    comparison, rows, num = study.comparison, [], len(study.comparison.seeds)
    pairs = list(itertools.product(comparison.pairs, comparison.main_metrics))
    for pair, metric in pairs:
        names, key = (pair.monotone, pair.non_monotone), metric.key
        yes, no = (np.array([*comparison.values[name][key].values()]) for name in names)
        error = np.std(yes - no, ddof=1) / num**0.5
        alone = error * stats.t.isf(0.025 / (2 * len(pairs)), num - 1)
        found, places = comparison.difference(*pair, metric), 3 if key == BITS else 4
        row = [" minus ".join(names), metric.short, signed(found.mean, places)]
        for width in (found.detectable, alone):
            low, high = found.mean - width, found.mean + width
            row += [interval(low, high, places), verdict(low, high, study.margins[key])]
        rows.append(row)
    heads = ["score", "difference", "interval", "monotone is", "own seeds alone", "is"]
    return Table(["pair", *(Column(head, is_numeric=False) for head in heads)], rows)


def rising(study: Study) -> Table:
    """Where the weightings rise that planned pairs replace, and how much of the loss is there.

    The loss is that of test images under the objective's own weighting, after training.
    """
    found, rows = {one.name: one for one in study.comparison.objectives}, []
    for name in dict.fromkeys(pair.non_monotone for pair in study.comparison.pairs):
        one = found[name]
        logsnr, nats = (np.array(x) for x in (one.loss.x, one.loss.y))
        loss = nats * np.interp(logsnr, one.w.x, np.array(one.w.y))
        rises = np.any([(low <= logsnr) & (logsnr < high) for low, high in one.rising], axis=0)
        ends = ", ".join(interval(round(low, 1), round(high, 1), 1) for low, high in one.rising)
        share = f"{100 * loss[rises].sum() / loss.sum():.0f} %"
        rows.append(
            [name, one.parameterization, component_label(Weighting, one.weighting), ends, share]
        )
    texts = ("predicts", "weighting", "rises at log-SNR")
    heads = [Column(text, is_numeric=False) for text in texts]
    return Table(["objective", *heads, "loss there"], rows)


def together(study: Study) -> Table:
    """Mean over the pairs whose weighting was made monotone; not planned, and not corrected."""
    comparison, rows = study.comparison, []
    named = {one.name: one for one in comparison.objectives}
    pairs = [(named[pair.monotone], named[pair.non_monotone]) for pair in comparison.pairs]
    made = [(yes, no) for yes, no in pairs if yes.weighting.startswith("Monotone(")]
    for metric in comparison.main_metrics:
        scores = comparison.values
        values = [[[*scores[o.name][metric.key].values()] for o in pair] for pair in made]
        yes, no = np.moveaxis(np.array(values), 1, 0)
        mean, places = (yes - no).mean(0), 3 if metric.key == BITS else 4
        tested = stats.ttest_1samp(mean, 0)
        ends = interval(*tested.confidence_interval(0.95), places)
        num_worse = f"{(yes > no).sum()} of {yes.size}"
        found = signed(mean.mean(), places), ends, f"{tested.pvalue:.2g}"
        rows.append([metric.short, *found, num_worse])
    return Table(["made monotone, mean over pairs", "difference", "95 %", "p", "worse"], rows)


def verdict(low: float, high: float, margin: float) -> str:
    """What an interval says of a monotone weighting in a score of which less is better."""
    words = {"better": high < 0, "worse": low > 0, "as good": max(-low, high) <= margin}
    return ", ".join(word for word, is_said in words.items() if is_said) or "open"


# --- which ELBO ranks models ----------------------------------------------------------------------


def correlations(x: Float[np.ndarray, "g m k"], y: Float[np.ndarray, "g m"]) -> Correlations:
    """Spearman's correlations of quantities with a score, mean over groups."""
    x, y = (stats.rankdata(one, axis=1) - (one.shape[1] + 1) / 2 for one in (x, y))
    lengths = (np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y))
    x, y = (one / np.maximum(length, 1e-9) for one, length in zip((x, y), lengths, strict=True))
    orders = np.tile(np.arange(y.shape[1]), (NUM_PERMUTATIONS, 1))
    orders[1:] = np.random.default_rng(0).permuted(orders[1:], axis=1)
    return np.einsum("gmk,gdm->dk", x, y[:, orders]) / len(x)


def between(study: Study, seeds: slice) -> Correlations:
    """Correlations over distinct monotone weightings."""
    scores = study.quantities(), study.values(HEUN)
    return correlations(*(weighting_means(study, one[:, seeds])[None] for one in scores))


def weighting_means(study: Study, x: Float[np.ndarray, "r n *k"]) -> Float[np.ndarray, "m *k"]:
    """Means over seeds and over the objectives of each distinct monotone weighting."""
    trained = np.array([one.weighting for one in study.comparison.objectives])
    return np.array([x[trained == weighting].mean((0, 1)) for weighting in study.weightings])


def intervals(study: Study) -> Table:
    """Bootstrap intervals of the correlations over distinct monotone weightings.

    A draw resamples weightings with replacement and, independently, seeds, which are the same for
    all objectives and scores. Draws without a rank correlation are excluded. The interval is from
    the 2.5th to the 97.5th percentile, extended to include the estimate: resampled seeds add noise
    to the means, so that draws lie closer to zero than a high estimate.
    """
    trained = np.array([one.weighting for one in study.comparison.objectives])
    groups = [trained == weighting for weighting in study.weightings]
    quantities = study.quantities()
    x = np.moveaxis(np.array([quantities[group].mean(0) for group in groups]), 2, 0)
    num, num_seeds = x.shape[1:]
    rng = np.random.default_rng(0)
    drawn = rng.integers(num, size=(NUM_DRAWS, num))
    seeds = rng.integers(num_seeds, size=(NUM_DRAWS, num_seeds))
    titles = [f"ELBO at log-SNR {level:.1f}" for level in study.stored["logsnr"]]
    titles += [f"loss under {component_label(Weighting, w)}" for w in study.stored["weightings"]]
    rows = [[title] for title in (*titles, "bits/dim")]
    for metric in study.comparison.main_metrics:
        scores = study.values(metric.key)
        y = np.array([scores[group].mean(0) for group in groups])[None]
        rho = spearman(x, y, np.arange(num)[None], np.arange(num_seeds)[None])[:, 0]
        for row, estimate, draws in zip(rows, rho, spearman(x, y, drawn, seeds), strict=True):
            low, high = np.nan, np.nan
            if not np.isnan(draws).all():
                low, high = np.nanquantile(draws, [0.025, 0.975])
            ends = interval(min(low, estimate), max(high, estimate), 2)
            row.append(f"{signed(estimate, 2)} ({ends})")
    return Table(["ρ, 95 %", *(metric.title for metric in study.comparison.main_metrics)], rows)


def spearman(
    x: Float[np.ndarray, "k r n"], y: Float[np.ndarray, "1 r n"], drawn: Draws, seeds: Draws
) -> Float[np.ndarray, "k d"]:
    """Rank correlations of means over seeds, for each draw of weightings and seeds."""
    x, y = (ranks(values, drawn, seeds) for values in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(2) / np.sqrt(np.square(x).sum(2) * np.square(y).sum(2))


def ranks(values: Float[np.ndarray, "k r n"], drawn: Draws, seeds: Draws) -> np.ndarray:
    """Centred ranks of the drawn weightings, by the sum over the drawn seeds."""
    # Seeds are added one by one: a weighting that is drawn twice has exactly the same sum twice.
    sums = np.zeros((len(values), *drawn.shape))
    for seed in seeds.T:
        sums += values[:, drawn, seed[:, None]]
    return stats.rankdata(sums, axis=2) - (drawn.shape[1] + 1) / 2


def within(study: Study) -> Correlations:
    """Correlations over the seeds of an objective, mean over all objectives."""
    scores = study.quantities(), study.values(HEUN)
    deviations = (one - one.mean(1, keepdims=True) for one in scores)
    return correlations(*(one - np.median(one, 0) for one in deviations))


def p_value(found: Correlations) -> float:
    """The share of permutations whose highest correlation is at least the observed one."""
    highest = found.max(1)
    return float((highest >= highest[0] - 1e-9).mean())


def picked(study: Study, found: Mapping[str, Correlations]) -> int:
    """The noise level that the protocol names, or the one that the first seeds pick."""
    logsnr = np.array(study.stored["logsnr"])
    if study.level is not None:
        return int(abs(logsnr - study.level).argmin())
    return int(next(iter(found.values()))[0, : len(logsnr)].argmax())


def ranking(study: Study, found: Mapping[str, Correlations]) -> Table:
    """Correlations of the picked levels, of the highest, of bits/dim and of weighted losses."""
    stored, i = study.stored, picked(study, found)
    num = len(stored["logsnr"])
    parts = {f"ELBO at log-SNR {stored['logsnr'][i]:.1f}": slice(i, i + 1)}
    parts |= {f"highest of {num} noise levels": slice(num), "bits/dim": slice(-1, None)}
    for i, name in enumerate(stored["weightings"], num):
        parts[f"loss under {component_label(Weighting, name)}"] = slice(i, i + 1)
    rows = []
    for title, part in parts.items():
        row = [title]
        for one in found.values():
            highest = one[0, part].argmax()
            at = f" (at {fixed(stored['logsnr'][highest], 1)})" if part == slice(num) else ""
            row += [signed(one[0, part][highest], 2) + at, f"{p_value(one[:, part]):.2g}"]
        rows.append(row)
    return Table(["ρ", *itertools.chain(*((title, "p") for title in found))], rows)


def draw_ranking(study: Study, found: Mapping[str, Correlations]) -> None:
    """Correlation by noise level, between and within objectives, with bands of permutations."""
    logsnr, i = np.array(study.stored["logsnr"]), picked(study, found)
    *parts, every, within = ((title, one[:, : len(logsnr)]) for title, one in found.items())
    figure, panels = plt.subplots(1, 2, figsize=(9.3, 3.6), sharey=True, layout="constrained")
    for panel, one, title in zip(panels, (every[1], within[1]), ("between", "within"), strict=True):
        band, highest = np.quantile(one, [0.025, 0.975], axis=0), np.quantile(one.max(1), 0.95)
        panel.fill_between(logsnr, *band, color=GREY, alpha=0.25, lw=0, label="95 % by chance")
        panel.axhline(highest, color=GREY, ls="--", lw=1, label="95 % of the highest by chance")
        panel.plot(logsnr, one[0], color=BLUE, lw=2, label="all seeds")
        panel.plot(logsnr[i], one[0, i], "o", color=BLUE)
        panel.set(title=f"{title} objectives", xlabel="noisy ← log-SNR → clean", ylim=(-1.05, 1.05))
        panel.grid(color="0.92")
    for (title, one), color in zip(parts, (ORANGE, GREEN), strict=False):
        panels[0].plot(logsnr, one[0], "-o", color=color, lw=1, markevery=[i], label=title)
    panels[0].set(ylabel="rank correlation of ELBO\nand kernel distance (Heun)")
    panels[0].legend(fontsize=8, loc="upper left")
    study.save(figure, "ranking.svg")


# --- likelihood against sample quality ------------------------------------------------------------


def front(study: Study) -> Table:
    """Scores over k, or of all objectives, and their differences from the best of all."""
    found = study.comparison.scores
    names = study.curve or dict(zip(found, found, strict=True))
    rows, heads = [[name] for name in names.values()], ["k" if study.curve else "objective"]
    for metric in study.comparison.main_metrics:
        heads += [metric.short, "above the best of all"]
        best = next(s[metric.key].mean for s in found.values() if s[metric.key].is_best)
        for name, row in zip(names, rows, strict=True):
            score = found[name][metric.key]
            above, error, places = score.mean - best, score.detectable, decimals(score.detectable)
            row.append(plus_minus(score.mean, score.std))
            ends = "" if score.is_best else interval(above - error, above + error, places)
            row.append(f"{signed(above, places)} ({ends})" if ends else "★")
    return Table(heads, rows)


def draw_front(study: Study) -> None:
    """Bits/dim against kernel distances: a curve over k, and the other objectives."""
    figure, panels = plt.subplots(1, 2, figsize=(9.3, 4.2), layout="constrained")
    comparison = study.comparison
    found = comparison.scores
    for panel, metric in zip(panels, comparison.main_metrics[:2], strict=True):
        for one in comparison.objectives:
            bits, distance = found[one.name][BITS], found[one.name][metric.key]
            x, y = min(bits.mean, study.max_bits), distance.mean
            is_far = bits.mean > study.max_bits
            color, label, side, offset = ORANGE, one.name.replace("-adaptive", ""), "left", (4, 4)
            if k := study.curve.get(one.name):
                color, label, side = BLUE, f"k = {k}", "right"
                offset = {"1": (4, 6), "2": (15, -13), "3": (6, -13)}.get(k, (-6, 2))
            elif is_far:
                label, side, offset = f"{label}, {bits.mean:.2f} bits/dim", "right", (-8, -13)
            face, error = color if one.is_monotone else "white", 0 if is_far else bits.std
            panel.errorbar(x, y, distance.std, error, ">" if is_far else "o", color=color, mfc=face)
            if not one.name.endswith("-monotonic"):  # which lies beside its non-monotone twin
                panel.annotate(label, (x, y), offset, "data", "offset points", ha=side, fontsize=8)
        line = [[found[name][key].mean for name in study.curve] for key in (BITS, metric.key)]
        panel.plot(*line, color=BLUE, lw=1)
        panel.axhline(metric.baseline, color=GREY, ls="--", lw=1)
        panel.set(xlabel="bits/dim", ylabel=metric.title, xlim=(None, study.max_bits + 0.02))
        panel.grid(color="0.92")
    study.save(figure, "front.svg")


# --- samples --------------------------------------------------------------------------------------


def shown(comparison: Comparison) -> list[str]:
    """The best objective of each main metric and the worst by Heun, each with its pairs."""
    scores = comparison.scores
    names = [o for m in comparison.main_metrics for o in scores if scores[o][m.key].is_best]
    names.append(max(scores, key=lambda name: scores[name][HEUN].mean))
    pairs = [(pair.monotone, pair.non_monotone) for pair in comparison.pairs]
    groups = [[name, *itertools.chain(*(p for p in pairs if name in p))] for name in names]
    return list(dict.fromkeys(itertools.chain(*groups)))


def draw_samples(study: Study) -> None:
    """Real images, and samples of both samplers from the first seed: two of each class."""
    folder = study.folder / "samples"
    lines = {"test images": [folder / f"real-{sampler}.png" for sampler in SAMPLERS]}
    for name in shown(study.comparison):
        lines[name] = [folder / sampler / f"{name}.png" for sampler in SAMPLERS]
    left, top, width, height = 210, 30, 518, 118  # of names, of titles, and of a picture
    sheet = Image.new("RGB", (left + 2 * width, top + len(lines) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for j, title in enumerate(("ancestral sampler, 64 steps", "Heun's sampler, 18 steps")):
        draw.text((left + j * width, 6), title, "black", font)
    for i, (name, pictures) in enumerate(lines.items()):
        draw.text((6, top + (i + 0.4) * height), name, "black", font)
        for j, picture in enumerate(pictures):
            sheet.paste(Image.open(picture), (left + j * width, top + i * height))
    sheet.save(study.folder / "samples.png")


def main() -> None:
    """Print the tables, draw the pictures, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--runs", type=Path, help="the folder of a finished comparison")
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    if arguments.runs:
        collect(study, arguments.runs)
    comparison = study.comparison
    found = {}
    for part in (PICKING, TESTING) if study.level is None else ():
        seeds = ", ".join(map(str, comparison.seeds[part]))
        found[f"seeds {seeds}"] = between(study, part)
    found |= {"all seeds": between(study, slice(None)), "within objectives": within(study)}
    tables = equivalence(study), rising(study), together(study), ranking(study, found)
    tables = *tables, intervals(study), front(study)
    for table in tables:
        print(table.markdown(), end="\n\n")
    for metric in comparison.main_metrics:
        residual_std = comparison.statistics[metric.key].residual_std
        print(f"A score scatters over seeds by {residual_std:.2g} ({metric.title}).")
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": study.name}
    draw_ranking(study, found)
    draw_front(study)
    draw_samples(study)
    (study.folder / "report.md").write_text(comparison.to_markdown())
    samples = {one.stem: one.read_bytes() for one in (study.folder / "samples/heun").glob("*.png")}
    comparison.to_html(study.folder / "report.html", samples=samples)


if __name__ == "__main__":
    main()
