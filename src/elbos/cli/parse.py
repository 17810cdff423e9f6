"""Parsing of command lines with tyro: plain-text help, one-line errors with suggestions."""

import contextlib
import io
import re
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import tyro

from elbos.base.errors import UsageError, suggestion

Command = TypeVar("Command")
_MAX_LENGTH = 200  # characters of tyro's message
_NAMES_ELSEWHERE = {  # options of other trainers, and ours
    "lr": "learning-rate",
    "output-dir": "run",
    "save-dir": "run",
    "max-steps": "num-images",
    "max-train-steps": "num-images",
    "num-train-epochs": "num-images",
    "train-batch-size": "batch-size",
    "gradient-accumulation-steps": "num-micro-batches",
    "ema-decay": "relative-width",
    "mixed-precision": "precision",
    "lr-warmup-steps": "warmup-images",
    "report-to": "trackers",
    "logger": "trackers",
}
_SIGNS = {"ge": ">=", "le": "<=", "infty": "inf", "propto": "proportional to"}


def parse(
    verb: str,
    command: type[Command],
    words: list[str],
    default: Command | None = None,
    *,
    start: Sequence[str] = (),
    summary: str | None = None,
) -> Command:
    """Parse command-line words into a command.

    The words follow the verb. For --help, the help is printed and the program exits.

    Args:
        verb: The verb, with preceding words such as the preset: `train digits`.
        command: The dataclass of the command.
        words: The words after the verb; a UsageError explains invalid ones.
        default: The command without words. Default: an instance with the dataclass defaults.
        start: The words from which `default` was made.
        summary: The first paragraph of the help. Default: the docstring of the dataclass.
    """
    shown = io.StringIO()

    def parsed(words: list[str]) -> Command:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            return tyro.cli(
                command,
                prog=f"elbos {verb}",
                description=summary,
                args=words,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
            )

    try:
        return parsed(words)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            print(_plain(shown.getvalue()))  # noqa: T201
            raise
    message = shown.getvalue()
    with contextlib.suppress(SystemExit):
        parsed(["--help"])
    options = re.findall(r"^ +(--\w[\w.-]*)", shown.getvalue(), re.MULTILINE)
    raise UsageError(one_line(message, shlex.join(["elbos", *verb.split(), *start]), options))


def first_path(verb: str, words: list[str], what: str = "run directory") -> Path | None:
    """Return the path that is the first argument of a command.

    The result is None if the arguments ask for help.
    """
    if words[:1] == ["--help"]:
        return None
    if not words or words[0].startswith("-"):
        raise UsageError(f"The {what} comes first: elbos {verb} PATH [OPTIONS]")
    return Path(words[0])


def _plain(text: str) -> str:
    text = re.sub(r"\{None\}\|", "", text).replace("{None,", "{")
    text = re.sub(r"\[(\w+) \[\1 \.\.\.\]\]", r"\1...", text)
    text = re.sub(r"\s+\(default:\s+(None|False)?\)|\s+\(source\s+subcommand: [^)]*\)", "", text)
    text = re.sub(r"\n\s*\n( +)References: *(\n\1.*\S.*)*", "", text)
    text = re.sub(r",?\s+\$\$[^$]+\$\$|,\s+\$[^$]+\$(?=[.:])", "", text)
    text = re.sub(r"\$([^$]+)\$", lambda math: _as_text(math[1]), text)
    width = shutil.get_terminal_size().columns
    lines = [textwrap.wrap(line, width) for line in text.splitlines()]
    return "\n".join(line for wrapped in lines for line in wrapped or [""])


def _as_text(math: str) -> str:
    r"""Convert a short LaTeX formula to plain text.

    Examples:
        >>> _as_text(r"\tilde\sigma_\min \ge 0"), _as_text(r"2\ln\frac{1-t}{t}")
        ('sigma_min >= 0', '2 ln (1-t)/(t)')
    """
    math = re.sub(r"\\(mathrm|mathbb|mathcal|tilde|hat|left|right|[,!])(?![a-z]) ?", "", math)
    math = re.sub(r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}", r" (\1)/(\2)", math)
    math = re.sub(r"\\(ln|log) ?", r" \1 ", math)
    math = re.sub(r"\\([A-Za-z]+)", lambda name: _SIGNS.get(name[1], name[1]), math)
    return re.sub(r"(?<=\S) +", " ", math.replace("{", "(").replace("}", ")")).strip()


