"""A new weighting, schedule, prediction type, sampler or network: a class, a line in its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

ADDED = """
import json
from dataclasses import dataclass

import torch

from elbos import adaptive, networks, parameterizations, samplers, schedules, weightings


@dataclass(frozen=True, kw_only=True)
class Bell(weightings.Weighting):
    width: float = 3.0

    def __call__(self, logsnr):
        return torch.exp(-((logsnr / self.width) ** 2))


@dataclass(frozen=True, kw_only=True)
class Triangular(schedules.Linear):
    peak: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Halfway(parameterizations.V):
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Euler(samplers.DDIM):
    strength: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WideConfig(networks.MLPConfig):
    factor: int = 2


weightings.WEIGHTINGS += (Bell,)  # the one line, as the table itself would have it
schedules.SCHEDULES += (Triangular,)
adaptive.SCHEDULES += (Triangular,)  # which repeats the line above
parameterizations.PARAMETERIZATIONS += (Halfway,)
samplers.SAMPLERS += (Euler,)
networks.NETWORKS += (WideConfig,)

from elbos import cli
from elbos.comparison.variants import Variant
from elbos.base.codec import decode, encode, parse
from elbos.theory.names import label

FOUND = {
    weightings.Weighting: Bell(width=2.0),
    schedules.Schedule: Triangular(peak=1.0),
    parameterizations.Parameterization: Halfway(share=0.25),
    samplers.Sampler: Euler(strength=0.5),
}
for kind, value in FOUND.items():
    assert decode(kind, encode(value)) == value
    assert parse(kind, repr(value)) == value
    assert type(value).__name__.lower() in label(value).lower()
mine = Variant.parse("mine=Halfway(),Triangular(),Bell(width=2)")
assert (mine.weighting, type(mine.schedule)) == (Bell(width=2), Triangular)
cli.main()
"""


def test_a_new_class_is_on_the_command_line_and_in_json(tmp_path: Path) -> None:
    """And in the text of an objective, as `elbos compare` reads it; its label is in tables."""
    (tmp_path / "added.py").write_text(ADDED)
    words = [
        *("train", "toy", "--dry-run", "network:wide", "--network.factor", "3"),
        *("parameterization:halfway", "--parameterization.share", "1"),
        *("schedule:triangular", "weighting:bell", "--weighting.width", "2"),
        *("sampling.sampler:euler", "--sampling.sampler.strength", "1"),
    ]
    command = [sys.executable, "added.py", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert config["network"]["factor"] == 3
    assert config["weighting"] == {"type": "Bell", "width": 2.0}
    assert config["parameterization"] == {"type": "Halfway", "share": 1.0}
    assert config["schedule"]["type"] == "Triangular"
    assert config["sampling"]["sampler"]["type"] == "Euler"
