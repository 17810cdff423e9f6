"""A whole training script as a loss: the lines from its noise to its loss, run with stand-ins.

`slicing` finds the lines, also in a method of a class (`classes`). They are run with every value
that the script would load or build `unknown`. Then only what the loss turns out to depend on is
made known:

- the clean data, by the one variable of the loop with which the loss becomes known;
- a definition above the loop, as that of a scheduler, where the loss depends on it: such a
  definition is run, and no other; names that are networks or that load data never are;
- the script's arguments, by what it tells its `argparse` parser, required or not.

Nothing is downloaded: a scheduler's configuration is that of the folder or of the local cache of
the hub that the script's arguments name, or, if there is none, the published one of the model
family that the script uses.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from elbos import files
from elbos.audit.script.arguments import RefusedArgumentsError
from elbos.audit.script.loss import ScriptLoss
from elbos.audit.script.modules import own_modules
from elbos.audit.script.run import Failure, Run
from elbos.audit.script.slicing import Script

__all__ = [
    "ADVICE",
    "RefusedArgumentsError",
    "ScriptLoss",
    "is_training_script",
    "own_modules",
    "script_loss",
]

ADVICE = (
    "Scripts like diffusers' are read, whose loop holds the loss; of any other, record some "
    "hundred steps: `with elbos.audit.record(model) as recorded:` around its loop, then "
    "`print(recorded.audit())`."
)
"""What to do where a script cannot be read."""


def script_loss(path: Path, xs: Sequence[Tensor], flags: Sequence[str] = ()) -> ScriptLoss:
    """The loss of a training script.

    Args:
        path: The script, which has a loop with `accelerator.backward(loss)` or `loss.backward()`.
        xs: Data like those that the network is trained on, as latents, in one or several shapes;
            the first that its lines take counts.
        flags: The script's own arguments, as `["--snr_gamma", "5"]`.

    Raises:
        OSError: If the script cannot be read.
        RefusedArgumentsError: In one line, if it refuses its flags.
        ValueError: In one line, if there is no such loop, or the line that stopped it.
    """
    try:
        script = Script.from_source(files.read(path).decode("utf-8-sig"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no Python: {error}") from error
    if script is None:
        raise ValueError(
            f"{path} calls no backward(): name a function, as in {path}:FUNCTION. {ADVICE}"
        )
    failures: list[Failure] = []
    for x in xs:
        for data in Run(script, path, flags, x).candidates():
            run = Run(script, path, flags, x, data)
            failure = run.resolve()
            if failure is None:
                return run.loss()
            failures.append(failure)
    if not failures:
        raise ValueError(
            f"{path}, line {script.loss.lineno}: no data come into its loop: name a function, as "
            f"in {path}:FUNCTION. {ADVICE}"
        )
    likeliest = min(failures, key=lambda one: (one.num_unknown, -one.line))
    raise ValueError(f"{path}, line {likeliest.line}: {likeliest.text} {ADVICE}")


def is_training_script(path: Path) -> bool:
    """Whether a file is a script that calls `backward`."""
    try:
        return Script.from_source(files.read(path).decode("utf-8-sig")) is not None
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False
