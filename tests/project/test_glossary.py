"""The table of docs/glossary.md follows from the library's functions."""

import re
from pathlib import Path

import pytest
import torch
from elbos.process import alpha_sigma
from elbos.schedules import Flow

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.scheduled import levels_of

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs/glossary.md").read_text().splitlines()
ROWS = [line.strip("| ").split(" | ") for line in LINES if re.match(r"\| [−\d.]+ \|", line)]
TABLES = (
    {"_class_name": "DDPMScheduler"},
    {
        "_class_name": "DDPMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_one_noise_level(row: list[str]) -> None:
    logsnr = torch.tensor([float(row[0].replace("−", "-"))], dtype=torch.float64)
    assert row[1:] == entries(logsnr)


def entries(logsnr: torch.Tensor) -> list[str]:
    """Return the texts of a row: SNR in dB, ᾱ, σ of VE, time of a flow, at shift 3, two steps."""
    alpha, sigma = alpha_sigma(logsnr)
    decibel = 20 * torch.log10(alpha / sigma)
    numbers = [sigma / alpha, Flow().time(logsnr), Flow(shift=3.0).time(logsnr)]
    alpha_bar = (alpha**2).item()
    found = [f"{decibel.item():.1f}".replace("-", "−")]
    found += [f"{alpha_bar:.3g}" if alpha_bar < 0.99 else f"{alpha_bar:.6g}"]
    found += [f"{one.item():.3g}" for one in numbers]
    for config in TABLES:
        levels = levels_of(config, loss_table(config, Training()))
        is_within = levels.logsnr_min <= logsnr.item() <= levels.logsnr_max
        found.append(f"{levels.timestep(logsnr).item():.0f}" if is_within else "—")
    return [f"{float(text):.7f}".rstrip("0") if "e" in text else text for text in found]
