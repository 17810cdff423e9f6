"""`elbos compare` in several processes: they share the work, are killed, and go on."""

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

import pytest
from comparing import USERS, Here

from elbos.comparison import job
from elbos.comparison.compare import compare
from elbos.comparison.job import Job

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
    one, engine, is_held = Job.of(few, Path("c/runs/iddpm-0"), few.rows[0], 0), Here(), Event()
    one.path.mkdir()

    def another_process():
        with one.lock:
            is_held.set()
            time.sleep(1.0)
            shutil.copytree(folder / "other/runs/iddpm-0", one.path, dirs_exist_ok=True)

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


RAY = """
import json, psutil
from elbos.comparison.on_ray import OnRay

def paths():
    import sys
    return sys.path

if __name__ == "__main__":
    engine = OnRay(1)
    found = {"paths": engine._ray.get(engine._remote(paths).remote())}
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [c for p in processes for c in p.net_connections("inet")]
    found["addresses"] = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
    engine.close()
    print("found", json.dumps(found))
"""


@pytest.mark.slow
def test_a_ray_of_this_machine_is_nobody_elses(folder, monkeypatch):
    """It listens on the loopback address, and imports nothing from the current folder."""
    pytest.importorskip("ray", reason="needs ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(job.__file__).parents[2]))
    (folder / "code").mkdir()
    (folder / "code/script.py").write_text(RAY)
    for name in ("secrets", "random", "elbos"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')")
    command = [sys.executable, "-P", "code/script.py"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(out.partition("found ")[2])
    assert len(found["addresses"]) >= 4
    assert {address.removeprefix("::ffff:") for address in found["addresses"]} == {"127.0.0.1"}
    assert str(folder) not in found["paths"]
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
