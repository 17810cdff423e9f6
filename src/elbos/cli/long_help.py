"""The help of the command line, out of tyro's: formulas made readable, and wrapped anew."""

import math
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_NAMES = (
    r"alpha beta gamma epsilon eta lambda mu pi rho sigma tau "
    r"Phi infty le ge in sim times mid to propto"
)
_SIGNS = dict(zip(_NAMES.split(), "αβγεηλμπρστΦ∞≤≥∈~x|→∝", strict=True))
_RULE = "---"
_Pairs = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
_FRACTION = r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}"


def _fraction(match: re.Match[str]) -> str:
    """A fraction in one line, with the parentheses that it needs wherever it stands."""
    parts = (
        p if re.fullmatch(r"\d+|\\?[A-Za-z]+(_\\?\w+)?", p) else f"({p})" for p in match.groups()
    )
    return f"({'/'.join(parts)})"


_LATEX: _Pairs = [  # from the inside to the outside of braces
    (r"(?<=[A-Za-z})])(?=\\(?:mathrm|tilde|hat|sqrt|alpha|beta|epsilon|sigma)\b)", " "),
    (r"(?<=[A-Za-z\d})])(?=\\(?:ln|log|min|max)\b)", " "),
    (r"\\(?:mathrm|text)\{([^}]*)\}(?=\w)", r"\1 "),
    (r"\\(?:mathrm|text)\{([^}]*)\}", r"\1"),
    (r"\\(?:mathcal|mathbb) ?(\w)", r"\1"),
    (r"\\tilde ?(\\?[A-Za-z]+)", r"\1_VE"),
    (r"\\hat ?(\\?[A-Za-z]+)", r"\1_hat"),
    (r"\\bar ?", ""),
    (r"(\\(?:ln|log|tan)) ?(?=[\\\w])", r"\1 "),
    (r"\^\{([^{}]{2,})\}", r"^(\1)"),
    (r"_\{(\w*)\}", r"_\1"),
    (r"_\{([^{}]*)\}", r"_(\1)"),
    (r"\\sqrt\{([^{}]*)\}", r"√(\1)"),
    (r"\\tfrac12", "½"),
    (rf"\\left\({_FRACTION}\\right\)", _fraction),
    (_FRACTION, _fraction),
    (r"\\(?:bigl|bigr|Bigl|Bigr)\b", ""),
    (r"\\sqrt (\w)", r"√\1"),
    (r"\\(?:left|right|,|;|!|q?quad)", " "),
    (r"\\([A-Za-z]+)", lambda match: _SIGNS.get(match[1], match[1])),
    (r"\$+|[{}]", ""),
    (r" +(?= |\))|(?<=\() +", ""),
]
_METAVARS: _Pairs = [(r"\{None\}\|", ""), (r"\{None,", "{"), (r"\[(\w+) \[\1 \.\.\.\]\]", r"\1...")]
_USAGE: _Pairs = [
    *_METAVARS,
    (r" \[-h\]", ""),
    (r"\[\S+ OPTIONS\]", "[OPTIONS]"),
    (r" SUBCOMMANDS| \{[\w,-]+\}$", " PRESET"),
    (r"^(usage: elbos .*?) \[OPTIONS\](.+)", r"\1\2 [OPTIONS]"),
]
_DEFAULTS: _Pairs = [
    (r" \(default: (?:None|False)?\)", ""),
    (r" ?\(source subcommand: [^)]*\)", ""),
    (r"\(default: True\)$", "(default: True, which this turns off)"),
    (r"-?\d+\.\d{6,}", lambda match: f"{float(match[0]):.6g}"),
    (r"(Default: .*)\(default: ", r"\1(here: "),  # of the class; of what is changed
    (r"^show this help message and exit$", "Show all options; -h shows a few."),
]


@dataclass
class _Row:
    """A piece of tyro's help.

    Args:
        head: An option with what it takes, a subcommand, or a line of an example; empty for a
            paragraph.
        text: What is said of it, or the paragraph.
        indent: Where the text begins.
    """

    head: str = ""
    text: str = ""
    indent: int = 0

    def lines(self, width: int) -> list[str]:
        """The row, its text wrapped."""
        margin = self.indent * " "
        if self.text == _RULE:
            return [margin + (width - self.indent) * "-"]
        lines = textwrap.wrap(
            _replaced(self.text, [*_DEFAULTS, *_LATEX]),
            width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_on_hyphens=False,
        )
        if self.head and lines and len(self.head) + 2 <= self.indent:
            return [self.head + lines[0][len(self.head) :], *lines[1:]]
        return [self.head, *lines] if self.head else lines or [""]


def readable(text: str) -> str:
    r"""Help without LaTeX and references, wrapped to the terminal, of help that is not wrapped.

    Examples:
        >>> readable(r"$c = \frac{1}{2} x + 2\rho\ln\frac{1-t}{t}$")
        'c = (1/2) x + 2ρ ln ((1-t)/t)'
    """
    width = shutil.get_terminal_size().columns
    lines = (line for row in _rows(text.splitlines()) for line in row.lines(width))
    return "\n".join(lines).strip("\n")


def _rows(lines: list[str]) -> list[_Row]:
    """The rows of tyro's help: a text is put together again from the lines of its docstring."""
    first = "show this help message"
    column = next((line.index(first) for line in lines if first in line), 0)  # of all texts
    rows = [_Row(text=_replaced(lines[0], _USAGE)), _Row()] if column else [_Row()]
    is_listing = False
    references = math.inf  # indent of those that are left out
    for line in lines[1 if column else 0 :]:
        words, indent = line.strip(), len(line) - len(line.lstrip())
        if words and indent <= references:
            references = indent if words == "References:" else math.inf
        if references < math.inf:
            continue
        is_listing = is_listing or words.startswith(_RULE)
        last = rows[-1]
        has_text = line[:column].endswith("  ") and line[column : column + 1].strip() != ""
        is_head = indent < column and (has_text or re.match(r" +(--?\w|• )", line))
        if last == _Row() and (not words or is_head or words.startswith(_RULE)):
            rows.pop()
        if not words:
            rows.append(_Row())
        elif indent >= 4 and not is_listing:  # code
            rows.append(_Row(line.rstrip()))
        elif is_head:
            head, text = (line[:column], line[column:]) if has_text else (line, "")
            rows.append(_Row(_replaced(head, _METAVARS).rstrip(), text.strip(), column))
        elif words.startswith(_RULE):
            rows.append(_Row(text=_RULE, indent=indent))
        elif last.text.count("$$") == 1 or (
            last.text != _RULE and (last.head or last.text) and last.indent == indent != 1
        ):
            last.text = f"{last.text} {words}".strip()
        else:
            rows.append(_Row(text=words.replace("subcommands", "choices"), indent=indent))
    return rows


def _replaced(text: str, pairs: _Pairs) -> str:
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text
