"""`elbos compare`: rows that differ in the objective only, each run made once, whatever happens."""

import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from commands import assert_one_line
from comparisons import full
from scipy import stats
from tiny import DIGITS

from elbos import weightings
from elbos.adaptive import Adaptive
from elbos.compare import budget, experiment
from elbos.compare import work as work_module
from elbos.compare.compare import compare
from elbos.compare.experiment import DEFAULT_ROWS, Comparison, Scoring
from elbos.compare.job import Job
from elbos.compare.report import report_of
from elbos.compare.results import Cell
from elbos.compare.row_words import parse_row
from elbos.compare.rows import ROWS, Row, loss_scale
from elbos.compare.scores import read_scores
from elbos.compare.work import work
from elbos.evaluation.features import Module
from elbos.networks import MLPConfig
from elbos.parameterizations import V
from elbos.schedules import Cosine
from elbos.training.config import Config
from elbos.training.data import Dataset, Toy
from elbos.training.run_directory import RunDirectory
from elbos.training.sampling import Ancestral, Heun, Sampling
from elbos.training.state import new_accelerator
from elbos.training.trainer import Diverged, Interrupted, Trainer

USERS = """
def features(images): return images.float().flatten(1)[:, ::48] / 255
def ramp(logsnr): return (6 - logsnr).clamp(0, 9)
def negative(logsnr): return logsnr
def constant(logsnr): return 1.0
def fails(logsnr): return logsnr[None, 9000]
"""


class Here:
    """An engine that makes a run, in this process, when it is asked how things are."""

    num_workers = num_threads = 1

    def settle(self, config, minutes):
        return budget.settled(config, minutes, self.num_threads)

    def __init__(self, at=lambda number, job: None):
        self.made, self.waiting, self.at = [], [], at

    def start(self, job):
        self.waiting.append(job)

    def ended(self):
        jobs, self.waiting = self.waiting, []
        for job in jobs:
            self.at(len(self.made), job)
            self.made.append(job.path.name)
            work(job)
        return [(job, None) for job in jobs]

    def close(self):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one's own, also for cached features."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(experiment, "NUM_VALIDATIONS", 1)
    (tmp_path / "mine.py").write_text(USERS)
    return tmp_path


@pytest.fixture
def small(folder):
    """Three rows and a seed of points in the plane, a second of work; they have no samples."""
    config = Config(
        data=Toy(num_train=1000),
        network=MLPConfig(num_features=16, num_blocks=1),
        parameterization=V(),
        schedule=Adaptive(logsnr_min=-10.0, logsnr_max=10.0),
        weighting=weightings.ELBO(),
        num_images=320,
        batch_size=64,
        sampling=DIGITS.sampling,
        precision="fp32",
    )
    rows = tuple(ROWS[name] for name in ("iddpm", "edm", "v-adaptive-sigmoid-2"))
    return Comparison(config=config, scoring=Scoring(num_images=20), rows=rows, seeds=(0,))


@pytest.fixture
def pictures(folder):
    """Two rows and one seed of digits, with samples."""
    scoring = Scoring(
        num_images=20,
        num_samples=24,
        extractor=Module(path=str(folder / "mine.py:features")),
        ancestral=Sampling(sampler=Ancestral(), num_steps=2),
        heun=Sampling(sampler=Heun(), num_steps=2),
    )
    config = replace(DIGITS, num_images=48, precision="fp32")
    rows = (ROWS["edm-adaptive"], ROWS["edm-adaptive-monotonic"])
    return Comparison(config=config, scoring=scoring, rows=rows, seeds=(0,))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_the_names_of_rows_tell_what_is_monotone(name):
    """The published ones as the table of the theory says; what is called monotonic is."""
    rises = {"iddpm", "edm", "edm-adaptive", "sd3", "sd3-adaptive", "p2"}
    rises |= {"min-snr", "min-snr-adaptive"}
    assert ROWS[name].is_monotone(-10.0, 13.3) == (name not in rises)


