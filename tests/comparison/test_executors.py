"""Jobs in several processes: they share the work, are killed, and resume."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
import torch
from comparing import USERS, Here

from elbos.comparison import executors
from elbos.comparison.compare import run_experiment
from elbos.comparison.executors import Local
from elbos.comparison.job import Job, work


def job_of(experiment, path, objective, seed):
    return Job(
        path=path,
        config=experiment.run_config(objective, seed),
        scoring=experiment.scoring,
        weightings=experiment.weightings,
    )


OPTIONS = [
    *("--objectives", "iddpm", "edm", "--seeds", "0", "1", "--out", "c", "--precision", "fp32"),
    *("--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"),
    *("--num-images", "480", "--scoring.num-images", "20", "--scoring.num-samples", "24"),
    *("--samplers", "ancestral=Ancestral(),2", "heun=Heun(),2"),
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


def num_logged(folder):
    """How many steps all runs have logged."""
    return sum(path.read_text().count("\n") for path in folder.glob("c/runs/*/metrics.jsonl"))


def test_a_run_that_another_process_does_is_left_to_it(small, folder, monkeypatch):
    """It is not begun while its lock is held; what comes of it there is taken for done."""
    monkeypatch.setattr(executors, "_WAIT_SECONDS", 0.1)
    few = replace(small, objectives=small.objectives[:2])
    run_experiment(replace(few, objectives=few.objectives[1:]), Path("c"), Here())
    run_experiment(few, Path("other"), Here())
    job = job_of(few, Path("c/runs/iddpm-0"), few.objectives[0], 0)
    here, is_held = Here(), Event()
    job.path.mkdir()

    def another_process():
        with job.lock():
            is_held.set()
            time.sleep(1.0)
            shutil.copytree(folder / "other/runs/iddpm-0", job.path, dirs_exist_ok=True)

    other = Thread(target=another_process)
    other.start()
    is_held.wait()
    actual = run_experiment(few, Path("c"), here)
    other.join()
    assert "iddpm-0" not in here.made
    assert len(actual.complete) == 2


@pytest.mark.slow
def test_a_job_that_is_stopped_saves_its_checkpoint(small, folder):
    """And no failure is noted."""
    config = replace(small.config, num_images=10**7)
    longer = replace(small, config=replace(config, output=replace(config.output, log_every=64)))
    job = job_of(longer, folder / "run", small.objectives[0], 0)
    stopping, actual = Event(), []
    thread = Thread(target=lambda: actual.append(Local(1).do(job, stopping)))
    thread.start()
    while thread.is_alive() and not (job.path / "metrics.jsonl").exists():
        time.sleep(0.05)
    stopping.set()
    thread.join()
    assert actual == [None]
    assert list(job.path.glob("checkpoints/*")) and job.scores() is None
    assert not job.is_running()


def test_a_run_of_a_comparison_that_was_moved_is_not_begun_in_the_old_place(small, folder):
    old = folder / "c"
    job = job_of(small, old / "runs" / "x-0", small.objectives[0], 0)
    reason = Local(2).do(job, Event())
    assert str(old) in reason
    assert not old.exists()


@pytest.mark.parametrize(
    ("visible", "num", "num_per_run", "num_workers", "expected"),
    [
        (None, 2, 1, 3, ["0", "1", "0"]),
        ("6,7", 2, 1, 2, ["6", "7"]),
        ("4,5,6,7", 4, 2, 2, ["4,5", "6,7"]),
        (None, 1, 1, 2, [None, None]),
    ],
)
def test_jobs_at_once_get_devices_in_turn(
    small, tmp_path, monkeypatch, visible, num, num_per_run, num_workers, expected
):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: num)
    local = Local(num_workers, gpus_per_run=num_per_run)
    environments = []

    def run_job(job, num_processes, environment, stopping):
        environments.append(environment.get("CUDA_VISIBLE_DEVICES"))
        if len(environments) < num_workers:  # the next begins before this one ends
            local.do(job, stopping)

    monkeypatch.setattr(executors, "run_job", run_job)
    local.do(job_of(small, tmp_path, small.objectives[0], 0), Event())
    assert environments == expected


@pytest.mark.slow
def test_processes_that_train_a_run_together_end_where_one_does(small, folder, monkeypatch):
    """Two of this machine, who know nothing of those among whom they were started."""
    alone, shared = (job_of(small, folder / name, small.objectives[0], 0) for name in ("a", "b"))
    work(alone)
    strange = {"RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "5", "SLURM_PROCID": "5"}
    for name, value in (strange | {"SLURM_NTASKS": "7"}).items():
        monkeypatch.setenv(name, value)
    assert Local(1, gpus_per_run=2).do(shared, Event()) is None
    expected, actual = alone.scores(), shared.scores()
    for name, metric in expected.metrics.items():
        assert actual.metrics[name].value == pytest.approx(metric.value, abs=1e-5)
    assert actual.learning.y == pytest.approx(expected.learning.y, abs=1e-5)


@pytest.mark.slow
def test_a_job_that_is_killed_takes_no_other_with_it(small, folder):
    """As for memory: its failure is noted, the other jobs are done, and it is tried again."""
    killer = Thread(target=kill, args=[folder / "c/runs/iddpm-0"])
    killer.start()
    actual = run_experiment(small, Path("c"), Local(2))
    killer.join()
    assert len(actual.complete) == 2
    (failure,) = actual.objectives[0].failures
    assert "SIGKILL" in failure.reason
    assert len(run_experiment(small, Path("c"), Local(2)).complete) == 3


def kill(run):
    """End the process of a run as soon as there is one."""
    while True:
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                is_its = any(Path(file.path).parent == run for file in process.open_files())
                if is_its:
                    return process.kill()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_comparison_that_is_killed_again_and_again_ends_as_if_it_had_not_been(folder):
    """At ten random shares of the work. What it started goes on; what is done is not begun."""
    longer = ("--num-images", "12800")
    ends_well(folder / "whole", *longer)
    most = num_logged(folder / "whole")
    chance, num_killed = random.Random(0), 0  # noqa: S311
    for share in sorted(chance.uniform(0, 0.9) for _ in range(10)):
        process = start(folder / "killed", "--workers", "2", *longer)
        while process.poll() is None and num_logged(folder / "killed") < share * most:
            time.sleep(0.05)
        num_killed += process.poll() is None
        process.kill()
        process.communicate()
    assert num_killed == 10
    ends_well(folder / "killed", *longer)
    whole, killed = result(folder / "whole"), result(folder / "killed")
    assert killed[0] == whole[0]
    assert killed[1].keys() == whole[1].keys()
    assert not list(folder.glob("killed/c/**/.*.partial"))


RAY = """
import json, psutil
from elbos.comparison.executors import OnRay

