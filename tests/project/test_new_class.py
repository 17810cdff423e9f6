"""A new weighting, schedule or network: a class, a line in its table. Others are read alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

ADDED = """
import json
from dataclasses import dataclass

import torch

from elbos import adaptive, networks, schedules, weightings


@dataclass(frozen=True, kw_only=True)
class Bell(weightings.Weighting):
    width: float = 3.0

    def __call__(self, logsnr):
        return torch.exp(-((logsnr / self.width) ** 2))


@dataclass(frozen=True, kw_only=True)
class Triangular(schedules.Linear):
    peak: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WideConfig(networks.MLPConfig):
    factor: int = 2


weightings.WEIGHTINGS += (Bell,)  # the one line, as the table itself would have it
schedules.SCHEDULES += (Triangular,)
adaptive.SCHEDULES += (Triangular,)  # which repeats the line above
networks.NETWORKS += (WideConfig,)

from elbos import cli
from elbos.comparison.variants import Variant
from elbos.base.codec import decode, encode, parse
from elbos.theory.names import label

MADE = {
    weightings.Weighting: Bell(width=2.0),
    schedules.Schedule: Triangular(peak=1.0),
}
for kind, value in MADE.items():
    assert decode(kind, encode(value)) == value
    assert parse(kind, repr(value)) == value
    assert type(value).__name__.lower() in label(value).lower()
mine = Variant.parse("mine=V(),Triangular(),Bell(width=2)")
assert (mine.weighting, type(mine.schedule)) == (Bell(width=2), Triangular)
cli.main()
"""


def test_a_new_class_is_on_the_command_line_and_in_json(tmp_path: Path) -> None:
    """And in the text of an objective, as `elbos compare` reads it; its label is in tables."""
    (tmp_path / "added.py").write_text(ADDED)
    words = [
        *("train", "toy", "--dry-run", "network:wide", "--network.factor", "3"),
        *("schedule:triangular", "weighting:bell", "--weighting.width", "2"),
    ]
    command = [sys.executable, "added.py", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert config["network"]["factor"] == 3
    assert config["weighting"] == {"type": "Bell", "width": 2.0}
    assert config["schedule"]["type"] == "Triangular"
