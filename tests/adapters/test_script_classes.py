"""Scripts whose loss is in a method of a class."""

from pathlib import Path

import pytest
import torch

from elbos import audit

LIGHTNING = """
import torch
from no_such_library import LightningModule, UNet

class Model(LightningModule):
    power: float = 2.0

    def __init__(self, width, num=1000):
        super().__init__()
        self.network = UNet(width)
        self.num = num
        self.register_buffer("alpha_bar", torch.linspace(0.999, 0.001, self.num))
        self.save_hyperparameters()

    def snr(self, t):
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def training_step(self, batch, batch_idx):
        x, label = batch
        eps = torch.randn_like(x)
        t = torch.randint(0, self.num, (x.shape[0],), device=self.device)
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        pred = self.network(alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps, t, label)
        error = (pred - eps).square().mean((1, 2, 3))
        loss = (error / (1 + self.snr(t)) ** self.power).mean()
        self.log("loss", loss)
        return {"loss": loss, "num": len(x)}
"""

TRAINER = """
import torch

class Trainer:
    def __init__(self, model, data, sigma_max=1.0, learning_rate=1e-4):
        self.model, self.data = model, data
        self.sigma_max = sigma_max
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate)

    def noisy(self, x, eps, t):
        return (1 - t) * x + t * eps

    def train(self):
        for x in self.data:
            x, eps = x.to(self.device), torch.randn_like(x)
            t = torch.rand(len(x), 1, 1, 1) * self.sigma_max
            loss = (self.model(self.noisy(x, eps, t), t) - (eps - x)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

if __name__ == "__main__":
    Trainer(None, [], sigma_max=0.5).train()
"""


def audited(source: str, path: Path) -> audit.Audit:
    path.write_text(source)
    x = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return audit.from_script(path, x, num_samples=1000)


def test_the_loss_that_a_method_returns(tmp_path: Path) -> None:
    result = audited(LIGHTNING, tmp_path / "train.py")
    assert (result.parameterization, result.process) == ("eps", "variance preserving")
    # alpha^2 = sigmoid(logsnr) is uniform, and the coefficient sigmoid(-logsnr)^2
    log_sigmoid = torch.nn.functional.logsigmoid
    expected = log_sigmoid(result.logsnr) + 3 * log_sigmoid(-result.logsnr)
    difference = (result.weight.log() - expected)[result.logsnr.abs() < 4]
    assert (difference - difference.median()).abs().max() < 0.02


def test_the_loss_of_a_trainer_and_what_it_is_called_with(tmp_path: Path) -> None:
    result = audited(TRAINER, tmp_path / "train.py")
    assert (result.parameterization, result.process) == ("flow", "rectified flow")
    assert result.logsnr[0].item() == pytest.approx(0, abs=0.05)  # t is at most 1/2
    values = next(one.values for one in result.diagnostics if one.kind == "script")
    assert (values["data"], values["network"]) == ("x (line 15)", "self.model")


def test_what_is_not_known_of_a_class(tmp_path: Path) -> None:
    source = TRAINER.replace("self.sigma_max\n", "self.limit\n")
    with pytest.raises(ValueError, match=r"line 16: .* self\.limit.*audit\.record"):
        audited(source, tmp_path / "train.py")
