"""`elbos evaluate`: the standard set, kept part by part, with its protocol."""

import copy
import html
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Elbos, assert_one_line
from torch import Tensor

from elbos import files
from elbos.evaluation import likelihood, quality, samples
from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.estimators import Statistics
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.features import Extractor, Module
from elbos.evaluation.metrics import FRECHET_DISTANCE, KERNEL_DISTANCE
from elbos.evaluation.reference import Reference
from elbos.evaluation.result import Evaluation
from elbos.evaluation.stores import run_store
from elbos.likelihood.measurements import NUM_BINS
from elbos.report.evaluation import evaluation_page
from elbos.schedules import EDMSampling
from elbos.training.data import Split
from elbos.training.run import Run

FEW = ["--num-images", "20", "--num-pilot-images", "10", "--ode.num-images", "3"]
USERS = """
def features(images):
    return images.float().flatten(1)[:, ::48] / 255
"""


@pytest.fixture
def few(runs: Path) -> list[str]:
    """Options for a quick evaluation with a user's own features, 4 of them."""
    (runs / "mine.py").write_text(USERS)
    return [*FEW, "--num-samples", "40", "extractor:module", "--extractor.path", "mine.py:features"]


@pytest.mark.parametrize(
    ("run", "names"), [("digits", ["unconditional", "given_label"]), ("toy", ["unconditional"])]
)
def test_an_evaluation_comes_with_its_protocol(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    run: str,
    names: list[str],
) -> None:
    result = json.loads(elbos("evaluate", run, "--json", *few).out)
    assert result == json.loads((runs / run / "eval.json").read_text())
    assert list(result["results"]) == names
    assert (result["num_images"], result["split"]) == (20, "test")
    assert result["num_evaluations"] == len(names) * (20 * 2 * 4 + 10 * 120)
    assert result["images_seen"] == {"digits": 64, "toy": 1024}[run]
    config = Run(runs / run).config
    trained = result["trained"]
    for part in ("weighting", "schedule", "parameterization", "network", "optimizer"):
        assert trained[part] == repr(getattr(config, part))
    assert (trained["images_seen"], trained["batch_size"]) == (
        result["images_seen"],
        config.batch_size,
    )
    for row in result["results"].values():
        terms = [row[f"{term}_bpd"] for term in ("decoder", "diffusion", "prior")]
        assert row["bits_per_dim"] == pytest.approx(sum(terms), abs=1e-5)
        assert row["nats_per_dim"] == pytest.approx(row["bits_per_dim"] * math.log(2), rel=1e-9)
        assert row["standard_error"] > 0
        assert {len(values) for values in row["curve"].values()} == {48}
        assert row["elbo"]["nats_per_dim"][-1] + math.log(2) * row["decoder_bpd"] == pytest.approx(
            row["nats_per_dim"], rel=1e-6
        )
        assert max(abs(side["z"]) for side in row["weightings"]) < 4.5
        assert row["ode"]["num_images"] == 3
        assert (row["exact_bits_per_dim"] is not None) == (run == "toy")
    needed = {"num_levels", "data", "logsnr_min", "num_pilot_levels", "precision", "seed"}
    assert needed < result["protocol"].keys()
    if run == "digits":
        protocol = result["quality"]["protocol"]
        assert protocol["num_samples"] == 40
        assert (protocol["num_reference"], protocol["reference"]) == (1500, "train+val")
        assert protocol["num_features"] == 4
        assert result["quality"]["baseline"]["num"] == 40
        assert result["quality"]["matched"] is None
    assert (result["quality"] is not None) == (run == "digits")


def changed(run: Run, **changes: Any) -> Run:
    """A copy of a run with other attributes."""
    run = copy.copy(run)
    vars(run).update(changes)
    return run