def test_the_default_rows_have_pairs_of_monotone_and_not():
    """That differ in the weighting only."""
    rows = [ROWS[name] for name in DEFAULT_ROWS]
    found = {
        (yes.name, no.name)
        for yes, no in itertools.permutations(rows, 2)
        if yes.is_monotone(-10.0, 13.3) > no.is_monotone(-10.0, 13.3)
        if (yes.parameterization, yes.schedule) == (no.parameterization, no.schedule)
    }
    assert found == {
        ("eps-cosine-sigmoid-2", "iddpm"),
        ("edm-adaptive-sigmoid-2", "edm-adaptive"),
        ("edm-adaptive-monotonic", "edm-adaptive"),
        ("sd3-adaptive-monotonic", "sd3-adaptive"),
        ("min-snr-adaptive-monotonic", "min-snr-adaptive"),
    }


def test_only_the_objective_of_a_row_differs():
    config = ROWS["edm"].config(DIGITS)
    ends = {"logsnr_min": DIGITS.schedule.logsnr_min, "logsnr_max": DIGITS.schedule.logsnr_max}
    row = ROWS["edm"]
    assert config == replace(
        DIGITS,
        parameterization=row.parameterization,
        schedule=replace(row.schedule, **ends),
        weighting=row.weighting,
        optimizer=replace(DIGITS.optimizer, max_grad_norm=config.optimizer.max_grad_norm),
    )


def test_the_scale_of_a_weighting_is_a_loss_known_in_closed_form():
    """Of w = 1, half the integral of the sigmoid: the information of normal data, in nats."""
    expected = 0.5 * (torch.nn.functional.softplus(torch.tensor([9.0, -7.0])).diff().abs()).item()
    assert loss_scale(weightings.ELBO(), -7.0, 9.0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("max_grad_norm", [1.0, 3.0])
def test_a_constant_factor_of_the_weighting_scales_what_the_optimizer_sees(folder, max_grad_norm):
    """Four times the weighting, four times the gradient after clipping, above the norm at which it
    is clipped and below: optimizers do not mind. With the same norm for both it is not so.
    """
    optimizer = replace(DIGITS.optimizer, max_grad_norm=max_grad_norm)
    base = replace(DIGITS, precision="fp32", optimizer=optimizer)
    once, four = (
        replace(ROWS["v-cosine"], weighting=weighting).config(base)
        for weighting in (
            weightings.Exponential(),
            weightings.Shifted(weightings.Exponential(), math.log(4)),  # exp(s) exp(-l / 2)
        )
    )

    def clipped(config):
        run, dataset = RunDirectory(folder / "run"), config.data.load()
        trainer = Trainer(config, run, dataset, new_accelerator())
        seen = []
        trainer.optimizer.step = lambda: seen.extend(p.grad for p in trainer.network.parameters())
        trainer.optimizer.zero_grad = lambda: None
        trainer.step()
        return torch.cat([grad.flatten() for grad in seen])

    torch.testing.assert_close(clipped(four), 4 * clipped(once), rtol=1e-4, atol=1e-6)
    alike = clipped(replace(four, optimizer=once.optimizer))
    assert alike.norm() < 0.9 * clipped(four).norm()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mine=V(),Adaptive(),Sigmoid(k=3)", weightings.Sigmoid(k=3.0)),
        ("mine = V, Adaptive, Monotone(EDM(std=2))", weightings.Monotone(weightings.EDM(std=2.0))),
    ],
)
def test_a_row_of_ones_own_is_what_its_words_say(words, expected):
    assert parse_row(words) == Row(
        name="mine", parameterization=V(), schedule=Adaptive(), weighting=expected
    )


@pytest.mark.parametrize("words", ["mine.py:ramp", "'mine.py:ramp'", "Shifted(mine.py:ramp, 0)"])
def test_a_weighting_in_a_file_is_its_numbers(folder, words):
    weighting = parse_row(f"mine=V(),Adaptive(),{words}").weighting
    logsnr = torch.tensor([-99.0, -4.0, 1.003, 7.0])
    torch.testing.assert_close(weighting(logsnr), torch.tensor([9.0, 9.0, 4.997, 0.0]))