def paths():
    import sys
    return sys.path

if __name__ == "__main__":
    executor = OnRay(1)
    listed = {"paths": executor._ray.get(executor._remote(paths).remote())}
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [c for p in processes for c in p.net_connections("inet")]
    listed["addresses"] = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
    print("found", json.dumps(listed))
"""


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    class Ray:
        """Ray, whose own errors are of every type, of many lines."""

        def is_initialized(self):
            return False

        def init(self, **_):
            raise Exception("The node timed out during startup.\n" * 20)  # noqa: TRY002

    monkeypatch.setitem(sys.modules, "ray", Ray())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"\A[^\n]*10\.0\.0\.1[^\n]*\Z"):
        executors.OnRay(1)


@pytest.mark.slow
def test_a_ray_of_this_machine_is_nobody_elses(folder, monkeypatch):
    """It listens on the loopback address, and imports nothing from the current folder."""
    pytest.importorskip("ray", reason="needs ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(executors.__file__).parents[2]))
    (folder / "code").mkdir()
    (folder / "code/script.py").write_text(RAY)
    for name in ("secrets", "random", "elbos"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')")
    command = [sys.executable, "-P", "code/script.py"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    actual = json.loads(out.partition("found ")[2])
    assert len(actual["addresses"]) >= 4
    assert {address.removeprefix("::ffff:") for address in actual["addresses"]} == {"127.0.0.1"}
    assert str(folder) not in actual["paths"]
    assert not (folder / "was-run").exists()


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_report(folder, monkeypatch):
    pytest.importorskip("ray", reason="needs ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, words in (("local", []), ("ray", ["--ray"])):
        process = start(folder / name, "--workers", "2", *words)
        error = process.communicate()[1]
        assert process.returncode == 0, error
    assert result(folder / "ray") == result(folder / "local")
