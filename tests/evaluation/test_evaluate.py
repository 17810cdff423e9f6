"""Evaluations of runs: measured once, kept part by part, with their protocol."""

import copy
import html
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import browsing
import pytest
import torch
from commands import Elbos, assert_one_line
from torch import Tensor

from elbos.base.numbers import plus_minus
from elbos.base.tables import Table
from elbos.cli import evaluate as evaluate_verb
from elbos.evaluation import Evaluation, OdeConfig, quality
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.features import Module
from elbos.evaluation.metrics import SAMPLE_METRICS, FeatureSets, SampleMetric, Value
from elbos.evaluation.model import model_store
from elbos.evaluation.report import page, runs_table, terminal
from elbos.runs.run import Run
from elbos.training.sampling import Sampling
from elbos.validation import validator

FEW = ["--num-images", "20", "--num-pilot-images", "10"]
ODE = ["--ode.num-images", "3", "--ode.tolerance", "0.1"]
LIKELIHOOD = [*FEW, "--ode.num-images", "0", "--num-samples", "0"]
MINE = ["extractor:module", "--extractor.path", "mine.py:features"]
COMMAND = ["evaluate", "digits", *FEW, *ODE, "--num-samples", "40", *MINE]
NO_ODE = OdeConfig(num_images=0)
USERS = "def features(images): return images.float().flatten(1)[:, ::48] / 255"


def few(**changes: Any) -> dict[str, Any]:
    """The same for `Run.evaluate`."""
    small = {"num_images": 20, "num_pilot_images": 10, "num_samples": 40}
    ode = OdeConfig(num_images=3, tolerance=0.1)
    return {**small, "ode": ode, "extractor": Module(path="mine.py:features"), **changes}


@pytest.fixture(scope="module")
def evaluated(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluation, dict[str, set[bool]]]:
    """The trained runs with the parts and the cache of an evaluation of `digits`, with 4 features
    of a user's; the evaluation; and what progress was told.
    """
    folder = tmp_path_factory.mktemp("evaluated") / "runs"
    shutil.copytree(trained, folder)
    (folder / "mine.py").write_text(USERS)
    told: dict[str, set[bool]] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        result = Run("digits").evaluate(**few(), start=noting(told))
    return folder, result, told


def noting(told: dict[str, set[bool]]) -> Any:
    """Note whether the parts of each piece of work were kept."""

    def start(what: str, total: int, unit: str) -> Any:
        del total, unit
        told[what] = set()
        return lambda num, is_kept=False: told[what].add(is_kept)

    return start


@pytest.fixture
def first(evaluated: Any) -> Evaluation:
    return evaluated[1]


