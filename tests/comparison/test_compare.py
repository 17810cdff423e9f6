"""`elbos compare`: each run is made once, whatever happens, and belongs to its directory."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import assert_one_line
from comparing import USERS, Here

from elbos import files, weightings
from elbos.comparison import budget
from elbos.comparison import work as work_module
from elbos.comparison.compare import compare
from elbos.comparison.job import Job
from elbos.comparison.rows import ROWS
from elbos.comparison.scores import read_scores
from elbos.errors import Diverged, Interrupted
from elbos.networks import MLPConfig
from elbos.parameterizations import V
from elbos.progress import clock
from elbos.runs.codec import digest
from elbos.training.data import Dataset
from elbos.training.trainer import Trainer


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


def test_before_it_begins_it_says_how_long_it_takes(small, folder, capfd):
    """Of what is left: the time of trainings and scoring, over those that run at once."""
    few = replace(small, rows=small.rows[:1])
    compare(few, Path("c"), Here())
    (first,) = [line for line in capfd.readouterr().err.splitlines() if "a machine" in line]
    compare(replace(few, seeds=(0, 1, 2)), Path("c"), Here())
    (second,) = [line for line in capfd.readouterr().err.splitlines() if "a machine" in line]
    compare(replace(few, seeds=(0, 1, 2)), Path("c"), Here())
    assert "a machine" not in capfd.readouterr().err  # there is nothing left to do
    (num,) = re.findall(r"a machine, fp32, ([\d,]+) parameters, c: new, 0 of 1 runs done", first)
    assert int(num.replace(",", "")) > 100
    assert "c: resumed, 1 of 3 runs done, 1 at once" in second
    job = Job.of(few, Path("new"), few.rows[0], 0)
    fewer = replace(few, scoring=replace(few.scoring, num_samples=24))
    assert Job.of(fewer, Path("new"), few.rows[0], 0).cost == job.cost  # points have no samples
    each = 0.5 * job.cost / 3  # half a second an image, of which an evaluation is a third
    assert first.endswith(f"about {clock(each)}")
    assert second.endswith(f"about {clock(2 * each)}")


def test_the_speed_is_that_of_the_budget_or_measured(small, folder):
    config = replace(small.config, precision="fp32")
    words, seconds = budget.speed(replace(config, num_images=1000), 5.0, 1)
    assert (seconds, "fp32" in words) == (0.3, True)
    assert 0 < budget.speed(config, None, 1)[1] < 1


def checkpoints():
    """When each run's last checkpoint was written."""
    return {str(path): path.stat().st_mtime_ns for path in Path().glob("c/runs/*/checkpoints/*5")}


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
    before = digest([version("elbos"), stored["run"], scores])  # where estimators were others
    yield json.dumps({**stored, "digest": before})
    yield from ("", "[]", "null", "{", content[:-9], "[" * 100_000, '{"a":' * 100_000, "NaN", "\0")


def test_scores_that_are_not_as_they_were_written_are_measured_again(small, folder):
    comparison = replace(small, rows=small.rows[:1])
    first = compare(comparison, Path("c"), Here())
    file = Path("c/runs/iddpm-0/scores.json")
    content, config = file.read_text(), comparison.run_config(small.rows[0], 0)
    for number, wrong in enumerate(damaged(content)):
        file.write_text(wrong)
        assert read_scores(file.parent, config, small.scoring) is None, number
    assert compare(comparison, Path("c"), engine := Here()) == first
    assert engine.made == ["iddpm-0"]
    assert file.read_text() == content


def test_scores_of_another_run_are_not_taken_for_its_own(small, folder):
    """Of another seed, or of another row, copied as they are."""
    comparison = replace(small, rows=small.rows[:2], seeds=(0, 1))
    first = compare(comparison, Path("c"), Here())
    for other in ("iddpm-1", "edm-0"):
        shutil.copy(f"c/runs/{other}/scores.json", "c/runs/iddpm-0/scores.json")
        assert compare(comparison, Path("c"), engine := Here()) == first
        assert engine.made == ["iddpm-0"]


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
    with pytest.raises(ValueError, match="edm-0 holds a run with"):  # nor with another seed
        compare(replace(redefined, seeds=(7,)), Path("c"), Here())
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
    with pytest.raises(ValueError, match=r"features = mine.py:features, file sha256 \w+, not"):
        compare(more, Path("c"), Here())
    assert before == {path: path.read_bytes() for path in Path("c").glob("report.*")}


def test_features_whose_hash_had_no_name_are_the_same(pictures, folder):
    """As compare.json has them from before."""
    few = replace(pictures, rows=pictures.rows[:1])
    first = compare(few, Path("c"), Here())
    file = Path("c/compare.json")
    assert "sha256 " in json.loads(file.read_text())["features"]
    file.write_text(file.read_text().replace("sha256 ", ""))
    assert compare(few, Path("c"), engine := Here()) == first
    assert engine.made == []


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


def test_what_was_half_written_is_deleted(small, folder):
    """By processes that are gone, of a report and of a run's scores."""
    compare(replace(small, rows=small.rows[:1]), Path("c"), Here())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = files.partial(Path("x")).name.split(".")[2]
    for name in ("c/.report.json", "c/runs/iddpm-0/.scores.json"):
        Path(f"{name}.{here}.{dead.pid}.partial").touch()
    Path("c/runs/iddpm-0/scores.json").unlink()
    compare(replace(small, rows=small.rows[:1]), Path("c"), Here())
    assert not list(Path("c").rglob(".*.partial"))


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
    """Of steps that take 0.25 s by the clock, but for one: 30 in an eighth of a minute."""
    clock, seconds = [0.0], itertools.chain([0.25] * 5, [3.0], itertools.repeat(0.25))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: clock[0])
    step = Trainer.step

    def slow(self):
        clock[0] += next(seconds)
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
