"""Parsing of command lines with tyro, whose errors become one line."""

import contextlib
import io
import re
import textwrap
from pathlib import Path
from typing import TypeVar

import tyro

from elbos.base.errors import UsageError

Command = TypeVar("Command")
_MAX_LENGTH = 200  # characters of tyro's message


def parse(
    verb: str,
    command: type[Command],
    words: list[str],
    default: Command | None = None,
    *,
    summary: str | None = None,
) -> Command:
    """Parse the words after a verb into a command; for --help, print the help and exit.

    The help begins with the summary, by default the docstring of the command's dataclass. The verb
    has words such as the preset, `train digits`; `default` is the command without further words.

    Raises:
        UsageError: If a word is not understood; the message names it and the page of help.
    """
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(
                command,
                prog=f"elbos {verb}",
                description=summary,
                args=words,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            raise
    _title, text, *_ = re.split("[-─]{10,}╮?", shown.getvalue().replace("│", " "))
    text = textwrap.shorten(text, _MAX_LENGTH, placeholder=" ...").rstrip(".")
    raise UsageError(f"{text} (see `elbos {verb} --help`)")


def first_path(verb: str, words: list[str], what: str = "run directory") -> Path | None:
    """Return the path that is the first argument; None if the arguments ask for help."""
    if words[:1] == ["--help"]:
        return None
    if not words or words[0].startswith("-"):
        raise UsageError(f"The {what} comes first: elbos {verb} PATH [OPTIONS]")
    return Path(words[0])
