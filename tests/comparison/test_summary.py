"""What a comparison comes to: its numbers are those of the runs, and of scipy."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from comparing import STORED, Here
from scipy import stats

from elbos.base.records import from_json
from elbos.comparison.compare import run_experiment
from elbos.comparison.experiment import Experiment
from elbos.comparison.scores import RunScores, measured_metrics
from elbos.comparison.statistics import differences as of_differences
from elbos.comparison.summary import summarize
from elbos.comparison.variants import VARIANTS
from elbos.theory.schedules import Cosine
from elbos.training.presets import PRESETS

SCORES = json.loads(STORED.read_text())[0]["scores"]
NINE = tuple(
    VARIANTS[name]
    for name in (
        *(f"eps-cosine-sigmoid-{k}" for k in range(1, 6)),
        *("elbo", "v-cosine", "edm-adaptive-monotonic", "edm-adaptive"),
    )
)


def test_a_comparison_holds_what_the_runs_were_scored_with(scored):
    """Means over seeds, the pair that differs in the weighting only, losses, samples."""
    folder, found = scored
    scores = {
        (one.name, seed): json.loads(
            (folder / f"c/runs/{one.name}-{seed}/scores.json").read_text()
        )["scores"]
        for one in found.objectives
        for seed in found.seeds
    }
    for one in found.objectives:
        first, second = (scores[one.name, seed] for seed in (0, 1))
        bits = [own["bits_per_dim"] for own in (first, second)]
        assert one.scores["bits_per_dim"].mean == pytest.approx(np.mean(bits), rel=1e-12)
        distances = [own["samples"]["heun"]["frechet_distance"] for own in (first, second)]
        assert one.scores["frechet_heun"].values == dict(enumerate(distances))
        assert first["samples"]["heun"] != first["samples"]["ancestral"]
        clipped = np.mean([first["clipped"], second["clipped"]])
        assert found.protocol.clipped[one.name] == pytest.approx(clipped)
        assert one.name == "iddpm" or len(one.density) >= 1  # whose schedule adapts
    (pair,) = found.pairs
    assert (pair.monotone, pair.non_monotone) == ("edm-adaptive-monotonic", "edm-adaptive")
    bits = [
        [scores[name, seed]["bits_per_dim"] for seed in (0, 1)]
        for name in (pair.monotone, pair.non_monotone)
    ]
    assert pair.differences["bits_per_dim"].mean == pytest.approx(np.subtract(*bits).mean())
    assert np.array(found.losses.relative).min(0).tolist() == [1.0] * 3
    assert found.ranking is None  # of one monotone objective
    assert found.protocol.samplers["heun"].num_evaluations == 3
    assert (folder / "c/report.html").read_text().count("data:image/png;base64,") == 3
    records = found.table()  # a DataFrame, if pandas is there
    assert len(records) == 3


def made_up(objectives, bits, elbos, losses):
    """A comparison of points with these bits/dim `[objectives, seeds]`, ELBOs `[objectives, seeds,
    levels]`, and losses `[objectives, seeds, objectives]`.
    """
    seeds = tuple(range(bits.shape[1]))
    names = [repr(one.weighting) for one in objectives]
    scores = {}
    for i, one in enumerate(objectives):
        for seed in seeds:
            curve = {"logsnr": list(range(elbos.shape[2])), "nats_per_dim": elbos[i, seed].tolist()}
            content = {
                **SCORES,
                **dict.fromkeys(("samples", "floor", "num_compared", "num_features")),
                "bits_per_dim": bits[i, seed],
                "elbo": curve,
                "curve": curve,
                "losses": dict(zip(names, losses[i, seed].tolist(), strict=True)),
            }
            scores[one.name, seed] = from_json(RunScores, content)
    experiment = Experiment(config=PRESETS["toy"], objectives=objectives, seeds=seeds)
    return summarize(experiment, scores, {}, name="c")


def test_a_comparison_holds_what_is_known_of_the_scores():
    """The differences that are significant, rank correlations and losses, of random scores."""
    rng = np.random.default_rng(0)
    bits = rng.normal(size=(9, 4)) + rng.normal(size=4)
    elbos, losses = rng.normal(size=(9, 4, 5)), rng.uniform(1, 2, size=(9, 4, 9))
    found = made_up(NINE, bits, elbos, losses)
    (pair,) = found.pairs
    difference = pair.differences["bits_per_dim"]
    assert (pair.monotone, pair.non_monotone) == ("edm-adaptive-monotonic", "edm-adaptive")
    known = of_differences(bits[None], [(7, 8)])[0]
    half_width = known.half_widths[7, 8]
    mean = bits[7].mean() - bits[8].mean()
    ends = mean - half_width, mean + half_width
    assert (difference.low, difference.high) == pytest.approx(ends)
    assert difference.detectable == pytest.approx(half_width)
    monotone, means = slice(0, 8), bits.mean(1)
    expected = [
        stats.spearmanr(elbos[monotone].mean(1)[:, k], means[monotone]).statistic for k in range(5)
    ]
    np.testing.assert_allclose(found.ranking.by_level["bits_per_dim"].rho, expected, rtol=1e-5)
    rho = found.ranking.by_weighting["bits_per_dim"].rho
    expected = [
        stats.spearmanr(losses[monotone].mean(1)[:, k], means[monotone]).statistic for k in range(8)
    ]
    np.testing.assert_allclose(rho, expected, rtol=1e-5)
    relative = losses.mean(1) / losses.mean(1).min(0)
    np.testing.assert_allclose(found.losses.relative, relative, rtol=1e-5)
    best = int(means.argmin())
    for i, one in enumerate(found.objectives):
        score = one.scores["bits_per_dim"]
        assert score.mean == pytest.approx(means[i])
        assert score.std == pytest.approx(bits[i].std(ddof=1))
        assert score.is_best == (i == best)
        assert score.is_best_within_error == (means[i] - means[best] <= known.half_widths[best, i])
        if i != best:
            assert score.detectable == pytest.approx(known.half_widths[best, i])
    assert found.statistics["bits_per_dim"].residual_std == pytest.approx(known.residual_std)


def test_what_diverges_in_one_objective_is_unresolved_and_no_best():
    """As bits/dim did where a network predicts x: 2,706, of 2,040 to 3,850."""
    rng, ones = np.random.default_rng(0), np.ones((9, 3, 9))
    bits = 4 + np.linspace(0, 1, 9)[:, None] + 0.02 * rng.normal(size=(9, 3))
    before = made_up(NINE, bits, ones, ones)
    bits[5] = [3850.2, 2226.4, 2040.2]
    found = made_up(NINE, bits, ones, ones)
    marks = [one.scores["bits_per_dim"] for one in found.objectives]
    assert [mark.is_unresolved for mark in marks] == [i == 5 for i in range(9)]
    assert not marks[5].is_best and not marks[5].is_best_within_error
    assert marks[5].detectable > 1000
    for i in set(range(9)) - {0, 5}:  # what it does to others
        old = before.objectives[i].scores["bits_per_dim"].detectable
        assert marks[i].detectable == pytest.approx(old, rel=0.5)
    assert found.statistics["bits_per_dim"].erratic == (NINE[5].name,)


def test_main_is_the_kernel_distance_of_fewer_samples_than_features():
    """Equal numbers are enough for the Fréchet distance; of points there is bits/dim alone."""
    for num, kind in ((1279, "kernel"), (1280, "frechet")):
        scores = from_json(RunScores, {**SCORES, "num_compared": num, "num_features": 1280})
        found = measured_metrics(scores)
        main = [one.key for one in found if one.is_main]
        assert main == [f"{kind}_ancestral", f"{kind}_heun", "bits_per_dim"]
        assert len(found) == 3 + 6
    (bits,) = measured_metrics(from_json(RunScores, {**SCORES, "samples": None}))
    assert (bits.key, bits.is_main) == ("bits_per_dim", True)


def test_objectives_are_a_pair_whatever_the_ends_of_their_schedules():
    """Those of the comparison are used."""
    mine = replace(VARIANTS["eps-cosine-sigmoid-2"], name="mine", schedule=Cosine(logsnr_min=-7.0))
    ones = np.ones((2, 2, 2))
    found = made_up((VARIANTS["iddpm"], mine), np.ones((2, 2)), ones, ones)
    assert [(pair.monotone, pair.non_monotone) for pair in found.pairs] == [("mine", "iddpm")]


def test_one_objective_is_best_however_sums_are_rounded():
    """The lowest mean as exact fractions have it, of 3 tables at random."""
    rng, ones = np.random.default_rng(0), np.ones((5, 7, 5))
    for _ in range(3):
        bits = rng.uniform(3, 4, (5, 7))
        found = made_up(NINE[:5], bits, ones, ones)  # too few weightings to be ranked
        is_best = [one.scores["bits_per_dim"].is_best for one in found.objectives]
        exact = [sum(map(Fraction, values)) for values in bits.tolist()]
        assert is_best == [value == min(exact) for value in exact]


def test_losses_under_weightings_are_integrals_of_the_curve(small, folder):
    """Of w = 1, what the ELBO's curve rises by, which was measured as steps, not as a weighting."""
    comparison = replace(small, objectives=(VARIANTS["elbo"],))
    run_experiment(comparison, Path("c"), Here())
    found = json.loads(Path("c/runs/elbo-0/scores.json").read_text())["scores"]
    elbo = found["elbo"]["nats_per_dim"]
    assert found["losses"]["ELBO()"] == pytest.approx(elbo[-1] - elbo[0], rel=1e-9)