def test_a_row_of_a_function_is_trained_and_scored_from_its_numbers(small, folder):
    """Of the same objective, written as a function: the same scores, to the error of the table."""
    function = weightings.Tabulated.of(lambda logsnr: torch.sigmoid(2 - logsnr), "mine")
    rows = (
        ROWS["v-adaptive-sigmoid-2"],
        replace(ROWS["v-adaptive-sigmoid-2"], name="mine", weighting=function),
    )
    report = compare(replace(small, rows=rows), Path("c"), Here())
    bits = [row["scores"]["bits_per_dim"]["mean"] for row in report["rows"]]
    assert bits[1] == pytest.approx(bits[0], rel=1e-3)
    assert [len(one["rows"]) for one in report["losses"]["weightings"]] == [1, 1]
    np.testing.assert_allclose(report["losses"]["relative"], 1.0, rtol=1e-3)
    with pytest.raises(ValueError, match=r"exp is a weighting of your own: give Tabulated\.of"):
        replace(rows[0], weighting=torch.exp)


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("nope", "choose from iddpm"),
        ("a=V(),Adaptive(),nope.py:f", "No such file"),
        ("a=V(),Adaptive(),mine.py:f", "has no 'f'; it defines features, ramp"),
        ("a=V(),Adaptive(),Monotone(mine.py:negative)", "is -20.0 at log-SNR -20"),
        ("a=V(),Adaptive(),mine.py:constant", "returns float for log-SNRs [2001]"),
        ("a=V(),Adaptive(),mine.py:fails", "mine.py:fails fails: IndexError (line 6)"),
        ("a=V(),mine.py:ramp,ELBO()", "is none of Cosine"),
        ("a=V()", "give a prediction type, a schedule and a weighting"),
        ("a=V(),Adaptive(),ELBO(),ELBO()", "give a prediction type"),
        ("a=(((", "give a prediction type"),
        ("a=V(),Adaptive(),__import__('os')", "is none of ELBO"),
        ("a=V(),Adaptive(),Sigmoid(q=3)", "unknown entries: q"),
        ("a=V(),Adaptive(),Sigmoid(3)", "with its name"),
        ("a=V(),Adaptive(),Sigmoid(k=3,k=4)", "each of its numbers once"),
        ("a=V(),Adaptive(),Sigmoid(**{'k':3})", "with its name"),
        ("a=V(),Adaptive(),Sigmoid(k='x')", "expected float"),
        ("a=V(),Adaptive(),Sigmoid(k=1e999)", "finite"),
        ("a=V(),Adaptive(),Sigmoid(k=nan)", "nan is no number"),
        ("a=V(),Adaptive(),Sigmoid(k=2**99)", "2 ** 99 is no number"),
        ("a=V(),Adaptive(),Sigmoid(k=-1e30)", "The row a cannot be trained: The loss is zero"),
        ("a=V(),Adaptive(),Exponential(rate=1000)", "The row a cannot be trained: The loss is mul"),
        ("a=V(),Adaptive(follow='x'),ELBO()", "expected 'mean' or 'root-second-moment'"),
        ("a=V(),Adaptive(num_bins=1000000000),ELBO()", "give at most 100,000"),
        (f"a=V(),Adaptive(),{'(' * 5000}", "(((…'"),
        ("a=V(),Adaptive(num_bins=2.5),ELBO()", "expected int"),
        ("a=V(),Normal(std=-1),ELBO()", "above 0"),
        ("../a=V(),Adaptive(),ELBO()", "cannot be called"),
    ],
)
def test_a_row_that_makes_no_sense_is_one_line(elbos, folder, words, needed):
    assert_one_line(elbos("compare", "digits", "--rows", words, "--out", "new"), needed)
    assert not (folder / "new").exists()


# --- pairing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 5])
def test_rows_of_a_seed_share_everything_random(small, folder, step):
    """Initial weights, order of the data, noise, uniform times, dropped labels: bit for bit."""

    def drawn(row, seed):
        config = small.run_config(row, seed)
        trainer = Trainer(config, RunDirectory(folder / "r"), config.data.load(), new_accelerator())
        trainer.state.step = step
        draw = trainer.draw()
        weights = torch.cat([p.flatten() for p in trainer.network.parameters()])
        return [*trainer.batch(), draw.times, draw.eps, draw.uniform, weights]

    first, *others = (drawn(row, 1) for row in small.rows)
    for other in others:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, other, strict=True))
    another = drawn(small.rows[0], 2)
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(first, another, strict=True))


# --- made once, whatever happens ------------------------------------------------------------------


