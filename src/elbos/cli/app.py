"""Dispatch of the command line `elbos VERB`, with exit status and one-line errors.

Exit status 0: done. 1: a failure, explained in one line on stderr. 2: wrong usage, likewise. Errors
that a user can cause are Python's own (`ValueError`, `OSError`, ...), raised where they are noticed
with a message that says what to do, and end up here. `ELBOS_DEBUG=1` shows where they came from.
"""

import gc
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from elbos.base.errors import (
    Diverged,
    Interrupted,
    UsageError,
    explained,
    flat,
    is_out_of_memory,
    suggestion,
)
from elbos.base.extras import MissingExtra, needs
from elbos.base.progress import log_on_terminal
from elbos.base.user_code import no_modules_here


class Verb(NamedTuple):
    summary: str
    extra: str = "train"  # the installation extra that the verb needs


VERBS = {
    "train": Verb("Train a preset, or the configuration in --config FILE."),
    "sample": Verb("Sample from a trained model, into a PNG grid and an .npz file."),
    "evaluate": Verb(
        "Measure likelihood, loss by noise level and sample quality of models.", "evaluate"
    ),
    "compare": Verb(
        "Train and compare objectives, with confidence intervals.",
        "evaluate",
    ),
    "audit": Verb(
        "Measure the weighting that a training loss implies.",
        "cli",
    ),
    "record": Verb("Run a training script, unchanged, and audit its loss.", "cli"),
    "data": Verb("Decode images into arrays that open at once."),
    "weightings": Verb("Print the weightings of published recipes, and where they rise.", "cli"),
}
PARALLEL = (["train"], ["sample"], ["evaluate"], ["record"])
"""Beginnings of the commands that run on several processes."""


def main() -> None:
    warnings.formatwarning = lambda message, *_: f"elbos: warning: {flat(message)}\n"
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller, as with >&-
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        _require_folder()
        with no_modules_here(), log_on_terminal():
            run(sys.argv[1:])
        sys.stdout.flush()
    except UsageError as error:
        _fail(error, 2)
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        _discard_output()
        sys.exit(1)
    except (Interrupted, Diverged) as error:  # raised in all processes; the main one reports
        if os.environ.get("RANK", "0") != "0":
            sys.exit(1)
        _fail(error, 1)
    except (ValueError, OSError, MissingExtra) as error:
        _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(MemoryError("Out of memory: use smaller batches, or less data at once."), 1)
    except KeyboardInterrupt:
        _fail(InterruptedError("Interrupted."), 1)


def _require_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # which MKL answers by ending the process
        raise FileNotFoundError("The current folder was removed: change to another.") from error


def run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        lines = (f"  {verb:12}{about.summary}" for verb, about in VERBS.items())
        print("\n".join(["usage: elbos VERB [OPTIONS]; `elbos VERB --help` explains them", *lines]))  # noqa: T201
        return
    if words[0] == "--version":
        for line in importlib.import_module("elbos.cli.version").report():
            print(line)  # noqa: T201
        return
    verb, *rest = words
    rest = ["--help"] if rest == ["-h"] else rest
    if verb not in VERBS:
        raise UsageError(f"There is no verb {verb!r}: {suggestion(verb, VERBS)}")
    num = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if num == 1 or any(words[: len(parallel)] == parallel for parallel in PARALLEL):
        with _keeping_all():
            with needs(VERBS[verb].extra):
                module = importlib.import_module(f"elbos.cli.{verb}")
            action = module.command(rest)
        action()
    elif os.environ.get("RANK") == "0":  # others exit with 0, or the launcher kills this one
        name = " ".join(words[:2])
        raise UsageError(f"`elbos {name}` runs in one process: start it without torchrun.")


@contextmanager
def _keeping_all() -> Iterator[None]:
    """Exempt what the `with` block creates from garbage collection: a fifth of the time to start.

    Imported modules and parsed options live until the process ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _fail(error: BaseException, status: int) -> None:
    if os.environ.get("ELBOS_DEBUG"):
        raise error
    sys.stderr.write(f"elbos: {explained(error)}\n")
    sys.last_value = error  # Python sets it, and exit handlers read it
    try:
        sys.stdout.flush()
    except OSError:  # disk full: Python would report it again at exit
        _discard_output()
    sys.exit(status)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
