"""From words to a command; what is wrong with them in one line, made from tyro's boxed messages."""

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TypeVar

import tyro

from elbos.base.errors import UsageError, suggestion
from elbos.cli.long_help import readable

Command = TypeVar("Command")
_MAX_LISTED = 8  # choices that a message lists
_PARSING: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^Error parsing ([A-Z]\w+|[a-z_.]+): ", ""),
    (r"^Missing from elbos .*?([\w.:-]+): (--\S+ \S+).*", r"\1 needs \2"),
    (
        r"^Expected one of \{(.*)\}$",
        lambda match: f"A type is missing: {suggestion('', match[1].split(', '))}",
    ),
    (
        r"^Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]$",
        r"\1 cannot be \2",
    ),
    (r"'None', |, 'None'", ""),
    (r" \(applied to [^)]*\)", ""),
    (r" Arguments are applied to the directly preceding subcommand.*", ""),
]


def parse(
    verb: str,
    command: type[Command],
    words: list[str],
    default: Command | None = None,
    *,
    start: Sequence[str] = (),
    summary: str | None = None,
) -> Command:
    """The command that the words after a verb stand for; --help is shown, and ends the process.

    Args:
        verb: The verb, and what else the words come after: `train digits`.
        command: A dataclass.
        words: What follows the verb.
        default: What stands where there are no words. Default: the dataclass's own defaults.
        start: The words that `default` is made from.
        summary: What the help says first. Default: the dataclass's docstring.

    Raises:
        UsageError: If the words are wrong.
    """
    shown = io.StringIO()
    try:
        return _parsed(verb, command, words, default, shown, summary)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            print(readable(shown.getvalue()))  # noqa: T201
            raise
    page = Page(
        command=shlex.join(["elbos", *verb.split(), *start]),
        options=partial(_options, verb, command, default),
    )
    raise UsageError(one_line(shown.getvalue(), page))


def _parsed(
    verb: str,
    command: type[Command],
    words: list[str],
    default: Command | None,
    shown: io.StringIO,
    summary: str | None = None,
) -> Command:
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown), _unwrapped():
        return tyro.cli(
            command,
            prog=f"elbos {verb}",
            description=summary,
            args=words,
            default=tyro.MISSING_NONPROP if default is None else default,
            config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
        )


def _options(verb: str, command: type[Command], default: Command | None) -> list[str]:
    """The options on the command's page of help."""
    shown = io.StringIO()
    with contextlib.suppress(SystemExit):
        _parsed(verb, command, ["--help"], default, shown)
    return re.findall(r"^ +(--\w[\w.-]*)", shown.getvalue(), re.MULTILINE)


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let tyro break few lines, as `readable` wraps them: in a single column, at its widest."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "129"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        os.environ |= {} if columns is None else {"COLUMNS": columns}


def first_path(verb: str, words: list[str], what: str = "run directory") -> Path | None:
    """The run directory, or `what` else, that the words begin with, whose settings are the others'
    defaults; None where help is wanted.

    Raises:
        UsageError: If they begin with something else.
    """
    if words[:1] == ["--help"]:
        return None
    if not words or words[0].startswith("-"):
        raise UsageError(f"The {what} comes first: elbos {verb} PATH [OPTIONS]")
    return Path(words[0])


@dataclass(frozen=True)
class Page:
    """A page of help.

    Attributes:
        command: What it is the help of, as `elbos train digits`; tyro calls it `elbos`.
        options: Lists the options on it, which takes tyro as long as to read the words.
    """

    command: str
    options: Callable[[], Sequence[str]] = tuple


