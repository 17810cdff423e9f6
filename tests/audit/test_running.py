"""`elbos record`: training scripts run unchanged, in processes, against closed forms."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elbos.audit.live.running import run_script
from elbos.theory.recipes import RECIPES

SCRIPTS = Path(__file__).parent / "scripts"
RECORD = [sys.executable, "-m", "elbos.record"]


def record(*words, launcher=RECORD):
    return subprocess.run(
        [*launcher, *map(str, words)], capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def run(monkeypatch):
    """Run a script in this process, which is left as it was."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with torch.random.fork_rng():
        yield lambda script, *flags, num: run_script(SCRIPTS / script, [*flags], num_samples=num)
    sys.modules.pop("neighbour", None)


CASES = {
    "plain_loop.py --snr-gamma 5": ("v", "min-snr-5-v"),
    "plain_loop.py --discriminator": ("v", "v-cosine"),
    "edm_accelerate.py": ("x", "edm"),
    "flow_keywords.py": ("flow", "sd3"),
    "flow_keywords.py --compile": ("flow", "sd3"),
}


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, marks=pytest.mark.slow if "--c" in words else []) for words in CASES],
)
def test_a_script_that_runs_has_the_weighting_of_its_loss(words, run):
    audit = run(*words.split(), num=4000)
    prediction, recipe = CASES[words]
    assert (audit.parameterization, audit.recipe) == (prediction, recipe)
    assert 4000 <= audit.num_samples < 4000 + 64
    inner = (audit.density.cumsum(0) / audit.density.sum() - 0.5).abs() < 0.45
    ratio = (audit.weight / RECIPES[recipe].weighting(audit.logsnr)).log()[inner]
    assert (ratio - ratio.median()).abs().max() < 0.1


def test_a_script_that_fails_early_says_where(run):
    with pytest.raises(ValueError, match="line 23"):
        run("plain_loop.py", "--fails-at", "1", num=1000)


def test_a_script_that_is_missing_is_one_line(elbos, run):
    result = elbos("record", "missing.py")
    assert (result.status, result.out) == (1, "")
    assert "missing.py: No such file" in result.err.splitlines()[-1]


def test_wrong_usage_is_one_line_and_status_2(elbos):
    for words in ([], ["--samples", 0, SCRIPTS / "plain_loop.py"], ["--sampels", 5, "a.py"]):
        result = elbos("record", *words)
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)


@pytest.mark.slow
def test_what_a_failing_or_ending_script_recorded_is_audited():
    for flags in (["--fails-at", 20], ["--num-steps", 20]):
        result = record(SCRIPTS / "plain_loop.py", *flags)
        assert result.returncode == 0
        assert "predicts v" in result.stdout
        assert ("line 23" in result.stderr) == ("--fails-at" in flags)


def test_an_interrupt_audits_what_there_is(tmp_path):
    words = [*RECORD, "--samples", str(10**9), str(tmp_path / "train.py")]
    for name in ("plain_loop.py", "neighbour.py"):
        text = (
            (SCRIPTS / name)
            .read_text()
            .replace("t = torch.rand(64", "print(step)\n        t = torch.rand(64")
        )
        (tmp_path / name.replace("plain_loop", "train")).write_text(text)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "30\n":
            break
    process.send_signal(signal.SIGINT)
    assert "predicts v" in process.communicate(timeout=100)[0]
    assert process.returncode == 0


@pytest.mark.slow
def test_only_the_first_of_two_processes_prints():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    words = ["elbos.record", "--samples", "1000", SCRIPTS / "edm_accelerate.py"]
    result = record(*words, launcher=launcher)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("predicts") == 1


def test_a_script_without_noise_is_told_so_and_leaves_modules_as_they_were(run, caplog):
    call = torch.nn.Module.__call__
    with pytest.raises(ValueError, match="no module was called"):
        run("classifier.py", num=1000)
    [message] = caplog.messages  # after 20 backward passes
    assert "Nothing was recorded" in message
    assert torch.nn.Module.__call__ is call
