"""`elbos record`: the audit of a training script while it runs, unchanged."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from elbos.audit.live.running import run_script
from elbos.base.checks import require_positive
from elbos.base.errors import UsageError
from elbos.base.progress import begin, progress
from elbos.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class Record:
    """Run a training script, unchanged, and audit its loss after some samples.

    The script trains as always, with its own data and network, until enough samples are recorded;
    then it is stopped, and the audit printed. Ctrl-C audits what there is. For example:

        elbos record --samples 5000 train.py --learning-rate 1e-4
        accelerate launch -m elbos.record train.py
        PYTHONSAFEPATH=1 torchrun --nproc-per-node 2 -m elbos.record train.py
    """

    samples: int = 20_000
    """Number of samples, of one process, after which the script is stopped."""

    steps: int | None = None
    """Number of training steps after which the script is stopped, if that is earlier."""

    def __post_init__(self) -> None:
        require_positive(samples=self.samples, steps=self.steps or 1)


def _record(record: Record, script: Path, flags: list[str]) -> None:
    is_main = os.environ.get("RANK", "0") == "0"
    with progress() as bar:
        bar.disable |= not is_main
        try:
            audit = run_script(
                script,
                flags,
                num_samples=record.samples,
                num_steps=record.steps,
                advance=begin(bar, script.name, record.samples, "samples"),
            )
        except ValueError:
            if is_main:
                raise
            sys.exit(1)  # the main process says why
    if is_main:
        print(audit)  # noqa: T201


def command(words: list[str]) -> Callable[[], None]:
    at = next((i for i, word in enumerate(words) if word.endswith(".py")), len(words))
    record = parse("record", Record, words[:at])  # what follows belongs to the script
    if at == len(words):
        raise UsageError("Name a script: elbos record [--samples N] SCRIPT.py [FLAGS].")
    return partial(_record, record, Path(words[at]), words[at + 1 :])