def one_line(message: str, page: Page) -> str:
    """What an error message of tyro's says, what was meant, and which help holds it.

    Args:
        message: The message, in a box that is drawn with `-`.
        page: The help of the command as far as it was right.

    Examples:
        >>> rule = 20 * "-"
        >>> message = f"Error {rule} Unrecognized options: --lr, 3 {rule} For full helptext, see"
        >>> one_line(message, Page("elbos train digits"))
        'There is no option --lr (see `elbos train digits --help`)'
    """
    flat = " ".join(message.split())
    _title, text, *others = (part.strip() for part in re.split(r"-{10,}", flat))
    for pattern, replacement in _PARSING:
        text = re.sub(pattern, replacement, text.rstrip("."))
    text = text.rstrip(".")
    wrong = re.match(r"Unrecognized (?:or misplaced )?options: (\S+?)(?:,? (\S+).*)?$", text)
    if not wrong:
        return f"{text} (see `{page.command} --help`)"
    word, value = wrong[1], wrong[2]
    if word.startswith("-"):
        word, _, joined = word.partition("=")
        value = joined or value
    what = f"There is no {'option ' if word.startswith('-') else ''}{word}"
    names = _listed("Available subcommands: ", others)
    elsewhere = _suggested(" ".join(others), page.command)
    if pages := [command for option, command in elsewhere if option == word]:
        command = min([c for c in pages if c.startswith(page.command)] or pages, key=len)
        after = command.removeprefix(page.command).split()
        where = f"here, but after {' '.join(after)}"
        if not after:
            where = "here: give it once, before all parts"
        elif ":" not in after[0]:
            where = "before a preset"
            if after[0] in names:
                where = f"{where}: {_choices(names)}"
        return f"{what} {where} (see `{command} --help`)"
    listed = page.options() if word.startswith("-") else ()
    options = [*listed, *(option for option, _ in elsewhere)]
    if hint := _hint(word, value or "", names, options):
        what = f"{what}: {hint}"
    return f"{what} (see `{page.command} --help`)"


def _hint(word: str, value: str, names: Sequence[str], options: Iterable[str]) -> str:
    """What may have been meant by a word that nothing is called, before `value`."""
    key = re.sub("^lr$", "learning-rate", word.lstrip("-").replace("=", ":"))
    group = [n for n in names if f".{n}".partition(":")[0].endswith(f".{key.partition(':')[0]}")]
    if not word.startswith("-"):
        meant = _nearest(key, group or names)
    elif group:
        meant = value and _nearest(f"{key}:{value}", group)
    else:
        known = {option.lstrip("-"): option for option in options}
        part = get_close_matches(f"{key}:{value}", names, n=1, cutoff=0.8)  # --wieghting elbo
        meant = part[0] if part else known.get(_nearest(key, [*known]) or "")
    if meant == word:
        return "give it after the preset or type that it belongs to"
    if meant:
        return f"did you mean {meant}?"
    if group:
        return suggestion("", group).rstrip(".")
    if word.startswith("-"):
        return ""
    return _choices(names) or ("is one of its kind given already?" if ":" in word else "")


def _choices(names: Sequence[str]) -> str:
    return f"choose from {', '.join(names)}" if 0 < len(names) <= _MAX_LISTED else ""


def _nearest(word: str, names: Sequence[str]) -> str | None:
    """The name that is `word`, or ends in it, or is spelled nearly like it, whole or at its end."""
    word, ends = word.replace("_", "-"), {re.split(r"[.:]", name)[-1]: name for name in names}
    if not word:
        return None
    if fitting := [name for name in names if f".{name}".endswith((f".{word}", f":{word}"))]:
        return min(fitting, key=len)
    if close := get_close_matches(word, names, n=1, cutoff=0.8):
        return close[0]
    end = get_close_matches(re.split(r"[.:]", word)[-1], ends, n=1, cutoff=0.75)
    return ends[end[0]] if end else None


def _listed(label: str, parts: Iterable[str]) -> list[str]:
    found = next((part for part in parts if part.startswith(label)), label)
    return [name for name in found.removeprefix(label).split(", ") if name]


def _suggested(text: str, start: str) -> list[tuple[str, str]]:
    """The options that tyro suggests, and the commands whose help has them."""
    found: list[tuple[str, str]] = []
    for option in re.split(r" (?=--(?!help)[\w.-]+ [A-Z{\[])", text):  # a word of a help is not one
        pages = re.findall(r" in elbos\b([^()]*?)(?: \(other subcommands\))? --help", option)
        found += [(option.split(" ")[0], f"{start}{page}") for page in pages]
    return found
