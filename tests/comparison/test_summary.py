"""What a comparison comes to: its numbers are those of the runs, and of scipy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing import STORED, Here

from elbos.base.codec import decode
from elbos.comparison.compare import run_experiment, summarize
from elbos.comparison.experiment import Experiment
from elbos.comparison.result import Pair
from elbos.comparison.scores import RunScores, measured_metrics
from elbos.comparison.statistics import differences
from elbos.comparison.variants import VARIANTS
from elbos.training.presets import PRESETS

SCORES = json.loads(STORED.read_text())[0]["scores"]
NINE = tuple(
    VARIANTS[name]
    for name in (
        *(f"eps-cosine-sigmoid-{k}" for k in range(1, 6)),
        *("elbo", "v-cosine", "edm-adaptive-monotonic", "edm-adaptive"),
    )
)


PAIR = Pair("edm-adaptive-monotonic", "edm-adaptive")


def made_up(objectives, bits):
    """A comparison of points with these bits/dim `[objectives, seeds]`."""
    seeds = tuple(range(bits.shape[1]))
    losses = {f"loss under {item.weighting!r}": {"value": 1.0} for item in objectives}
    scores = {}
    for i, item in enumerate(objectives):
        for seed in seeds:
            metrics = {"bits_per_dim": {"value": bits[i, seed]}, **losses}
            points = {"samplers": (), "baseline": {}, "num_baseline": None, "num_features": None}
            content = {**SCORES, **points, "metrics": metrics}
            scores[item.name, seed] = decode(RunScores, content)
    experiment = Experiment(config=PRESETS["toy"], objectives=objectives, seeds=seeds)
    return summarize(experiment, scores, {}, name="c")


def test_differences_pair_runs_of_one_seed_in_whatever_order_they_stand():
    rng = np.random.default_rng(0)
    comparison = made_up(NINE[:2], rng.normal(size=(2, 1)) + rng.normal(size=4))
    rows = comparison.rows
    mixed = replace(comparison, rows=tuple(rows[i] for i in rng.permutation(len(rows))))
    assert mixed.differences == comparison.differences


def test_scores_and_differences_are_those_of_the_statistics():
    rng = np.random.default_rng(0)
    bits = rng.normal(size=(9, 4)) + rng.normal(size=4)
    comparison = made_up(NINE, bits)
    (metric,) = comparison.main_metrics
    assert comparison.pairs == (PAIR,)
    difference = comparison.difference(*PAIR, metric)
    expected = differences(bits[None], [(7, 8)])[0]
    half_width = expected.half_widths[7, 8]
    mean = bits[7].mean() - bits[8].mean()
    ends = mean - half_width, mean + half_width
    assert (difference.low, difference.high) == pytest.approx(ends)
    means = bits.mean(1)
    best = int(means.argmin())
    for i, item in enumerate(comparison.objectives):
        score = comparison.scores[item.name]["bits_per_dim"]
        assert score.mean == pytest.approx(means[i])
        assert score.std == pytest.approx(bits[i].std(ddof=1))
        assert score.is_best == (i == best)
        is_near = means[i] - means[best] <= expected.half_widths[best, i]
        assert score.is_best_within_error == is_near
        if i != best:
            assert score.detectable == pytest.approx(expected.half_widths[best, i])


def test_what_diverges_in_one_objective_is_unresolved_and_no_best():
    """As bits/dim did where a network predicts x: 2,706, of 2,040 to 3,850."""
    rng = np.random.default_rng(0)
    bits = 4 + np.linspace(0, 1, 9)[:, None] + 0.02 * rng.normal(size=(9, 3))
    before = made_up(NINE, bits)
    bits[5] = [3850.2, 2226.4, 2040.2]
    comparison = made_up(NINE, bits)
    marks = [comparison.scores[item.name]["bits_per_dim"] for item in NINE]
    assert [mark.is_unresolved for mark in marks] == [i == 5 for i in range(9)]
    assert not marks[5].is_best and not marks[5].is_best_within_error
    assert marks[5].detectable > 1000
    for i in set(range(9)) - {0, 5}:  # what it does to others
        old = before.scores[NINE[i].name]["bits_per_dim"].detectable
        assert marks[i].detectable == pytest.approx(old, rel=0.5)


def test_main_is_the_kernel_distance_of_fewer_samples_than_features():
    """Or of fewer test images; of points there is bits/dim alone."""
    for num_samples, num_baseline, kind in (
        (1279, 5000, "kernel"),
        (5000, 1279, "kernel"),
        (1280, 1280, "frechet"),
    ):
        content = {**SCORES, "num_baseline": num_baseline, "num_features": 1280}
        metrics = measured_metrics(decode(RunScores, content), num_samples)
        main = [metric.key for metric in metrics if metric.is_main]
        assert main == [f"{kind}_ancestral", f"{kind}_heun", "bits_per_dim"]
        assert len(metrics) == 3 + 2
    (bits,) = measured_metrics(decode(RunScores, {**SCORES, "num_baseline": None}), 2000)
    assert (bits.key, bits.is_main) == ("bits_per_dim", True)


def test_losses_under_weightings_are_integrals_of_the_curve(small, folder):
    """Of w = 1, what the ELBO's curve rises by, which was measured as steps, not as a weighting."""
    experiment = replace(small, objectives=(VARIANTS["elbo"],))
    comparison = run_experiment(experiment, Path("c"), Here())
    elbo = json.loads(Path("c/runs/elbo-0/scores.json").read_text())["scores"]["elbo"]["y"]
    loss = comparison.values["elbo"]["loss under ELBO()"][0]
    assert loss == pytest.approx(elbo[-1] - elbo[0], rel=1e-9)