def one_line(message: str, page: str, options: Sequence[str] = ()) -> str:
    """Shorten an error message of tyro to one line.

    The line has a suggestion and the command that shows the help.

    Args:
        message: The message of tyro, in parts separated by rules of `-`.
        page: The command whose help explains the options.
        options: The options in that help.

    Examples:
        >>> rule = 20 * "-"
        >>> message = f"Error {rule} Unrecognized options: --lr, 3 {rule} For full helptext, see"
        >>> one_line(message, "elbos train digits", ["--optimizer.learning-rate"])
        'There is no option --lr: did you mean --optimizer.learning-rate? (see `elbos train digits --help`)'
    """  # noqa: E501
    _title, text, *others = re.split(r"\s*-{10,}\s*", " ".join(message.split()))
    wrong = re.match(r"Unrecognized (?:or misplaced )?options: ([^\s,]+)[\s,]*([^\s,(]*)", text)
    if not wrong:
        text = textwrap.shorten(text, _MAX_LENGTH, placeholder=" ...").rstrip(".")
        text = re.sub(
            r"Error parsing (\S+): Could .* arguments: \[(.*)\]", r"\1 cannot be \2", text
        )
        text = re.sub(r"^Error parsing [A-Za-z_.]+: ", "", text)
        return f"{text} (see `{page} --help`)"
    word, _, joined = wrong[1].partition("=")
    suggested = next((part for part in others if part.startswith("Perhaps you meant")), "")
    listed = next((part for part in others if part.startswith("Available subcommands")), "")
    names = re.findall(r"[\w.:-]+(?=,|$)", listed)
    pages = rf"{re.escape(word)} .*? in elbos\b([^()]*?)(?: \([^()]*\))? --help"
    elsewhere = re.search(pages, suggested)
    options = [*options, *re.findall(r"--(?!help)\w[\w.-]*", suggested)]
    hint = "" if elsewhere or word in names else _hint(word, joined or wrong[2], names, options)
    if elsewhere:
        page += elsewhere[1]
    if hint or (word.startswith("-") and not elsewhere):
        kind = "option " if word.startswith("-") else ""
        return f"There is no {kind}{word}{hint and f': {hint}'} (see `{page} --help`)"
    return f"{word} is given twice or out of place: order matters (see `{page} --help`)"


def _hint(word: str, value: str, names: Sequence[str], options: Sequence[str]) -> str:
    name = word.lstrip("-").replace("_", "-")
    key, _, last = _NAMES_ELSEWHERE.get(name, word.lstrip("-")).partition(":")
    meant = f"{key}:{last or value}"
    types = [name for name in names if f".{name}".partition(":")[0].endswith(f".{key}")]
    if types and meant.endswith(":"):
        return suggestion("", types).rstrip(".")
    near = get_close_matches(meant, types, n=1, cutoff=0.0)
    near += get_close_matches(meant, names, n=1, cutoff=0.8)
    if word.startswith("-"):
        longest_first = sorted(options, key=len, reverse=True)
        ends = {option.rpartition(".")[2].lstrip("-"): option for option in longest_first}
        near += [ends[end] for end in get_close_matches(key.rpartition(".")[2], ends, n=1)]
    else:
        near += [name for name in names if word in re.split("[.:]", name)]
        near += get_close_matches(word, names, n=1)
    if near:
        is_steps = name in _NAMES_ELSEWHERE and near[0].endswith("-images")
        return f"did you mean {near[0]}{', which counts images' if is_steps else ''}?"
    return "" if word.startswith("-") or ":" in word else suggestion(word, names).rstrip(".")
