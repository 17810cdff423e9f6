"""Averages of any width after the training, against those that were tracked during it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Elbos
from scipy.integrate import quad
from tiny import DIGITS, tensors
from torch import Tensor

from elbos.base.formats import pack
from elbos.runs.fit import train
from elbos.runs.run import Run
from elbos.training.config import Averaging
from elbos.training.ema import exponent, group_of, snapshots
from elbos.training.posthoc import coefficients, write_average

WIDTHS = (0.05, 0.10)
SNAPSHOTS = replace(
    DIGITS,
    optimizer=replace(DIGITS.optimizer, use_decay=False),  # it can be made longer
    averaging=Averaging(snapshot_widths=WIDTHS),
    num_images=512,
    precision="fp32",
    network=replace(DIGITS.network, channels=(16,)),
)
"""32 steps, and snapshots after each, a 32nd of the training."""
TRACKED = replace(
    SNAPSHOTS, averaging=Averaging(snapshot_widths=(0.063, 0.15), snapshot_every=10**9)
)
"""The same with averages of other widths, and no snapshots."""


def basis(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and widths of snapshots at equal distances, up to 1."""
    return np.tile(np.arange(1, num + 1) / num, 2), np.repeat(WIDTHS, num)


def mean(function, step: float, width: float) -> float:
    """The average of what weights are at each time, by quadrature."""
    gamma = exponent(width)
    value, _ = quad(lambda x: (gamma + 1) * x**gamma * function(step * x), 0, 1, epsabs=1e-13)
    return value


@pytest.mark.parametrize("width", [0.04, 0.05, 0.075, 0.15, 0.2])
def test_any_width_is_found_and_the_better_the_more_snapshots(width: float) -> None:
    """Of weights that move in a line, on a parabola, in a wave: within the error of the profile
    (Cauchy and Schwarz), which falls by a factor of 3 or more with twice the snapshots.
    """
    errors = []
    for num in (8, 16, 32):
        steps, widths = basis(num)
        x, error = coefficients(steps, widths, width)
        assert x.sum() == pytest.approx(1, abs=1e-9)
        gamma = exponent(width)
        norm = (gamma + 1) / (2 * gamma + 1) ** 0.5  # of the profile
        for function in (lambda t: t, lambda t: t**2, lambda t: np.sin(9 * t)):
            averages = [mean(function, t, w) for t, w in zip(steps, widths, strict=True)]
            size = quad(lambda t, f=function: f(t) ** 2, 0, 1)[0] ** 0.5
            off = abs(x @ averages - mean(function, 1.0, width))
            assert off < error * norm * size + 1e-8
        errors.append(error)
    assert errors[-1] < 0.01
    if width not in WIDTHS:
        assert errors[0] > 2.4 * errors[1] > 2.4**2 * errors[2]


def test_coefficients_are_small() -> None:
    """So that the rounding of the snapshots does not grow."""
    for width in (0.03, 0.07, 0.2):
        assert np.abs(coefficients(*basis(200), width).values).max() < 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(SNAPSHOTS, path)
    return path


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("runs") / "tracked"
    train(TRACKED, path)
    assert not (path / "ema").exists()
    return tensors(path)


@pytest.mark.parametrize("width", TRACKED.averaging.snapshot_widths)
def test_a_run_gets_the_average_that_it_would_have_had(
    run: Path, tracked: dict[str, Tensor], width: float, tmp_path: Path
) -> None:
    """To the rounding of the snapshots, 2^-11, and 1 % of what the weights moved lately; exactly
    where it was tracked.
    """
    made = write_average(run, width, tmp_path / "made")
    assert (made.step, made.num_averages) == (32, 2 * 31 + 3)
    found = Run(tmp_path / "made")
    assert found.config == replace(SNAPSHOTS, averaging=Averaging(relative_width=width))
    assert found.step == 32
    for name, tensor in found.network.state_dict().items():
        expected = tracked[f"{group_of(width)}/{name}"]
        if width == SNAPSHOTS.averaging.relative_width:
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
        moved = (tracked[f"network/{name}"] - expected).norm()
        assert (tensor - expected).norm() < 0.01 * moved + 2**-11 * expected.norm()
    assert found.sample(2).shape == (2, 1, 8, 8)


def test_averages_are_no_part_of_what_is_trained(run: Path, tracked: dict[str, Tensor]) -> None:
    own, widths = tensors(run), ("ema_0_05", "ema_0_1")
    assert {name.split("/")[0] for name in own if name.startswith("ema_")} == {*widths}
    shared = [name for name in own if not name.startswith("ema_")]
    assert all(torch.equal(own[name], tracked[name]) for name in shared)


def test_averages_and_snapshots_are_resumed_bit_for_bit(run: Path, tmp_path: Path) -> None:
    every = replace(SNAPSHOTS.averaging, snapshot_every=16)
    train(replace(SNAPSHOTS, averaging=every, num_images=256), tmp_path)
    train(replace(SNAPSHOTS, averaging=every), tmp_path)
    whole, resumed = tensors(run), tensors(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    kept = [
        {s.path.name: s.path.read_bytes() for s in snapshots(p / "ema")} for p in (run, tmp_path)
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 64


def test_the_command(run: Path, elbos: Elbos, tmp_path: Path) -> None:
    out = tmp_path / "made"
    done = elbos("ema", str(run), "--width", "0.1", "--out", str(out), "--json")
    assert json.loads(done.out)["run"] == str(out)
    assert elbos("sample", str(out), "--num", "1").status == 0
    with pytest.warns(UserWarning, match=r"0\.28 .*off by"):
        write_average(run, 0.28, tmp_path / "far")


def test_what_cannot_be_averaged_is_refused(run: Path, elbos: Elbos, tmp_path: Path) -> None:
    """In one line, and nothing is left over."""
    out = tmp_path / "out"

    def refused(path: Path, width: str = "0.1", to: Path = out) -> str:
        done = elbos("ema", str(path), "--width", width, "--out", str(to))
        assert done.status == 1
        assert done.err.count("\n") == 1
        return done.err

    assert "0.3" in refused(run, "0.3")
    assert "is there" in refused(run, to=tmp_path)
    assert str(tmp_path / "none") in refused(tmp_path / "none")
    train(replace(DIGITS, num_images=16), tmp_path / "without")
    assert "--averaging.snapshot-widths" in refused(tmp_path / "without")
    damaged = tmp_path / "damaged"
    train(replace(SNAPSHOTS, num_images=48), damaged)
    file = snapshots(damaged / "ema")[1].path
    file.write_bytes(file.read_bytes()[:100])
    assert file.name in refused(damaged)
    file.write_bytes(pack({"other": torch.zeros(2)}))
    assert file.name in refused(damaged)
    assert [
        path.name for path in tmp_path.iterdir() if path.name not in ("without", "damaged")
    ] == []
