"""Audits of whole training scripts: the lines from the noise to the loss are run with a stand-in
network.

`slicing` finds the lines, also in a method of a class (`classes`). They are first run with
`unknown` in place of every value that the script would load or build. Then only the values on which
the loss depends are made known:

- the clean data, assigned to the one variable of the loop with which the loss becomes known;
- a definition above the loop, such as that of a scheduler, if the loss depends on it: no other
  definition is run, and never one of a network or of loaded data;
- the script's arguments, as its `argparse` parser defines them, required or not.

Nothing is downloaded. A scheduler's configuration is read from the folder, or from the local cache
of the Hub, that the script's arguments name; else the published configuration of the script's model
family is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from elbos.adapters.scripts.arguments import RefusedArgumentsError
from elbos.adapters.scripts.modules import own_modules
from elbos.adapters.scripts.run import Failure, Run
from elbos.adapters.scripts.slicing import Script
from elbos.audit import probe
from elbos.audit.result import Audit
from elbos.base import files
from elbos.base.checks import typed
from elbos.base.user_code import as_script

__all__ = [
    "ADVICE",
    "RefusedArgumentsError",
    "from_script",
    "is_training_script",
    "own_modules",
    "script_loss",
]

ADVICE = (
    "Scripts like diffusers' are read, whose loop holds the loss; of any other, record some "
    "hundred steps: `with elbos.audit.record(model) as recorded:` around its loop, then "
    "`print(recorded.audit())`."
)
"""Advice in error messages about scripts that cannot be read."""


def script_loss(path: Path, xs: Sequence[Tensor], flags: Sequence[str] = ()) -> Run:
    """Return the loss of a training script as a function `loss(network, x)`.

    The function can be audited. The first of the shapes in `xs` that the script accepts is used.

    Raises:
        OSError: If the script cannot be read.
        RefusedArgumentsError: If the script's parser refuses the flags.
        ValueError: If the script has no such loop, or a line fails; the error names the line.
    """
    try:
        script = Script.from_source(files.read(path).decode("utf-8-sig"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    if script is None:
        raise ValueError(
            f"{path} calls no backward(): name a function, as in {path}:FUNCTION. {ADVICE}"
        )
    if script.others:
        lines = ", ".join(map(str, sorted({one.lineno for one in (script.loss, *script.others)})))
        raise ValueError(
            f"{path} has several losses, in lines {lines}: name a function that computes one, as "
            f"in {path}:FUNCTION. {ADVICE}"
        )
    failures: list[Failure] = []
    for x in xs:
        for data in Run(script, path, flags, x).candidates():
            run = Run(script, path, flags, x, data)
            failure = run.resolve()
            if failure is None:
                return run
            failures.append(failure)
    if not failures:
        raise ValueError(
            f"{path}, line {script.loss.lineno}: no data enter its loop: name a function, as "
            f"in {path}:FUNCTION. {ADVICE}"
        )
    likeliest = min(failures, key=lambda one: (one.num_unknown, -one.line))
    raise ValueError(f"{path}, line {likeliest.line}: {likeliest.text} {ADVICE}")


def is_training_script(path: Path) -> bool:
    """Return whether a file is a Python training script.

    Such a script calls `backward`. The result is False for a file that cannot be read.
    """
    try:
        return Script.from_source(files.read(path).decode("utf-8-sig")) is not None
    except (OSError, SyntaxError, UnicodeDecodeError):
        return False


@typed
def from_script(
    path: Path | str,
    x: Float[Tensor, "b *d"] | Sequence[Tensor],
    flags: Sequence[str] = (),
    num_samples: int = 20_000,
    seed: int = 0,
    *,
    data_scale: float | None = None,
    title: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Audit:
    """Audit the loss of an unmodified training script.

    The lines from the noise to the loss are run. The lines are those that the argument of
    `accelerator.backward(loss)`, or the `loss` of `loss.backward()`, depends on, in the innermost
    loop around the call. Data, encoders, networks and other loaded objects are replaced by
    stand-ins, and nothing is downloaded; a definition above the loop, such as that of a scheduler,
    is run if the loss depends on it.

    Args:
        path: The script. The packages that these lines need must be installed.
        x: Training data: latents, where the script encodes images. Or several of different
            shapes, of which the first that the script accepts is used.
        flags: The script's own arguments, such as `["--snr_gamma", "5"]`; required ones are
            optional here.
        num_samples: As `probe`'s.
        seed: As `probe`'s.
        data_scale: As `probe`'s.
        title: Title of the audit in reports. Default: the script's file name.
        advance: As `probe`'s.

    Returns:
        The audit; the diagnostic "script" says which lines were run.

    Raises:
        OSError: If the script cannot be read.
        ValueError: In one line, with the line of the script that stopped it.
    """
    path = Path(path)
    with as_script(str(path)), own_modules(path):
        loss = script_loss(path, [x] if isinstance(x, Tensor) else x, flags)
        diagnostics = loss.diagnostics()
        try:
            audit = probe(
                loss,
                loss.x,
                num_samples,
                seed,
                data_scale=data_scale,
                title=title or path.name,
                advance=advance,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error} {ADVICE}") from error
    return replace(audit, diagnostics=[*diagnostics, *audit.diagnostics])
