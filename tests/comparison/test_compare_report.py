"""The report of `elbos compare`: its numbers are those of the runs, and of scipy."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from comparing import Here
from comparisons import full
from scipy import stats

from elbos.comparison.compare import compare
from elbos.comparison.job import Job
from elbos.comparison.metrics import main_metrics
from elbos.comparison.report import report_of
from elbos.comparison.results import Cell
from elbos.comparison.rows import ROWS
from elbos.comparison.statistics import differences as of_differences
from elbos.schedules import Cosine


def test_a_report_holds_what_the_runs_were_scored_with(pictures, folder):
    """Means over seeds, the pair that differs in the weighting only, losses, samples."""
    report = compare(pictures, Path("c"), Here(), command="elbos compare")
    assert report == json.loads(Path("c/report.json").read_text())
    scores = {
        row.name: json.loads(Path(f"c/runs/{row.name}-0/scores.json").read_text())["scores"]
        for row in pictures.rows
    }
    for row in report["rows"]:
        found = scores[row["name"]]
        assert row["scores"]["bits_per_dim"]["mean"] == found["bits_per_dim"]
        frechet = row["scores"]["frechet_heun"]
        assert frechet["values"] == {"0": found["samples"]["heun"]["frechet_distance"]}
        assert frechet["std"] is frechet["detectable"] is None  # of one seed
        for score in row["scores"].values():
            assert not (score["is_best"] or score["is_best_within_error"])
        assert found["samples"]["heun"] != found["samples"]["ancestral"]
        assert len(row["density"]) >= 1
    (pair,) = report["pairs"]
    assert (pair["monotone"], pair["non_monotone"]) == ("edm-adaptive-monotonic", "edm-adaptive")
    bits = [scores[pair[kind]]["bits_per_dim"] for kind in ("monotone", "non_monotone")]
    assert pair["differences"]["bits_per_dim"]["mean"] == pytest.approx(bits[0] - bits[1])
    assert np.array(report["losses"]["relative"]).min(0).tolist() == [1.0, 1.0]
    assert report["ranking"] is None  # of one monotone row
    assert "One seed" in " ".join(report["conclusion"])
    assert report["protocol"]["clipped steps"] == [
        f"{name} {100 * found['clipped']:.0f} %" for name, found in scores.items()
    ]
    page = Path("c/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2


@pytest.fixture
def made_up(small, folder):
    """A report of scores that are made up: bits/dim `[rows, seeds]`, ELBOs `[rows, seeds, levels]`,
    losses `[rows, seeds, rows]`, of some rows.
    """
    compare(replace(small, rows=small.rows[:1]), Path("c"), Here())
    some = json.loads(Path("c/runs/iddpm-0/scores.json").read_text())["scores"]

    def report(rows, bits, elbos, losses):
        comparison = replace(small, rows=rows, seeds=tuple(range(bits.shape[1])))
        cells = []
        for i, row in enumerate(rows):
            for seed in comparison.seeds:
                job = Job.of(small, Path("c/runs/iddpm-0"), row, seed)
                cells.append(cell := Cell(row, seed, job))
                levels = {**some["elbo"], "nats_per_dim": elbos[i, seed].tolist()}
                names = [repr(each.weighting) for each in rows]
                vars(cell)["scores"] = {
                    **some,
                    "bits_per_dim": bits[i, seed],
                    "elbo": {**levels, "logsnr": list(range(elbos.shape[2]))},
                    "losses": dict(zip(names, losses[i, seed].tolist(), strict=True)),
                }
        return report_of(comparison, cells, name="c", command=None, features=None)

    return report


NINE = tuple(ROWS[f"eps-{kind}-sigmoid-{k}"] for kind in ("cosine",) for k in range(1, 6)) + tuple(
    ROWS[name] for name in ("elbo", "v-cosine", "edm-adaptive-monotonic", "edm-adaptive")
)


def test_a_report_holds_what_is_known_of_the_scores(made_up):
    """The differences that are significant, rank correlations and losses, of random scores."""
    rng = np.random.default_rng(0)
    bits = rng.normal(size=(9, 4)) + rng.normal(size=4)
    elbos, losses = rng.normal(size=(9, 4, 5)), rng.uniform(1, 2, size=(9, 4, 9))
    report = made_up(NINE, bits, elbos, losses)
    (pair,) = report["pairs"]
    found = pair["differences"]["bits_per_dim"]
    assert (pair["monotone"], pair["non_monotone"]) == ("edm-adaptive-monotonic", "edm-adaptive")
    known = of_differences(bits[None], [(7, 8)])[0]
    half_width = known.half_widths[7, 8]
    mean = bits[7].mean() - bits[8].mean()
    ends = mean - half_width, mean + half_width
    assert (found["low"], found["high"]) == pytest.approx(ends)
    assert found["detectable"] == pytest.approx(half_width)
    monotone, means = slice(0, 8), bits.mean(1)
    expected = [
        stats.spearmanr(elbos[monotone].mean(1)[:, k], means[monotone]).statistic for k in range(5)
    ]
    np.testing.assert_allclose(report["ranking"]["bits_per_dim"]["rho"], expected, rtol=1e-5)
    rho = [one["bits_per_dim"]["rho"] for one in report["ranking"]["weightings"]]
    expected = [
        stats.spearmanr(losses[monotone].mean(1)[:, k], means[monotone]).statistic for k in range(8)
    ]
    np.testing.assert_allclose(rho, expected, rtol=1e-5)
    relative = losses.mean(1) / losses.mean(1).min(0)
    np.testing.assert_allclose(report["losses"]["relative"], relative, rtol=1e-5)
    best = int(means.argmin())
    for i, row in enumerate(report["rows"]):
        score = row["scores"]["bits_per_dim"]
        assert score["mean"] == pytest.approx(means[i])
        assert score["std"] == pytest.approx(bits[i].std(ddof=1))
        assert score["is_best"] == (i == best)
        assert score["is_best_within_error"] == (
            means[i] - means[best] <= known.half_widths[best, i]
        )
        if i != best:
            assert score["detectable"] == pytest.approx(known.half_widths[best, i])
    assert report["statistics"]["bits_per_dim"]["residual_std"] == pytest.approx(known.residual_std)


def test_what_diverges_in_one_objective_is_unresolved_and_no_best(made_up):
    """As bits/dim did where a network predicts x: 2,706, of 2,040 to 3,850."""
    rng, ones = np.random.default_rng(0), np.ones((9, 3, 9))
    bits = 4 + np.linspace(0, 1, 9)[:, None] + 0.02 * rng.normal(size=(9, 3))
    before = made_up(NINE, bits, ones, ones)
    bits[5] = [3850.2, 2226.4, 2040.2]
    report = made_up(NINE, bits, ones, ones)
    marks = [row["scores"]["bits_per_dim"] for row in report["rows"]]
    assert [mark["is_unresolved"] for mark in marks] == [i == 5 for i in range(9)]
    assert not marks[5]["is_best"] and not marks[5]["is_best_within_error"]
    assert marks[5]["detectable"] > 1000
    for i in set(range(9)) - {0, 5}:  # what it does to others
        old = before["rows"][i]["scores"]["bits_per_dim"]["detectable"]
        assert marks[i]["detectable"] == pytest.approx(old, rel=0.5)
    assert report["statistics"]["bits_per_dim"]["erratic"] == [NINE[5].name]


def test_main_is_the_kernel_distance_of_fewer_samples_than_features():
    """Equal numbers are enough for the Fréchet distance; of points there is bits/dim alone."""
    quality = {"frechet_distance": 1.0, "kernel_distance": 2.0}
    scores = {"bits_per_dim": 3.0, "samples": {"ancestral": quality, "heun": quality}}
    for num_samples, kind in ((1279, "kernel"), (1280, "frechet")):
        found = main_metrics({**scores, "num_compared": num_samples, "num_features": 1280})
        keys = [metric.key for metric in found]
        assert keys == [f"{kind}_ancestral", f"{kind}_heun", "bits_per_dim"]
    points = {**scores, "samples": None, "num_compared": None, "num_features": None}
    assert [metric.key for metric in main_metrics(points)] == ["bits_per_dim"]


def test_rows_are_a_pair_whatever_the_ends_of_their_schedules(made_up):
    """Those of the comparison are used."""
    mine = replace(ROWS["eps-cosine-sigmoid-2"], name="mine", schedule=Cosine(logsnr_min=-7.0))
    ones = np.ones((2, 2, 2))
    report = made_up((ROWS["iddpm"], mine), np.ones((2, 2)), ones, ones)
    assert [(pair["monotone"], pair["non_monotone"]) for pair in report["pairs"]] == [
        ("mine", "iddpm")
    ]


def test_a_report_has_what_its_page_is_tested_with(made_up, pictures, folder):
    """The names in the numbers that are made up for the page are those of a real report."""
    rng = np.random.default_rng(0)
    ranked = made_up(NINE, *(rng.normal(size=(9, 2, *n)) for n in ((), (5,), (9,))))
    real = compare(pictures, Path("d"), Here())
    for name, value in full().items():
        source = ranked if name == "ranking" else real
        if name not in ("protocol", "statistics", "command"):
            others = {"frechet_ancestral", "frechet_heun", "seed", "reason", "is_final"}
            assert keys(value) <= keys(source[name]) | others, name


def keys(value):
    """All names in JSON values, but those of seeds."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    below = set().union(*map(keys, value.values()))
    return {name for name in {*value, *below} if not name.isdigit()}


def test_there_is_one_best_row_however_sums_are_rounded(made_up):
    """The lowest mean as exact fractions have it, of 5 tables at random."""
    rng, ones = np.random.default_rng(0), np.ones((9, 7, 9))
    for _ in range(5):
        bits = rng.uniform(3, 4, (9, 7))
        report = made_up(NINE, bits, ones, ones)
        is_best = [row["scores"]["bits_per_dim"]["is_best"] for row in report["rows"]]
        exact = [sum(map(Fraction, values)) for values in bits.tolist()]
        assert is_best == [value == min(exact) for value in exact]


def test_losses_under_weightings_are_integrals_of_the_curve(small, folder):
    """Of w = 1, what the ELBO's curve rises by, which was measured as steps, not as a weighting."""
    comparison = replace(small, rows=(ROWS["elbo"],))
    compare(comparison, Path("c"), Here())
    found = json.loads(Path("c/runs/elbo-0/scores.json").read_text())["scores"]
    elbo = found["elbo"]["nats_per_dim"]
    assert found["losses"]["ELBO()"] == pytest.approx(elbo[-1] - elbo[0], rel=1e-9)
