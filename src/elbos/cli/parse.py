"""Parsing of command lines with tyro, whose errors become one line."""

import contextlib
import io
import re
import textwrap
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import tyro

from elbos.base.errors import UsageError, shortened, suggestion

Command = TypeVar("Command")
_MAX_LENGTH = 200  # characters of tyro's message


def parse(
    verb: str,
    command: type[Command],
    words: list[str],
    default: Command | None = None,
    *,
    summary: str | None = None,
    rest: str | None = None,
) -> Command:
    """Parse the words after a verb into a command; for --help, print the help and exit.

    The help begins with the summary, by default the docstring of the command's dataclass. The verb
    has words such as the preset, `train digits`; `default` is the command without further words.
    `rest` says what to do for an option that the verb lacks, by default to see the help.

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
    _title, text, *context = re.split("[-─]{10,}╮?", shown.getvalue().replace("│", " "))
    text = textwrap.shorten(text, _MAX_LENGTH, placeholder=" ...").rstrip(".")
    if text.startswith("Unrecognized options: "):
        word = text.split()[2].rstrip(",")
        hint = _hint(word, " ".join(context)) or rest or f"see `elbos {verb} --help`"
        raise UsageError(f"`elbos {verb}` does not take {shortened(word)}: {hint}")
    text = re.sub(r"^Error parsing (?:[A-Z]\w*: |(?:[a-z_]+\.)*)", "", text)
    raise UsageError(f"{text} (see `elbos {verb} --help`)")


def _hint(word: str, context: str) -> str:
    """Suggest an option, or a part as `weighting:sigmoid`, of those that tyro's error names."""
    parts = re.findall(r"(?<!\S)[a-z.]+:[\w-]+", context)
    kind, _, name = word.partition(":")
    if of_kind := [part.partition(":")[2] for part in parts if part.startswith(f"{kind}:")]:
        return suggestion(name, of_kind)
    close = get_close_matches(word, [*parts, *re.findall(r"(?<!\S)--[\w.-]+", context)], n=1)
    return f"did you mean {close[0]}?" if close else ""


def first_path(verb: str, words: list[str], what: str = "run directory") -> Path | None:
    """Return the path that is the first argument; None if the arguments ask for help."""
    if words[:1] == ["--help"]:
        return None
    if not words or words[0].startswith("-"):
        raise UsageError(f"The {what} comes first: elbos {verb} PATH [OPTIONS]")
    return Path(words[0])