def test_what_was_trained_is_shown(
    elbos: Elbos, few: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal and on the page: every part, by its name."""
    monkeypatch.setenv("COLUMNS", "1000")
    out = elbos("evaluate", "digits", *few).out
    page = html.unescape(re.sub("<.*?>", "", (runs / "digits/eval.html").read_text()))
    trained = json.loads((runs / "digits/eval.json").read_text())["trained"]
    for part in ("weighting", "schedule", "parameterization", "network", "optimizer"):
        assert trained[part] in out
        assert trained[part] in page


def test_the_grid_is_the_one_that_was_sampled(runs: Path) -> None:
    """Within the noise levels of the training, whatever the ends of the schedule it is of."""
    run = Run(runs / "digits")
    trained = replace(run.config.schedule, logsnr_min=-3.0, logsnr_max=2.0)
    run = changed(run, config=replace(run.config, schedule=trained))
    statistics = Statistics.from_features(
        torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    )
    reference = Reference(statistics, torch.zeros(9, 2), 0.0, "x", "x", "train", (1, 8, 8))
    judge = quality.Scorer(run, Extractor("x", lambda _: None), reference)
    sampling = replace(run.config.sampling, grid=EDMSampling())
    grid = replace(EDMSampling(), logsnr_min=-3.0, logsnr_max=2.0)
    assert judge.protocol(sampling, 9, range(1)).grid == repr(grid)
    levels = sampling.logsnrs(trained)
    assert (levels[0].item(), levels[-2].item()) == pytest.approx((-3.0, 2.0))  # then no noise


@pytest.mark.parametrize("num", [1, 5, 37, 38, 39, 500])
def test_each_bin_of_the_pilot_has_25_losses(num: int) -> None:
    times = likelihood.num_pilot_levels(num)
    assert num * times >= 25 * NUM_BINS
    assert times == 32 or (times > 32 and num * (times - 1) < 25 * NUM_BINS)
    assert likelihood.num_pilot_levels(likelihood.MIN_PILOT_IMAGES) == 32


def test_a_second_time_nothing_is_computed(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = elbos("evaluate", "digits", *few)
    assert "bits/dim" in first.out
    before = (runs / "digits/eval.json").read_bytes()
    monkeypatch.setattr(samples, "sample", None)  # whoever calls them fails
    monkeypatch.setattr(quality, "scores", None)
    assert elbos("evaluate", "digits", *few).out == first.out
    assert (runs / "digits/eval.json").read_bytes() == before


@pytest.mark.usefixtures("few")
def test_progress_is_told_what_was_kept(runs: Path) -> None:
    config = EvaluationConfig(
        num_images=20,
        num_pilot_images=10,
        ode=OdeConfig(num_images=3),
        num_samples=40,
        extractor=Module(path="mine.py:features"),
    )
    run = Run(Path("digits"))

    def told() -> dict[str, set[bool]]:
        """Whether pieces of work were kept, by their names."""
        found: dict[str, set[bool]] = {}

        def start(what: str, total: int, unit: str) -> Callable[..., None]:
            found[what] = set()
            return lambda num, is_kept=False: found[what].add(is_kept)

        evaluate(run, config, start=start)
        return {what: kept for what, kept in found.items() if "features" not in what}

    first, second = told(), told()
    assert first.keys() == second.keys()
    assert set(map(tuple, first.values())) == {(False,)}
    assert set(map(tuple, second.values())) == {(True,)}
    assert {what.split(",")[-1] for what in first} >= {" pilot", " round 2", " ODE"}


def test_an_interrupted_evaluation_goes_on(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = elbos("evaluate", "digits", *few, "--json").out
    parts = sorted((runs / "digits/evaluation").rglob("*.safetensors"))
    times = [path.stat().st_mtime_ns for path in parts]
    (runs / "digits/eval.json").unlink()
    for path in parts[::2]:
        path.unlink()
    assert elbos("evaluate", "digits", *few, "--json").out == expected
    assert sorted((runs / "digits/evaluation").rglob("*.safetensors")) == parts
    assert [path.stat().st_mtime_ns for path in parts[1::2]] == times[1::2]


def test_ctrl_c_is_one_line_and_leaves_whole_parts(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "sample", stop)
    result = elbos("evaluate", "digits", *few)
    assert result.status == 1
    assert "the same command goes on" in result.err.splitlines()[-1]
    assert not (runs / "digits/eval.json").exists()
    assert not list((runs / "digits").rglob("*.partial"))
    monkeypatch.undo()
    monkeypatch.chdir(runs)
    assert elbos("evaluate", "digits", *few).status == 0


def test_samples_that_are_not_finite_are_one_line(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        samples, "sample", lambda *_, **__: iter([torch.full((40, 1, 8, 8), math.nan)])
    )
    result = elbos("evaluate", "digits", *few)
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("elbos: 40 of 40 samples hold NaN")
    assert not (runs / "digits/eval.json").exists()


def test_losses_that_are_not_finite_are_one_line(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a target, too, which they would never reach."""

    def losses_at(denoiser: Any, x: Tensor, logsnr: Tensor, **_: Any) -> Tensor:
        return torch.full(logsnr.shape, math.nan)

    monkeypatch.setattr(likelihood, "losses_at", losses_at)
    result = elbos("evaluate", "digits", "--target-se", "0.1", *few)
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("elbos: 1200 of 1200 losses are NaN or infinity")
    assert not (runs / "digits/eval.json").exists()


def test_other_data_than_in_training_are_noticed(elbos: Elbos, runs: Path) -> None:
    file = runs / "digits/data.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": "0"}))
    assert_one_line(
        elbos("evaluate", "digits"), "The data are not those", "data.json", statuses=(1,)
    )