def test_what_is_done_is_not_done_again(small, folder):
    """Not by the same command, and not where a row and a seed are added."""
    few = replace(small, rows=small.rows[:2])
    first = compare(few, Path("c"), engine := Here())
    assert engine.made == ["iddpm-0", "edm-0"]
    assert {path.name for path in Path("c").iterdir()} == {
        *(".lock", "compare.json", "runs", "report.json", "report.md", "report.html")
    }
    again = compare(few, Path("c"), engine := Here())
    assert again == first
    assert engine.made == []
    weights = checkpoints()
    report = compare(replace(few, rows=small.rows, seeds=(0, 1)), Path("c"), Here())
    assert [row["status"] for row in report["rows"]] == ["complete"] * 3
    assert len(checkpoints()) == 6
    assert weights.items() <= checkpoints().items()  # only losses under the new weighting are new
    for old, new in zip(first["rows"], report["rows"], strict=False):
        values = [row["scores"]["bits_per_dim"]["values"]["0"] for row in (old, new)]
        assert values[0] == values[1]


def checkpoints():
    """When each run's last checkpoint was written."""
    return {str(path): path.stat().st_mtime_ns for path in Path().glob("c/runs/*/checkpoints/*5")}


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
        assert frechet["margin"] is None  # of one seed
        assert found["samples"]["heun"] != found["samples"]["ancestral"]
        assert len(row["density"]) >= 1
    (pair,) = report["pairs"]
    assert (pair["monotone"], pair["non_monotone"]) == ("edm-adaptive-monotonic", "edm-adaptive")
    bits = [scores[pair[kind]]["bits_per_dim"] for kind in ("monotone", "non_monotone")]
    assert pair["differences"]["bits_per_dim"]["mean"] == pytest.approx(bits[0] - bits[1])
    assert np.array(report["losses"]["relative"]).min(0).tolist() == [1.0, 1.0]
    assert report["ranking"] is None  # of one monotone row
    assert "One seed" in " ".join(report["conclusion"])
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
        return report_of(comparison, cells, name="c", command=None)

    return report


NINE = tuple(ROWS[f"eps-{kind}-sigmoid-{k}"] for kind in ("cosine",) for k in range(1, 6)) + tuple(
    ROWS[name] for name in ("elbo", "v-cosine", "edm-adaptive-monotonic", "edm-adaptive")
)


def test_a_report_is_what_scipy_makes_of_the_scores(made_up):
    """The pair's interval, the margin, rank correlations and losses, of random scores."""
    rng = np.random.default_rng(0)
    bits = rng.normal(size=(9, 4)) + rng.normal(size=4)
    elbos, losses = rng.normal(size=(9, 4, 5)), rng.uniform(1, 2, size=(9, 4, 9))
    report = made_up(NINE, bits, elbos, losses)
    (pair,) = report["pairs"]
    found = pair["differences"]["bits_per_dim"]
    assert (pair["monotone"], pair["non_monotone"]) == ("edm-adaptive-monotonic", "edm-adaptive")
    interval = stats.ttest_rel(bits[7], bits[8]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval))
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
    residuals = bits - means[:, None] - bits.mean(0) + bits.mean()
    error = math.sqrt(np.square(residuals).sum() / 24 / 4)
    margin = stats.studentized_range.ppf(0.95, 9, 24) * error / 2
    for row, mean in zip(report["rows"], means, strict=True):
        score = row["scores"]["bits_per_dim"]
        assert score["mean"] == pytest.approx(mean)
        assert score["margin"] == pytest.approx(margin, rel=1e-6)
        assert score["is_best"] == (mean == means.min())
        assert score["is_best_within_error"] == (mean - means.min() <= 2 * margin)


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


def test_a_row_that_diverges_is_reported_and_the_others_go_on(small, folder, monkeypatch):
    score = work_module.train

    def broken(config, path, on_images):
        if isinstance(config.weighting, weightings.EDM):
            raise Diverged("The loss of step 3 is not finite.")
        score(config, path, on_images)

    monkeypatch.setattr(work_module, "train", broken)
    report = compare(small, Path("c"), engine := Here())
    status = {row["name"]: row["status"] for row in report["rows"]}
    assert status == {"iddpm": "complete", "edm": "failed", "v-adaptive-sigmoid-2": "complete"}
    edm = report["rows"][1]
    assert [one["reason"] for one in edm["failures"]] == ["The loss of step 3 is not finite."]
    assert len(engine.made) == 3
    compare(small, Path("c"), engine := Here())
    assert engine.made == []  # it would diverge again


