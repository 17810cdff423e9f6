"""The README's Python runs, as it stands there."""

import re
from pathlib import Path

import torch

from elbos import analysis, recipes, weightings

README = (Path(__file__).parents[1] / "README.md").read_text()
QUESTIONS, LOOP = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class Linear(torch.nn.Linear):
    """A network of the reader's own."""

    def forward(self, z, logsnr, label):
        return super().forward(z) * torch.tanh(logsnr)[:, None]


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
    assert names["loss"].isfinite()
    assert not torch.equal(network.weight, before)


def test_every_command_of_the_tour_is_one_of_elbos():
    from elbos import cli

    verbs = {line.split()[1] for line in README.splitlines() if line.startswith("elbos ")}
    assert verbs == set(cli.VERBS)