def test_what_is_missing_is_said_before_anything_is_measured(elbos: Elbos, runs: Path) -> None:
    for words in (["missing"], ["extractor:inception", "--extractor.weights", "missing.pth"]):
        assert_one_line(elbos("evaluate", "digits", *words), "missing", statuses=(1,))
    (runs / "digits/eval.html").mkdir()
    assert_one_line(elbos("evaluate", "digits", *FEW), "eval.html", statuses=(1,))
    assert not (runs / "digits/eval.json").exists()


def test_rounds_go_on_until_the_target(elbos: Elbos, runs: Path) -> None:
    words = ["evaluate", "digits", *FEW, "--num-samples", 0, "--ode.num-images", 0, "--json"]
    free = json.loads(elbos(*words).out)["results"]["given_label"]
    assert free["num_rounds"] == 2
    assert free["is_target_reached"] is None
    target = math.hypot(free["floor"], 0.5 * free["measurement_error"])
    found = json.loads(elbos(*words, "--target-se", target).out)["results"]["given_label"]
    assert found["num_rounds"] > 2
    assert found["is_target_reached"] == (found["standard_error"] <= target)
    assert found["is_target_reached"] or found["measurement_error"] < 0.25 * found["floor"]


def test_several_runs_are_a_table(elbos: Elbos, runs: Path) -> None:
    words = ["evaluate", "digits", "toy", *FEW, "--num-samples", 0]
    text = elbos(*words).out
    table = text[text.rindex("runs") :]
    assert "digits" in table
    assert "toy" in table
    both = json.loads(elbos(*words, "--json").out)
    assert [result["run"] for result in both] == ["digits", "toy"]
    for result in both:
        assert result == json.loads((runs / result["run"] / "eval.json").read_text())


def test_a_sweep_has_a_point_for_every_sampler_and_grid(
    elbos: Elbos,
    runs: Path,
    few: list[str],
) -> None:
    words = [*few[:6], "--sweep", "--sweep-evaluations", "4", "--sweep-samples", "20", *few[6:]]
    result = json.loads(elbos("evaluate", "digits", *words, "--json").out)
    points = result["sweep"]["points"]
    assert len({(point["sampler"], point["grid"]) for point in points}) == len(points)
    assert {point["num_evaluations"] for point in points} <= {3, 4}
    best = min(point["frechet_distance"] for point in points)
    assert result["sweep"]["best"]["frechet_distance"] == best
    page = (runs / "digits/eval.html").read_text()
    assert "data:image/png;base64" in page


def test_few_test_images_leave_the_baseline_open(runs: Path, few: list[str]) -> None:
    """And nothing else: samples are scored, and all is shown."""
    run = Run(runs / "digits")
    test = Split(run.dataset.test.x[:12], None)
    run.dataset = replace(run.dataset, test=test)
    config = EvaluationConfig(
        split="val",
        num_images=20,
        num_pilot_images=10,
        ode=OdeConfig(num_images=0),
        num_samples=40,
        extractor=Module(path="mine.py:features"),
        sweep=True,
        sweep_evaluations=(4,),
        sweep_samples=20,
    )
    result = evaluate(run, config)
    assert result.quality.baseline == result.sweep.baseline
    assert (result.sweep.baseline.num, result.sweep.baseline.scores.values) == (12, {})
    assert result.quality.matched is None
    assert result.quality.samples[FRECHET_DISTANCE].value > 0
    assert "baseline: 12 test images" in evaluation_page(result)


def test_more_samples_than_test_images_are_compared_at_their_number(
    elbos: Elbos, runs: Path, few: list[str]
) -> None:
    """Real images and as many of the samples; the kernel distance is of all, and leads if few."""
    num_test = len(Run(runs / "digits").dataset.test)
    words = [str(num_test + 20) if word == "40" else word for word in few]
    assert elbos("evaluate", "digits", *words).status == 0
    page = re.sub("<.*?>", "", (runs / "digits/eval.html").read_text())
    assert f"seed 0, the first {num_test} samples" in page
    found = json.loads((runs / "digits/eval.json").read_text())["quality"]
    read = Evaluation.load(runs / "digits/eval.json").quality
    fewer = json.loads(elbos("evaluate", "digits", *few, "--json").out)["quality"]
    assert fewer["baseline"]["num"] == 40
    assert found["baseline"]["num"] == found["matched"]["num"] == num_test
    ((whole,), (first,)) = found["sets"], found["matched"]["sets"]
    assert first["frechet_distance"] != whole["frechet_distance"]
    assert first["kernel_distance"] is None
    assert found["matched"]["mean"]["frechet_distance"] == first["frechet_distance"]
    assert read.comparable(FRECHET_DISTANCE) == read.matched
    assert read.comparable(KERNEL_DISTANCE) == read.samples
    (one,) = read.matched.sets
    scored = quality.ScoredSamples(read.samples.sets[0].scores, one.scores).comparable
    assert scored[FRECHET_DISTANCE].value == first["frechet_distance"]
    assert scored[KERNEL_DISTANCE].value == whole["kernel_distance"]
    assert read.metrics[0] is FRECHET_DISTANCE
    many = replace(read, protocol=replace(read.protocol, num_features=num_test + 1))
    assert many.metrics[0] is KERNEL_DISTANCE


