"""The Python of README and guide runs, as it stands there."""

import math
import re
from pathlib import Path

import torch
from oracles import gaussian

from elbos.theory import elbo as analysis
from elbos.theory import recipes, weightings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def code(path, mark):
    """The first block of Python in a page that has the mark."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    return next(block for block in blocks if mark in block)


QUESTIONS = code("docs/theory.md", "rising_intervals")
LOOP = code("docs/training.md", "schedule.update(")


class Linear(torch.nn.Linear):
    """A network of the reader's own."""

    def forward(self, z, logsnr, label):
        return super().forward(z) * torch.tanh(logsnr)[:, None]


def test_the_audit_of_the_loss_prints_what_readme_shows(elbos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_loss.py").write_text(code("README.md", "def loss(network, x)"))
    ((command, shown),) = re.findall(r"^\$ elbos (audit my_loss.*)\n((?:.+\n)+?)```", README, re.M)
    result = elbos(*command.split())
    assert result.status == 0, result
    assert result.out.split()[: len(shown.split())] == shown.split()


def test_the_answers_about_edm_are_those_printed():
    exec(QUESTIONS, {})
    assert not analysis.is_monotone(recipes.RECIPES["edm"].weighting, -20, 20)
    assert analysis.is_monotone(weightings.Monotone(recipes.RECIPES["edm"].weighting), -20, 20)
    edm = recipes.RECIPES["edm"].weighting
    [(start, end)] = analysis.rising_intervals(edm, -20, 20)
    assert (start, round(end, 2)) == (-20.0, -3.31)
    assert "[(-20.0, -3.31)]" in QUESTIONS


def test_the_training_loop_of_the_reader_learns():
    torch.manual_seed(0)
    network = Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    before = network.weight.detach().clone()
    batches = [(torch.randn(64, 2), torch.zeros(64, dtype=torch.int64)) for _ in range(3)]
    names = {"network": network, "optimizer": optimizer, "batches": batches}
    exec(LOOP, names)
    assert names["loss"].isfinite().all()
    assert names["objective"].schedule.probabilities().unique().numel() > 1
    assert not torch.equal(network.weight, before)


def test_the_guide_measures_a_denoiser_of_the_readers_own():
    block = code("docs/validate.md", "later")
    data = gaussian(0.5, 8)
    x, _ = data.sample(200, torch.Generator().manual_seed(0))
    names = {"denoiser": data, "x": x}
    exec(block.replace("num_levels=256, ", ""), names)
    result = names["result"]
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
    assert abs(result.bits_per_dim - entropy) < 4 * result.standard_error
    assert names["later"].difference(result).mean == 0