@pytest.fixture(autouse=True)
def here(evaluated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the evaluated runs to spoil, as the current directory."""
    shutil.copytree(evaluated[0], tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "runs/cache"))
    return tmp_path / "runs"


def changed(run: Run, **changes: Any) -> Run:
    """A copy of a run with other attributes; those that its configuration determines follow it."""
    run = copy.copy(run)
    if "config" in changes:
        config = changes["config"]
        changes = {"schedule": config.schedule, "precision": config.precision, **changes}
    vars(run).update(changes)
    return run


def fail(*_: Any, **__: Any) -> None:
    raise AssertionError("is called")


# --- what is measured ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "conditions"),
    [("digits", ["unconditional", "given_label"]), ("toy", ["unconditional"])],
)
def test_an_evaluation_is_of_one_piece(first: Evaluation, name: str, conditions: list[str]) -> None:
    """Terms add up, curves end at the bound, the theorem holds (|z| < 4.5), and counts agree."""
    run = Run(name)
    result = first if name == "digits" else run.evaluate(**few())
    assert list(result.results) == conditions
    assert result.num_evaluations == len(conditions) * (20 * 2 * 4 + 10 * 120)
    assert result.trained["images_seen"] == {"digits": 64, "toy": 1024}[name]
    for part in ("weighting", "schedule", "parameterization", "network", "optimizer"):
        assert result.trained[part] == repr(getattr(run.config, part))
    for item in result.results.values():
        terms = item.decoder_bpd + item.diffusion_bpd + item.prior_bpd
        assert item.bits_per_dim == pytest.approx(terms, abs=1e-5)
        assert len(item.curve.logsnr) == len(item.curve.nats_per_dim) == 6
        decoder = math.log(2) * item.decoder_bpd
        nats = item.bits_per_dim * math.log(2)
        assert item.elbo.nats_per_dim[-1] + decoder == pytest.approx(nats, rel=1e-6)
        assert max(abs(check.z) for check in item.weightings) < 4.5
        assert item.ode.num_images == 3
    assert (result.quality is not None) == (name == "digits")


def test_the_command_writes_what_python_returns(
    elbos: Elbos, first: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To eval.json and standard output; the terminal and the page show what was trained."""
    monkeypatch.setenv("COLUMNS", "1000")
    shown = elbos(*COMMAND).out
    assert Evaluation.load("digits/eval.json") == first
    assert len(repr(first)) < 200
    assert json.loads(elbos(*COMMAND, "--json").out) == first.to_dict()
    text = html.unescape(re.sub("<.*?>", "", Path("digits/eval.html").read_text()))
    for part in ("weighting", "schedule", "parameterization", "network", "optimizer"):
        assert first.trained[part] in shown
        assert first.trained[part] in text


def test_a_metric_of_ones_own_is_found_everywhere() -> None:
    def mean_feature(sets: FeatureSets) -> Value:
        return Value(sets.samples.pooled.mean().item(), 0.01)

    mine = SampleMetric("mine", "mean feature", "mine", is_lower_better=True, compute=mean_feature)
    SAMPLE_METRICS.append(mine)
    try:
        result = Run("digits").evaluate(**few())
        assert result.quality.metrics[-1] is mine
        content = result.to_dict()
        assert content["quality"]["scores"]["mine"]["value"] == result.quality.scores["mine"].value
        assert Evaluation.from_dict(content) == result
        assert "mean feature" in page([result]).html()
        tables = (part for part in terminal(result).parts if isinstance(part, Table))
        heads = [column.title for table in tables for column in table.heads]
        assert "mean feature" in heads
    finally:
        SAMPLE_METRICS.remove(mine)
    assert Evaluation.from_dict(content) == result  # whoever reads it need not know the metric


# --- what is kept --------------------------------------------------------------------------------


def test_a_second_time_nothing_is_computed(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And progress is told so: parts were not kept before, and are now."""
    _, first, computed = evaluated
    read: dict[str, set[bool]] = {}
    monkeypatch.setattr(quality, "sample_batches", fail)
    monkeypatch.setattr(quality, "extract", fail)
    monkeypatch.setattr(validator, "eps_errors", fail)
    assert Run("digits").evaluate(**few(), start=noting(read)) == first
    for flags in (computed, read):  # the reference is another test's, too
        flags.pop("features of train+val images", None)
    assert computed.keys() == read.keys()
    assert {what.split(",")[-1] for what in read} >= {" pilot", " round 2", " ODE"}
    assert (set.union(*computed.values()), set.union(*read.values())) == ({False}, {True})


def test_what_ctrl_c_interrupts_is_one_line_and_resumes(
    elbos: Elbos, here: Path, first: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    parts = sorted((here / "digits/evaluation").rglob("*.safetensors"))
    lost = [path for i, path in enumerate(parts) if not i % 2 or "samples-" in str(path)]
    times = {path: path.stat().st_mtime_ns for path in parts if path not in lost}
    for path in lost:
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(quality, "sample_batches", stop)
        result = elbos(*COMMAND)
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("elbos: ")
    assert not (here / "digits/eval.json").exists()
    assert not list((here / "digits").rglob("*.partial"))
    assert elbos(*COMMAND).status == 0
    assert Evaluation.load("digits/eval.json") == first
    assert sorted((here / "digits/evaluation").rglob("*.safetensors")) == parts
    assert {path: path.stat().st_mtime_ns for path in times} == times


def other_precision(run: Run) -> Run:
    precision = {"bf16": "fp32", "fp32": "bf16"}[run.config.precision]
    return changed(run, config=replace(run.config, precision=precision))


def other_levels(run: Run) -> Run:
    schedule = replace(run.config.schedule, logsnr_min=-5.0)
    return changed(run, config=replace(run.config, schedule=schedule))


@pytest.mark.parametrize(
    "other",
    [
        other_precision,
        other_levels,
        lambda run: changed(run, device=torch.device("meta")),
        lambda run: changed(run, weights_digest=lambda: "others"),
        lambda run: changed(run, dataset=replace(run.dataset, test=run.dataset.val)),
    ],
    ids=["precision", "levels", "device", "weights", "data"],
)
def test_all_that_numbers_depend_on_is_part_of_the_key(other: Any) -> None:
    run = Run("digits")
    assert model_store(run, "x", seed=0) == model_store(Run("digits"), "x", seed=0)
    assert model_store(run, "x", seed=0) != model_store(other(run), "x", seed=0)
    assert model_store(run, "x", seed=0) != model_store(run, "x", seed=1)


def test_the_baseline_is_computed_once_for_all_runs_on_the_same_data(
    here: Path, first: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, extract = [], quality.extract
    monkeypatch.setattr(quality, "extract", lambda *a, **k: seen.append(a) or extract(*a, **k))
    other = changed(Run("digits"), weights_digest=lambda: "of another run")
    assert other.evaluate(**few(ode=NO_ODE)).quality == first.quality
    assert len(seen) == 1  # of samples
    (here / "mine.py").write_text(USERS.replace("255", "2"))
    actual = Run("digits").evaluate(**few(ode=NO_ODE)).quality
    assert actual.baseline != first.quality.baseline
    assert len(seen) == 3


# --- what cannot be measured ---------------------------------------------------------------------


def test_a_pilot_too_small_to_tune_is_refused_before_it_is_measured() -> None:
    told: dict[str, set[bool]] = {}
    with pytest.raises(ValueError, match=r"num_pilot_images.*5.*8"):
        Run("digits").evaluate(**few(num_pilot_images=5, seed=1), start=noting(told))
    assert not told


def test_what_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses with a target, too, which they would never reach."""
    bad = torch.full((41, 1, 8, 8), math.nan)
    monkeypatch.setattr(quality, "sample_batches", lambda *_, **__: [bad])
    with pytest.raises(ValueError, match="41 of 41"):
        Run("digits").evaluate(**few(num_samples=41))

    def eps_errors(denoiser: Any, x: Tensor, *_: Any) -> Tensor:
        return math.nan * x

    monkeypatch.setattr(validator, "eps_errors", eps_errors)
    with pytest.raises(ValueError, match="1200 of 1200"):
        Run("digits").evaluate(**few(seed=1, target_se=0.1))


def test_what_is_missing_is_said_before_anything_is_measured(elbos: Elbos, here: Path) -> None:
    for words in (["missing"], ["extractor:inception", "--extractor.weights", "missing.pth"]):
        assert_one_line(elbos("evaluate", "digits", *words), "missing", statuses=(1,))
    (here / "digits/eval.html").mkdir()
    assert_one_line(elbos("evaluate", "digits", *FEW), "eval.html", statuses=(1,))
    assert not (here / "digits/eval.json").exists()


# --- several -------------------------------------------------------------------------------------


def test_several_runs_are_a_table(elbos: Elbos) -> None:
    words = ["evaluate", "digits", "toy", *LIKELIHOOD]
    text = elbos(*words).out
    table = text[text.rindex("runs") :]
    assert "digits" in table and "toy" in table
    both = json.loads(elbos(*words, "--json").out)
    assert both == [Evaluation.load(f"{name}/eval.json").to_dict() for name in ("digits", "toy")]


def test_a_model_that_fails_is_named_and_the_others_are_measured(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(model: Run, *rest: Any) -> Evaluation:
        if model.name == "digits":
            raise ValueError("3 of 8 losses are NaN")
        return evaluate(model, *rest)

    evaluate = evaluate_verb.evaluate
    monkeypatch.setattr(evaluate_verb, "evaluate", failing)
    result = elbos("evaluate", "digits", "toy", *LIKELIHOOD)
    assert result.status == 1 and result.err.splitlines()[-1].startswith("elbos: digits: 3 of 8")
    assert not [*Path("digits").glob("eval.*")]
    assert {path.name for path in Path("toy").glob("eval.*")} == {"eval.json", "eval.html"}


@pytest.mark.parametrize(
    ("words", "num_steps"),
    [(["--num-images", "9"], [2, 3]), (["--num-steps", "4"], [4, 4]), (["sampler:heun"], [2, 2])],
    ids=lambda value: " ".join(map(str, value)),
)
def test_an_option_of_sampling_is_for_all_models(
    elbos: Elbos, monkeypatch: pytest.MonkeyPatch, words: list[str], num_steps: list[int]
) -> None:
    config = Path("toy/config.json")
    content = json.loads(config.read_text())
    content["sampling"]["num_steps"] = 3
    config.write_text(json.dumps(content))
    actual = []

    def note(model: Run, config: EvaluationConfig, sampling: Sampling) -> None:
        actual.append(sampling)
        if len(actual) == 2:
            raise ValueError("that is all")

    monkeypatch.setattr(evaluate_verb, "require_measurable", note)
    assert_one_line(elbos("evaluate", "digits", "toy", *words), "that is all")
    assert [item.num_steps for item in actual] == num_steps


def test_the_difference_of_two_models_is_paired_over_images(first: Evaluation) -> None:
    """Here of one network with and without labels, as if they were two models."""
    free, inputs = first.results.values()
    other = replace(first, results={"unconditional": inputs})
    (actual,) = other.difference(first).values()
    assert free.rounds is not None and inputs.rounds is not None
    assert actual.mean == pytest.approx(inputs.bits_per_dim - free.bits_per_dim, abs=1e-6)
    gaps = (inputs.rounds.bound - free.rounds.bound).mean(1).numpy() / math.log(2)
    assert actual.standard_error == pytest.approx(gaps.std(ddof=1) / math.sqrt(20), rel=1e-5)
    assert actual.standard_error < 0.5 * math.hypot(free.standard_error, inputs.standard_error)
    assert other.difference(replace(first, results={})) == {}
    (curve,) = other.difference_by_level(first).values()
    width = (curve.logsnr[-1] - curve.logsnr[0]) / 11  # the bins add up to the bound, in nats
    diffusion = (inputs.diffusion_bpd - free.diffusion_bpd) * math.log(2)
    assert width * sum(curve.nats_per_dim) == pytest.approx(diffusion, rel=1e-4)
    text = browsing.words(page([first, other]).html())
    gap = plus_minus(actual.mean, actual.standard_error)
    assert text.index(gap) < text.index("term by term") and text.count("term by term") == 2
    shown = [row[3] for row in runs_table([first, other]).rows]
    assert shown == ["", "", gap]


def test_evaluations_of_other_images_have_no_difference(first: Evaluation) -> None:
    protocol = replace(first.protocol, data_sha256="0")
    rest = replace(first, split="val"), replace(first, protocol=protocol)
    for other in (*rest, Evaluation.from_dict(first.to_dict())):
        with pytest.raises(ValueError):
            first.difference(other)
        titles = [item.title for item in runs_table([first, other]).heads]
        assert not any(title.startswith("minus the first") for title in titles)
