"""`elbos ema`: averages of a run's weights with another width, computed after training."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from elbos.cli.parse import parse
from elbos.training.posthoc import write_average


@dataclass(frozen=True, kw_only=True)
class Average:
    """Compute a moving average of a run's weights with a new averaging width.

    The result is a new run directory. The run has to be trained with --averaging.snapshot-widths.
    The new run directory can be sampled, evaluated and exported like any run, but not trained
    further.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory."""

    width: float
    """Relative width: standard deviation of the steps averaged over, as a share of all steps."""

    out: Path
    """The run directory to create."""

    json: bool = False
    """Print step, number of averages and error as JSON."""

    def __call__(self) -> None:
        made = write_average(self.run, self.width, self.out)
        if self.json:
            print(json.dumps({"run": str(self.out), **asdict(made)}))  # noqa: T201
        else:
            print(  # noqa: T201
                f"{self.out}: width {self.width} after step {made.step}, of {made.num_averages} "
                f"averages; the profile is off by {made.error:.2%}"
            )


def command(words: list[str]) -> Average:
    return parse("ema", Average, words)
