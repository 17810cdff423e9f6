"""`elbos audit --expect`: exit status 1 for another weighting."""

import json

import pytest

LOSSES = """
import torch

def flow(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t.flatten()) - (eps - x)).square().mean()

def by_eps(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t.flatten()) - eps).square().mean()
"""
SHAPE = ("--shape", "3", "8", "8", "--num-samples", "1000")


@pytest.fixture
def losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(LOSSES)


def test_the_expected_weighting_is_status_0(elbos, losses):
    expected = ("--expect", "flow", "--within", "3%")
    assert elbos("audit", "losses.py:flow", *SHAPE[:-1], "4000", *expected).status == 0
    assert elbos("audit", "edm", "--expect", "edm", "--within", "50%").status == 0


def test_another_weighting_is_status_1(elbos, losses, tmp_path):
    base = elbos("audit", "losses.py:flow", *SHAPE, "--json")
    (tmp_path / "base.json").write_text(base.out)
    assert json.loads(base.out)["parameterization"] == "flow"
    expected = ("--expect", "base.json")
    actual = elbos("audit", "losses.py:by_eps", *SHAPE, *expected)
    assert actual.status == 1
    assert actual.err.count("\n") == 1
    assert "losses.py:by_eps" in actual.err
    assert elbos("audit", "losses.py:flow", *SHAPE, *expected).status == 0


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("--within", "3"), 2, "--within"),
        (("--expect", "edmm"), 2, "edm2"),
        (("--expect", "missing.json"), 1, "missing.json"),
    ],
)
def test_a_wrong_expectation_is_one_line(elbos, losses, words, status, named):
    actual = elbos("audit", "edm", *words)
    assert (actual.status, actual.err.count("\n")) == (status, 1)
    assert named in actual.err
