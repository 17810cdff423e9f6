"""`elbos.compare` and `elbos compare`: each run is made once, whatever happens."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line, snapshot
from comparing import USERS, Here, own_folder, small_experiment

import elbos
from elbos.base.errors import Interrupted
from elbos.comparison import job as job_module
from elbos.comparison.compare import run_experiment
from elbos.comparison.result import Comparison
from elbos.comparison.scores import read_scores
from elbos.comparison.variants import VARIANTS
from elbos.models.networks import MLPConfig
from elbos.theory import weightings
from elbos.training.data.dataset import Dataset
from elbos.training.loop import Loss


def compared(experiment, path="c", **options):
    """The comparison, and the runs that were made for it."""
    return run_experiment(experiment, Path(path), executor := Here(), **options), executor.made


def first(experiment, num=1):
    """The experiment with its first objectives only."""
    return replace(experiment, objectives=experiment.objectives[:num])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the comparison `c` of two objectives, its result, and the runs made for it."""
    with own_folder(tmp_path_factory.mktemp("finished")) as path:
        return path, *compared(first(small_experiment(), 2))


@pytest.fixture
def done(finished, folder):
    """The result of that comparison, of which a copy is in the current folder."""
    path, actual, _ = finished
    shutil.copytree(path / "c", "c")
    return actual


def checkpoints():
    """When each run's last checkpoint was written."""
    return {str(path): path.stat().st_mtime_ns for path in Path().glob("c/runs/*/checkpoints/*5")}


def test_a_dry_run_prints_what_would_be_done_and_writes_nothing(elbos, folder):
    before = snapshot(folder)
    result = elbos("compare", "digits", "--objectives", "edm", "elbo", "--dry-run")
    shown = json.loads(result.out)
    assert [*shown["objectives"]] == ["edm", "elbo"]
    assert "logsnr_min=-8.0" in shown["objectives"]["elbo"]
    assert "10 runs" in result.err and "120,000 images" in result.err and "198,000" in result.err
    assert snapshot(folder) == before


def test_what_is_done_is_not_done_again(small, finished, done):
    """Not by the same command, and not where an objective and a seed are added."""
    assert finished[-1] == ["iddpm-0", "edm-0"]
    assert {path.name for path in Path("c").iterdir()} == {
        *(".lock", "compare.json", "runs", "report.json", "report.md", "report.html")
    }
    assert compared(first(small, 2)) == (done, [])
    weights = checkpoints()
    after, _ = compared(replace(small, objectives=small.objectives[1:], seeds=(0, 1)))
    assert len(after.complete) == 2
    assert len(checkpoints()) == 5
    assert weights.items() <= checkpoints().items()  # only losses under the new weighting are new
    assert done.values["edm"]["bits_per_dim"][0] == after.values["edm"]["bits_per_dim"][0]


def test_python_compares_as_the_command_does(small, folder):
    """Objectives by name, as text and as variants; seeds by their number, of numpy, too."""
    mine = replace(VARIANTS["elbo"], name="mine")
    actual = elbos.compare(
        ["iddpm", "held=V(),Adaptive(),ELBO()", mine],
        data=small.config,
        seeds=np.int64(1),
        out="c",
        scoring=small.scoring,
        executor=Here(),
    )
    assert [item.name for item in actual.objectives] == ["iddpm", "held", "mine"]
    assert actual.seeds == (0,)
    assert actual.values["held"] == actual.values["mine"]
    assert Comparison.from_dict(json.loads(Path("c/report.json").read_text())) == actual


@pytest.mark.parametrize(
    ("wrong", "needed"),
    [
        ({"objectives": "edm"}, "objectives is 'edm'"),
        ({"objectives": ["edn"]}, "edn"),
        ({"data": "nope"}, "nope"),
        ({"seeds": 0}, "a seed"),
        ({"seeds": [0, 1.5]}, r"seeds is \[0, 1\.5\]"),
    ],
)
def test_what_cannot_be_compared_is_named(folder, unchecked, wrong, needed):
    with pytest.raises(ValueError, match=needed):
        elbos.compare(**{"objectives": ["edm"], "data": "digits", **wrong})
    assert not Path("runs").exists()


