"""The fixture `weighting_regression`, in a run of pytest as users start it."""

import sys

import pytest

from elbos.audit.diagnostics import SharedNoise

TEST = """
import torch

SHIFT, IS_EPS = 1.0, False
TIME, NOISES = (lambda t: t), slice(None)

def loss(network, x):
    u, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x[NOISES]).expand_as(x)
    t = SHIFT * u / (1 + (SHIFT - 1) * u)
    target = eps if IS_EPS else eps - x
    return (network((1 - t) * x + t * eps, TIME(t.flatten())) - target).square().mean()

def test_flow(weighting_regression):
    weighting_regression(loss, 2 * torch.rand(16, 3, 8, 8) - 1, num_samples=400)
"""


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run pytest on the test, with a text replaced; return the exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # the file changes within a second

    monkeypatch.setattr("sys.path", [*sys.path])

    def run(*options, old="", new=""):
        sys.modules.pop("test_loss", None)
        (tmp_path / "test_loss.py").write_text(TEST.replace(old, new) if old else TEST)
        fixed = ("-p", "elbos.cli.pytest_plugin", "-p", "no:cacheprovider")
        status = pytest.main([*fixed, f"--rootdir={tmp_path}", *options, "test_loss.py"])
        return status, capsys.readouterr().out

    return run


def test_a_loss_is_compared_with_its_stored_audit(run, tmp_path):
    golden = tmp_path / "test_loss" / "test_flow.json"
    status, printed = run()
    assert status == 1
    assert "test_loss/test_flow.json" in printed
    assert "--weighting-regen" in printed
    assert not golden.exists()
    assert run("--weighting-regen")[0] == 0
    assert golden.stat().st_size < 40_000
    assert run()[0] == 0
    status, printed = run(old="SHIFT, IS_EPS = 1.0, False", new="SHIFT, IS_EPS = 3.0, False")
    assert status == 1
    assert "Flow(shift=3.0)" in printed
    status, printed = run(old="SHIFT, IS_EPS = 1.0, False", new="SHIFT, IS_EPS = 1.0, True")
    assert status == 1
    assert "eps, expected flow" in printed
    for new in "(lambda t: (t / (1 - t)).log() / 4)", "(lambda t: 1000 * t)", "torch.zeros_like":
        status, printed = run(old="(lambda t: t)", new=new)
        assert status == 1
        assert "test_flow has changed" in printed and "time: " in printed
    status, printed = run(old="slice(None)", new="slice(1)")
    assert status == 1
    assert SharedNoise().text in printed


CALL = "weighting_regression(loss, 2 * torch.rand(16, 3, 8, 8) - 1, num_samples=400)"


def test_every_call_has_a_golden_of_its_own_in_the_folder(run, tmp_path):
    old, params = "def test_flow(", "__import__('pytest').mark.parametrize('k', [1, -1, '1-a'])"
    assert run("--weighting-regen", old=old, new=f"@{params}\ndef test_k(k, ")[0] == 0
    stored = {path.name for path in (tmp_path / "test_loss").iterdir()}
    assert stored == {"test_k-1.json", "test_k--1.json", "test_k-1-a.json"}
    printed = run("--weighting-regen", old=CALL, new=f"{CALL}\n    {CALL}")[1]
    assert "test_flow.json is already" in printed
    printed = run(old=CALL, new=CALL.replace("400", "400, name='../../evil'"))[1]
    assert "'../../evil': give" in printed
    (tmp_path / "test_loss" / "test_flow.json").write_text("{}")
    printed = run()[1]
    assert "test_flow.json does not hold an audit" in printed and "KeyError" not in printed