def test_a_run_that_failed_is_tried_again(small, folder, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device", "checkpoints")

    with monkeypatch.context() as context:
        context.setattr(work_module, "train", broken)
        report = compare(small, Path("c"), engine := Here())
        assert len(engine.made) == 3  # once each, not for ever
    assert all(row["status"] == "failed" for row in report["rows"])
    assert "No space left" in report["rows"][0]["failures"][0]["reason"]
    report = compare(small, Path("c"), Here())
    assert all(row["status"] == "complete" for row in report["rows"])


def test_a_nan_in_training_is_a_failure_with_its_step(small, folder, monkeypatch):
    """Through the real trainer: one row's losses become NaN at its third step."""
    batch = Trainer.batch

    def poisoned(self):
        x, label = batch(self)
        is_bad = isinstance(self.config.weighting, weightings.EDM) and self.state.step == 2
        return (x * float("nan") if is_bad else x), label

    monkeypatch.setattr(Trainer, "batch", poisoned)
    report = compare(small, Path("c"), Here())
    edm = report["rows"][1]
    assert edm["status"] == "failed"
    assert "step 2" in edm["failures"][0]["reason"]
    assert [row["status"] for row in report["rows"]].count("complete") == 2


def test_a_directory_belongs_to_one_comparison(small, folder):
    compare(replace(small, rows=small.rows[:1]), Path("c"), Here())
    other = replace(small, config=replace(small.config, num_images=384))
    with pytest.raises(ValueError, match="num_images = 320, not 384"):
        compare(other, Path("c"), Here())
    scoring = replace(small.scoring, num_samples=30)
    with pytest.raises(ValueError, match=r"scoring\.num_samples = 2000, not 30"):
        compare(replace(small, scoring=scoring), Path("c"), Here())
    Path("other").mkdir()
    Path("other/file").touch()
    with pytest.raises(ValueError, match="holds file and no comparison"):
        compare(small, Path("other"), Here())


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--seeds", "0", "0"], "seed 0 is given twice"),
        (["--rows", "edm", "edm"], "row edm is given twice"),
        (["--seed", "3"], "give --seeds"),
        (["--minutes", "0"], "minutes is 0.0"),
        (["--minutes", "inf"], "minutes is inf"),
        (["--minutes", "1", "--num-images", "6400"], "leave one of the two out"),
        (["weighting:elbo"], "--weighting is of a single run: give --rows"),
        (["schedule:cosine"], "--schedule is of a single run: give --rows"),
        (["--output.log-every", "9"], "the report has its own"),
        (["--network.num-blocks", "0"], "num_blocks"),
        (["--workers", "0"], "num_workers is 0"),
        (["--scoring.num-samples", "3"], "give at least"),
        (["--out", "mine.py"], "mine.py is a file"),
        (["--ray"], "pip install 'elbos[ray]'"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(elbos, folder, monkeypatch, words, needed):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert_one_line(elbos("compare", "digits", *words), needed)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def damaged(content):
    """A file of scores in which something is other than it was written, one after another."""
    stored = json.loads(content)
    scores = stored["scores"]
    for name, right in scores.items():
        for value in (None, [], "x", {}):
            if value != right:
                yield json.dumps({**stored, "scores": {**scores, name: value}})
        others = {key: value for key, value in scores.items() if key != name}
        yield json.dumps({**stored, "scores": others})
    yield from ("", "[]", "null", "{", content[:-9], "[" * 100_000, '{"a":' * 100_000, "NaN", "\0")


def test_scores_that_are_not_as_they_were_written_are_measured_again(small, folder):
    comparison = replace(small, rows=small.rows[:1])
    first = compare(comparison, Path("c"), Here())
    file = Path("c/runs/iddpm-0/scores.json")
    content = file.read_text()
    for number, wrong in enumerate(damaged(content)):
        file.write_text(wrong)
        assert read_scores(file.parent, small.scoring) is None, number
    assert compare(comparison, Path("c"), engine := Here()) == first
    assert engine.made == ["iddpm-0"]
    assert file.read_text() == content


def test_losses_that_another_process_measured_are_kept(small, folder):
    """Two sets of rows in one directory, in turn: shared runs are scored under both, and once."""
    first, second = (replace(small, rows=(ROWS["elbo"], ROWS[name])) for name in ("iddpm", "edm"))
    made = []
    for comparison in (first, second, first, second):
        compare(comparison, Path("c"), engine := Here())
        made.append(engine.made)
    assert made == [["elbo-0", "iddpm-0"], ["elbo-0", "edm-0"], [], []]


def test_a_row_is_not_redefined_under_its_name(small, folder):
    """Not where the weighting is one whose losses are known, nor where it failed for good."""
    compare(small, Path("c"), Here())
    other = replace(ROWS["edm"], parameterization=V())
    redefined = replace(small, rows=(ROWS["iddpm"], other))
    with pytest.raises(ValueError, match=r"edm-0 holds a run with parameterization = EDM, not V"):
        compare(redefined, Path("c"), Here())
    Path("c/runs/edm-0/scores.json").unlink()
    job = Job.of(small, Path("c/runs/edm-0"), ROWS["edm"], 0)
    job.fail("The loss is \x1b[31mnot finite.", is_final=True)
    assert job.failure()["reason"] == "The loss is \\x1b[31mnot finite."
    with pytest.raises(ValueError, match="give the row another name"):
        compare(redefined, Path("c"), Here())


def test_a_comparison_is_of_the_same_data_and_features_to_its_end(pictures, folder, monkeypatch):
    few = replace(pictures, rows=pictures.rows[:1])
    compare(few, Path("c"), Here())
    before = {path: path.read_bytes() for path in Path("c").glob("report.*")}
    more = replace(few, seeds=(0, 1))
    with monkeypatch.context() as context:
        context.setattr(Dataset, "fingerprint", lambda _: {"sha256": "of others"})
        with pytest.raises(ValueError, match="not those that c was begun with: put those back"):
            compare(more, Path("c"), Here())
    (folder / "mine.py").write_text(USERS.replace("255", "254"))
    with pytest.raises(ValueError, match=r"features = mine.py:features, file \w+, not mine.py"):
        compare(more, Path("c"), Here())
    assert before == {path: path.read_bytes() for path in Path("c").glob("report.*")}


def test_a_damaged_log_is_named(small, folder):
    comparison = replace(small, rows=small.rows[:1])
    compare(comparison, Path("c"), Here())
    Path("c/runs/iddpm-0/scores.json").unlink()
    with Path("c/runs/iddpm-0/metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "images": 64, "val_nats": "x"}\n')
    report = compare(comparison, Path("c"), Here())
    (failure,) = report["rows"][0]["failures"]
    assert "metrics.jsonl is damaged: delete its line" in failure["reason"]


def test_what_no_run_could_train_is_found_before_the_first(small, folder):
    config = replace(small.config, network=MLPConfig(num_features=0))
    with pytest.raises(ValueError, match="num_features is 0"):
        compare(replace(small, config=config), Path("c"), Here())
    assert not Path("c").exists()


def test_an_interruption_says_how_to_go_on(small, folder):
    def stop(number, job):
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"Stopped with 1 of 3 runs done: the same command"):
        compare(small, Path("c"), Here(stop))
    engine = Here()
    report = compare(small, Path("c"), engine)
    assert len(engine.made) == 2
    assert all(row["status"] == "complete" for row in report["rows"])


def test_a_budget_is_the_same_number_of_images_for_all_and_for_good(small, folder, monkeypatch):
    """Of steps that take 0.25 s by the clock: 30 in an eighth of a minute."""
    clock = [0.0]
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock[0])
    step = Trainer.step

    def slow(self):
        clock[0] += 0.25
        return step(self)

    with monkeypatch.context() as context:
        context.setattr(Trainer, "step", slow)
        report = compare(replace(small, rows=small.rows[:1]), Path("c"), Here(), minutes=0.125)
    images = {
        json.loads(path.read_text())["num_images"] for path in Path().glob("c/runs/*/config.json")
    }
    assert images == {report["num_images"]} == {30 * small.config.batch_size}
    again = compare(replace(small, rows=small.rows[:1]), Path("c"), engine := Here(), minutes=0.125)
    assert (engine.made, again) == ([], report)
    with pytest.raises(ValueError, match=r"minutes = 0\.125, not 0\.25"):
        compare(small, Path("c"), Here(), minutes=0.25)


# --- processes ------------------------------------------------------------------------------------

OPTIONS = [
    *("--rows", "iddpm", "edm", "--seeds", "0", "1", "--out", "c", "--precision", "fp32"),
    *("--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"),
    *("--num-images", "480", "--scoring.num-images", "20", "--scoring.num-samples", "24"),
    *("--scoring.ancestral.num-steps", "2", "--scoring.heun.num-steps", "2"),
]
FEATURES = ["scoring.extractor:module", "--scoring.extractor.path", "mine.py:features"]


def start(folder, *words):
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(USERS)
    command = [sys.executable, "-m", "elbos.cli", "compare", "digits", *OPTIONS, *words, *FEATURES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def ends_well(folder, *words):
    process = start(folder, "--workers", "2", *words)
    error = process.communicate()[1]
    assert process.returncode == 0, error


def result(folder):
    """The report but for what names it, and how often each run was trained to its end."""
    report = json.loads((folder / "c/report.json").read_text())
    logs = (folder / "c/runs").glob("*/.log.txt")
    num_trained = {path.parent.name: path.read_text().count("validation ELBO") for path in logs}
    return {key: report[key] for key in report if key not in ("name", "command")}, num_trained


def progress(folder):
    """How many runs' worth of work is done."""
    return sum(float(path.read_text()) for path in folder.glob("c/runs/*/.progress"))


def test_a_run_that_another_process_is_at_is_left_to_it(small, folder):
    """It is not begun while its lock is held; what comes of it there is taken for done."""
    few = replace(small, rows=small.rows[:2])
    compare(replace(few, rows=few.rows[1:]), Path("c"), Here())  # a directory with one run
    compare(few, Path("other"), Here())
    job, engine, is_held = Job.of(few, Path("c/runs/iddpm-0"), few.rows[0], 0), Here(), Event()
    job.path.mkdir()

    def another_process():
        with job.lock:
            is_held.set()
            time.sleep(1.0)
            shutil.copytree(folder / "other/runs/iddpm-0", job.path, dirs_exist_ok=True)

    other = Thread(target=another_process)
    other.start()
    is_held.wait()
    report = compare(few, Path("c"), engine)
    other.join()
    assert "iddpm-0" not in engine.made
    assert [row["status"] for row in report["rows"]] == ["complete"] * 2


@pytest.mark.slow
def test_two_processes_share_a_comparison(folder):
    """Both end well with one report, and each run is trained once, by one of them."""
    processes = [start(folder, "--workers", "1") for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    report, num_trained = result(folder)
    assert [row["status"] for row in report["rows"]] == ["complete"] * 2
    assert len(num_trained) == 4
    assert set(num_trained.values()) == {8}  # validations of a whole training


@pytest.mark.slow
def test_a_comparison_that_is_killed_again_and_again_ends_as_if_it_had_not_been(folder):
    """At ten random shares of the work; what it started ends with it. What is done is not begun."""
    longer = ("--num-images", "12800")
    ends_well(folder / "whole", *longer)
    chance, num_killed = random.Random(0), 0  # noqa: S311
    for share in sorted(chance.uniform(0, 3.5) for _ in range(10)):  # of four runs
        process = start(folder / "killed", "--workers", "2", *longer)
        while process.poll() is None and progress(folder / "killed") < share:
            time.sleep(0.05)
        num_killed += process.poll() is None
        process.kill()
        process.communicate()
    assert num_killed == 10
    ends_well(folder / "killed", *longer)
    for scores in folder.glob("killed/c/runs/*/scores.json"):
        log = scores.with_name(".log.txt")
        assert log.stat().st_mtime <= scores.stat().st_mtime + 1
    whole, killed = result(folder / "whole"), result(folder / "killed")
    assert killed[0] == whole[0]
    assert killed[1].keys() == whole[1].keys()
    assert not list(folder.glob("killed/c/**/.*.partial"))


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_report(folder, monkeypatch):
    pytest.importorskip("ray", reason="needs ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, words in (("local", []), ("ray", ["--ray"])):
        process = start(folder / name, "--workers", "2", *words)
        error = process.communicate()[1]
        assert process.returncode == 0, error
    assert result(folder / "ray") == result(folder / "local")