def test_an_objective_that_diverges_is_reported_and_the_others_go_on(small, folder, monkeypatch):
    """Through the real loop: one's losses become NaN at its third step."""
    forward = Loss.forward

    def poisoned(self, x, levels, cond, step, samples):
        is_bad = isinstance(self._objective.weighting, weightings.EDM) and step == 2
        return forward(self, x * float("nan") if is_bad else x, levels, cond, step, samples)

    monkeypatch.setattr(Loss, "forward", poisoned)
    few = replace(small, objectives=small.objectives[1:])
    actual, made = compared(few)
    assert [item.name for item in actual.complete] == [few.objectives[1].name]
    (failure,) = actual.objectives[0].failures
    assert failure.seed == 0 and "step 2" in failure.reason
    assert len(made) == 2
    again, made = compared(few)  # from its last checkpoint, and it diverges again
    assert (again, made) == (actual, ["edm-0"])


def test_a_run_that_failed_is_tried_again(small, folder, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device", "checkpoints")

    few = first(small)
    with monkeypatch.context() as context:
        context.setattr(job_module, "train", broken)
        actual, made = compared(few)
        assert len(made) == 1  # once, not for ever
    assert not actual.complete and "checkpoints" in actual.objectives[0].failures[0].reason
    actual, _ = compared(few)
    assert actual.complete


def test_a_directory_belongs_to_one_comparison(small, done):
    other = replace(small, config=replace(small.config, num_images=384))
    with pytest.raises(ValueError, match="num_images = 320, not 384"):
        compared(other)
    scoring = replace(small.scoring, num_samples=30)
    with pytest.raises(ValueError, match=r"scoring\.num_samples = 2000, not 30"):
        compared(replace(small, scoring=scoring))
    Path("other").mkdir()
    Path("other/file").touch()
    with pytest.raises(ValueError, match=r"file and no compare\.json"):
        compared(small, "other")


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--seeds", "0", "0"], "seed 0"),
        (["--objectives", "edm", "edm"], "objective edm"),
        (["--seed", "3"], "--seeds"),
        (["weighting:elbo"], "--objectives"),
        (["--workers", "0"], "workers is 0"),
        (["--scoring.num-samples", "3"], "num_samples 3"),
        (["--samplers", "fast=Heun()"], "fast"),
        (["--samplers", "a=Heun(),9", "a=Ancestral(),9"], "sampler 'a'"),
        (["--out", "mine.py"], "mine.py"),
        (["--ray"], "elbos[ray]"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(elbos, folder, monkeypatch, words, needed):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    few = [] if ":" in words[0] or "--objectives" in words else ["--objectives", "edm"]
    assert_one_line(elbos("compare", "digits", *words, *few), needed)
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def test_scores_that_are_not_as_they_were_written_are_measured_again(small, done):
    few = first(small, 2)
    file = Path("c/runs/iddpm-0/scores.json")
    content, config = file.read_text(), few.run_config(few.objectives[0], 0)
    for wrong in ("", "[]", content[:-9], content.replace('"num_images": 20', '"num_images": 21')):
        file.write_text(wrong)
        assert read_scores(file.parent, config, few.scoring) is None, wrong
    assert compared(few) == (done, ["iddpm-0"])
    assert file.read_text() == content


def test_a_comparison_is_of_the_same_data_and_features_to_its_end(pictures, folder, monkeypatch):
    few = first(pictures)
    compared(few)
    before = {path: path.read_bytes() for path in Path("c").glob("report.*")}
    more = replace(few, seeds=(0, 1))
    with monkeypatch.context() as context:
        context.setattr(Dataset, "fingerprint", lambda _: {"sha256": "of others"})
        with pytest.raises(ValueError, match="data"):
            compared(more)
    (folder / "mine.py").write_text(USERS.replace("255", "254"))
    with pytest.raises(ValueError, match=r"features = mine.py:features, file sha256 \w+, not"):
        compared(more)
    assert before == {path: path.read_bytes() for path in Path("c").glob("report.*")}


def test_what_no_run_could_train_is_found_before_the_first(small, folder):
    config = replace(small.config, network=MLPConfig(num_features=0))
    with pytest.raises(ValueError, match="num_features is 0"):
        compared(replace(small, config=config))
    assert not Path("c").exists()


def test_an_interruption_says_how_to_resume(small, folder):
    def stop(number, job):
        if number == 1:
            raise KeyboardInterrupt

    few = first(small, 2)
    with pytest.raises(Interrupted, match="1 of 2"):
        run_experiment(few, Path("c"), Here(stop))
    actual, made = compared(few)
    assert len(made) == 1
    assert len(actual.complete) == 2
