"""The scripts in examples/ that are run as they are."""

import re
import runpy
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from commands import snapshot

import elbos

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_network.py"


def test_own_network_and_data_in_25_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss in one's own loop, a run, samples of two samplers, bits/dim with their error."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 25
    short = EXAMPLE.read_text().replace("80_000", "2_000")
    (tmp_path / EXAMPLE.name).write_text(short)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(EXAMPLE.name, run_name="__main__")
    printed = capsys.readouterr().out
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ bits/dim\n", printed)
    before = snapshot(tmp_path / "runs")
    runpy.run_path(EXAMPLE.name, run_name="__main__")  # the same call resumes
    assert capsys.readouterr().out == printed
    assert snapshot(tmp_path / "runs") == before


@pytest.mark.slow
def test_own_network_reaches_the_bits_per_dim_that_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To 0.1 of another machine's rounding and weights; 17 values at random have 4.09."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = re.search(r"# ([\d.]+)$", EXAMPLE.read_text().strip())
    assert said
    actual = float(capsys.readouterr().out.split()[0])
    assert abs(actual - float(said[1])) < 0.1


class Network(torch.nn.Module):
    """Of images, with a label or none."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.label = torch.nn.Embedding(3, 1)

    def forward(self, z, logsnr, cond):
        scale = torch.sigmoid(-logsnr)[:, None, None, None]
        return scale * self.layer(z) + self.label(cond)[:, :, None, None]


def test_the_guide_to_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs/training.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    training, sampling, guidance, loop, by_level, tracking = blocks
    images = torch.randint(0, 256, (40, 1, 4, 4)) / 127.5 - 1
    data = [(x, i % 2) for i, x in enumerate(images)]
    names = {
        "elbos": elbos,
        "network": Network(),
        "dataset": data,
        "held_out": data,
        "test": data,
        "cond": torch.arange(64) % 2,
        "num_classes": 2,
        "x": images,
        "weighting": elbos.weightings.Sigmoid(),
        "schedule": elbos.adaptive.Adaptive(logsnr_min=-8.0, logsnr_max=13.3),
        "parameterization": elbos.parameterizations.V(),
    }
    exec(training.replace("1_000_000", "256"), names)
    exec(sampling.replace("run.sample(64, seed=0)", "run.sample(64, cond=cond)"), names)
    assert names["x"].shape == (64, 1, 4, 4)
    assert names["bound"].standard_error > 0
    assert "null_cond=torch.tensor([num_classes])" in guidance
    names |= {"x": images, "cond": torch.arange(40) % 2}
    names["batches"] = [(names["x"], names["cond"])]
    names["optimizer"] = torch.optim.SGD(names["network"].parameters(), lr=1e-3)
    exec(loop, names)
    assert names["loss"].shape == (40,)
    values = torch.randn(2, 8, 3)
    names |= {"batches": [(images, None)], "logsnr": torch.randn(8), "v": values[0]}
    tracker = mock.Mock(spec=Accelerator)
    names |= {"v_hat": values[1], "accelerator": tracker}
    names |= {"validator": lambda _: names["bound"], "denoiser": None}
    exec(by_level, names)
    assert sum(names["found"].num_samples) == 8
    exec(tracking, names)
    assert [call.kwargs["step"] for call in tracker.log.call_args_list] == [0, 0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the untrained network
def test_packed_latents_are_unpacked_in_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    names = runpy.run_path(str(ROOT / "examples" / "packed_latents.py"))
    assert "nats/dim" in capsys.readouterr().out
    velocity, z, cond = (names[name] for name in ("velocity", "latents", "cond"))
    velocity.__globals__["transformer"] = lambda hidden_states, **_: mock.Mock(sample=hidden_states)
    assert torch.equal(velocity(z, torch.zeros(len(z)), **cond), z)
