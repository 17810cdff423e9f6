"""The lines of the guide, each with a network of the format that it is for."""

import re
from pathlib import Path

import pytest
import torch

import elbos

GUIDE = Path(__file__).parents[2] / "docs/validate.md"
SECTION = GUIDE.read_text().split("## Any model as a denoiser")[1].split("\n## ")[0]
BY_LOSS, BY_OBJECTIVE, CODE = re.findall(r"```py\n(.*?)```", SECTION, re.DOTALL)
IMPORTS, LINES = CODE.split("\n\n")


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of numpy's, in diffusers
@pytest.mark.parametrize("line", re.findall("^denoiser.*", LINES, re.MULTILINE))
def test_every_line_makes_a_denoiser(line, saved):
    names = {
        "network": lambda z, level, cond=None: z / 2,
        "unet": lambda z, timestep: z / 2,
        "net": lambda z, sigma: z / 2,
        "scheduler": {"_class_name": "DDPMScheduler"},
    }
    exec(IMPORTS, names)
    exec(line.replace('"folder"', repr(str(saved))), names)
    z = torch.ones(2, 1, 8, 8)
    x_hat, eps_hat = names["denoiser"](z, torch.zeros(2))
    assert x_hat.shape == eps_hat.shape == z.shape
    torch.testing.assert_close((x_hat + eps_hat) / 2**0.5, z)  # alpha = sigma at log-SNR 0


def test_the_loss_is_the_adapter():
    def loss(network, x):
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        y_hat = network((1 - t) * x + t * eps, t.flatten(), class_labels=rows(x))
        return (y_hat - (eps - x)).square().mean()

    def rows(x):
        return torch.arange(len(x)) % 10

    x = torch.rand(16, 8) * 2 - 1
    names = {"elbos": elbos, "loss": loss, "x": x, "data": x, "labels": rows(x)}
    names["network"] = lambda z, t, class_labels: 0 * z
    exec(BY_LOSS, names)
    exec(BY_OBJECTIVE, names | {"cond": {"class_labels": names["labels"]}})
    assert torch.isfinite(torch.tensor(names["result"].bits_per_dim))


def test_the_ranges_that_it_names():
    from elbos.adapters.diffusers import denoiser

    latent = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for options in ({}, latent):
        made = denoiser(lambda z, timestep: z, {"_class_name": "DDPMScheduler"} | options)
        shown = [f"{level:.2f}".replace("-", "−") for level in (made.logsnr_min, made.logsnr_max)]
        assert " and ".join(shown) in SECTION