def test_the_weights_are_part_of_the_key(
    elbos: Elbos,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["evaluate", "digits", *FEW, "--num-samples", 0, "--ode.num-images", 0, "--json"]
    first = json.loads(elbos(*words).out)
    monkeypatch.setattr(Run, "weights_digest", lambda _: "others")
    folders = set((runs / "digits/evaluation").iterdir())
    assert json.loads(elbos(*words).out) == first  # the same weights after all
    assert len(set((runs / "digits/evaluation").iterdir())) == 2 * len(folders)


def test_what_was_half_written_is_deleted(runs: Path) -> None:
    """By a process that is gone, as after kill -9."""
    run = Run(runs / "digits")
    folder = run_store(run, "x", seed=0).folder
    folder.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = files.partial(Path("x")).name.split(".")[2]
    (folder / f".00000.safetensors.{here}.{dead.pid}.partial").touch()
    assert not list(run_store(run, "x", seed=0).folder.iterdir())


def test_the_baseline_is_computed_once_for_all_runs_on_the_same_data(
    elbos: Elbos,
    runs: Path,
    few: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["evaluate", "digits", *few, "--json"]
    first = json.loads(elbos(*words).out)["quality"]
    scored, score = [], quality.scores
    monkeypatch.setattr(quality, "scores", lambda *a, **k: scored.append(a) or score(*a, **k))
    monkeypatch.setattr(Run, "weights_digest", lambda _: "of another run")
    assert json.loads(elbos(*words).out)["quality"] == first
    assert len(scored) == 1  # of samples
    monkeypatch.setattr(Run, "weights_digest", lambda _: "of a third run")
    (runs / "mine.py").write_text(USERS.replace("255", "2"))
    assert json.loads(elbos(*words).out)["quality"]["baseline"] != first["baseline"]


def test_scores_of_another_estimator_are_not_read(
    elbos: Elbos, runs: Path, few: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elbos("evaluate", "digits", *few)
    scored, score = [], quality.scores
    monkeypatch.setattr(quality, "scores", lambda *a, **k: scored.append(a) or score(*a, **k))
    monkeypatch.setattr(quality, "_ESTIMATORS", 0)
    assert elbos("evaluate", "digits", *few).status == 0
    assert scored


def other(run):
    """The precision that a run does not have."""
    return {"bf16": "fp32", "fp32": "bf16"}[run.config.precision]


OTHERS = {
    "device": lambda run: changed(run, device=torch.device("meta")),
    "precision": lambda run: changed(run, config=replace(run.config, precision=other(run))),
    "levels": lambda run: changed(
        run,
        config=replace(run.config, schedule=replace(run.config.schedule, logsnr_min=-5.0)),
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_how_it_is_measured_is_part_of_the_key(runs: Path, other: Callable[[Run], Run]) -> None:
    run = Run(runs / "digits")
    assert run_store(run, "x", seed=0) == run_store(run, "x", seed=0)
    assert run_store(run, "x", seed=0) != run_store(other(run), "x", seed=0)


def test_scores_are_of_the_function_that_is_named(elbos: Elbos, runs: Path, few: list[str]) -> None:
    """Also where only its classes are new, and its features as they were."""
    words = ["evaluate", "digits", *few, "--json"]
    before = json.loads(elbos(*words).out)["quality"]["mean"]
    with_classes = USERS.rstrip() + ", images.float().flatten(1)[:, :3]\n"
    (runs / "mine.py").write_text(with_classes)
    after = json.loads(elbos(*words).out)["quality"]["mean"]
    assert not {"classifier_score", "inception_score"} & before.keys()
    assert after.pop("classifier_score") >= 1
    assert after == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["extractor:inception"], "weights"),
        (["extractor:inception", "--extractor.weights", "nope.pth"], "nope.pth"),
        (["extractor:inception", "--extractor.weights", "mine.py"], "mine.py"),
        (["extractor:module", "--extractor.path", "mine.py:nope"], "nope"),
        (["extractor:module", "--extractor.path", "nope.py:f"], "nope.py"),
    ],
    ids=" ".join,
)
def test_an_unusable_extractor_is_one_line(
    elbos: Elbos,
    few: list[str],
    words: list[str],
    part: str,
) -> None:
    result = elbos("evaluate", "digits", *few[:8], *words)
    last = result.err.splitlines()[-1]
    assert result.status == 1
    assert last.startswith("elbos: ")
    assert part in last
