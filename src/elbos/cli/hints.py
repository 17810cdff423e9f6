"""What a mistyped command line means: tyro's boxed errors become one line with a hint."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

_MANY = 8  # choices, which a message does not list
_PARSING: Sequence[tuple[str, str]] = [
    (r"^Error parsing [A-Z]\w+: ", ""),
    (
        r"^Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]$",
        r"\1 cannot be \2",
    ),
    (r"'None', |, 'None'", ""),
    (r" \(applied to [^)]*\)", ""),
    (r" Arguments are applied to the directly preceding subcommand.*", ""),
]


@dataclass(frozen=True)
class Page:
    """A page of help.

    Attributes:
        command: What it is the help of, as `elbos train digits`.
        start: What tyro calls `elbos` in it: `elbos train`, or `elbos sample RUN`.
        options: The options on it.
    """

    command: str
    start: str
    options: tuple[str, ...] = ()


def one_line(message: str, page: Page) -> str:
    """What an error message of tyro's says, what was meant, and which help holds it.

    Args:
        message: The message, in a box that is drawn with `-`.
        page: The help of the command as far as it was right.

    Examples:
        >>> rule = 20 * "-"
        >>> message = f"Error {rule} Unrecognized options: --lr, 3 {rule} For full helptext, see"
        >>> one_line(message, Page("elbos train digits", "elbos train"))
        'There is no option --lr (see `elbos train digits --help`)'
    """
    flat = " ".join(message.split())
    _title, text, *others = (part.strip() for part in re.split(r"-{10,}", flat))
    text = text.rstrip(".")
    for pattern, replacement in _PARSING:
        text = re.sub(pattern, replacement, text)
    wrong = re.match(r"Unrecognized (?:or misplaced )?options: (\S+?)(?:,? (\S+).*)?$", text)
    if not wrong:
        return f"{text} (see `{page.command} --help`)"
    word, value = wrong[1], wrong[2]
    if word.startswith("-"):
        word, _, joined = word.partition("=")
        value = joined or value
    what = f"There is no {'option ' if word.startswith('-') else ''}{word}"
    names = _listed("Available subcommands: ", others)
    elsewhere = _suggested(" ".join(others), page.start)
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
    options = [*page.options, *(option for option, _ in elsewhere)]
    if hint := _hint(word, value or "", names, options):
        what = f"{what}: {hint}"
    return f"{what} (see `{page.command} --help`)"


def _hint(word: str, value: str, names: Sequence[str], options: Iterable[str]) -> str:
    """What may have been meant by a word that nothing is called, before `value`."""
    if not word.startswith("-"):
        if meant := _nearest(word.replace("=", ":"), names):
            return f"did you mean {meant}?"
        return _choices([n for n in names if n.startswith(word.partition(":")[0] + ":")] or names)
    group = re.sub("^lr$", "learning-rate", word.lstrip("-"))
    if members := [n for n in names if f".{n}".partition(":")[0].endswith(f".{group}")]:
        meant = _nearest(value, members)
        return f"did you mean {meant}?" if meant else _choices(members, most=len(members))
    groups = {name.partition(":")[0] for name in names if ":" in name}
    groups = {g for g in groups if group.count(".") in (0, g.count("."))}
    if meant := _nearest(group, sorted(groups)):
        return _hint(f"--{meant}", value, names, options)
    meant = _nearest(group, [option.lstrip("-") for option in options])
    return f"did you mean --{meant}?" if meant else ""


def _choices(names: Sequence[str], most: int = _MANY) -> str:
    return f"choose from {', '.join(names)}" if 0 < len(names) <= most else ""


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
