"""The help of the command line, out of tyro's: formulas made readable, and wrapped anew."""

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
_Pairs = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
_LATEX: _Pairs = [  # from the inside to the outside of braces
    (r"\\(?:mathrm|text)\{([^}]*)\}(?=\w)", r"\1 "),
    (r"\\(?:mathrm|text)\{([^}]*)\}", r"\1"),
    (r"\\(?:mathcal|mathbb) ?(\w)", r"\1"),
    (r"\\tilde\\sigma", "σ_VE"),
    (r"(\\(?:ln|log|tan)) ?(?=[\\\w])", r"\1 "),
    (r"\^\{([^{}]{2,})\}", r"^(\1)"),
    (r"_\{([^{}]*)\}", r"_\1"),
    (r"\\sqrt\{([^{}]*)\}", r"√(\1)"),
    (r"\\tfrac12", "½"),
    (r"\\t?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    (r"\\(?:bigl|bigr|Bigl|Bigr)\b", ""),
    (r"\\sqrt (\w)", r"√\1"),
    (r"\\(?:left|right|,|;|!|q?quad)", " "),
    (r"\b\\hat ?(\\?\w+)", r" \1_hat"),
    (r"\\hat ?(\\?\w+)", r"\1_hat"),
    (r"\\(?:tilde|bar) ?", ""),
    (r"\\([A-Za-z]+)", lambda match: _SIGNS.get(match[1], match[1])),
    (r"\$+|[{}]", ""),
    (r" +(?= |\))", ""),
]
_METAVARS: _Pairs = [(r"\{None\}\|", ""), (r"\{None,", "{"), (r"\[(\w+) \[\1 \.\.\.\]\]", r"\1...")]
_USAGE: _Pairs = [*_METAVARS, (r"^(usage: elbos \w+) \[-h\] \[OPTIONS\] (.+)", r"\1 \2 [OPTIONS]")]
_DEFAULTS: _Pairs = [
    (r" \(default: (?:None|False)?\)", ""),
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
        text = _replaced(self.text, [*_DEFAULTS, *_LATEX])
        lines = textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin)
        if self.head and lines and len(self.head) + 2 <= self.indent:
            return [self.head + lines[0][len(self.head) :], *lines[1:]]
        return [self.head, *lines] if self.head else lines or [""]


def readable(text: str) -> str:
    r"""Help without LaTeX, wrapped anew, as formulas are shorter than their code.

    Examples:
        >>> readable(r"$\lambda_\min$, the noisy end.")
        'λ_min, the noisy end.'
    """
    width = shutil.get_terminal_size().columns
    return "\n".join(line for row in _rows(text.splitlines()) for line in row.lines(width))


def _rows(lines: list[str]) -> list[_Row]:
    """The rows of tyro's help, put together again: all their texts begin in one column."""
    first = "show this help message"
    column = next((line.index(first) for line in lines if first in line), 0)
    rows = [_Row(head=_replaced(lines[0], _USAGE))] if column else []
    is_listing = False
    for line in lines[len(rows) :]:
        words, indent = line.strip(), len(line) - len(line.lstrip())
        is_listing = is_listing or words.startswith("---")
        last = rows[-1] if rows else _Row()
        has_text = line[:column].endswith("  ") and line[column : column + 1].strip() != ""
        if not words:
            if last != _Row():
                rows.append(_Row())
        elif indent == 4 and not is_listing:
            rows.append(_Row(line.rstrip()))
        elif indent < column and (has_text or re.match(r" +(--?\w|• )", line)):
            head, text = (line[:column], line[column:]) if has_text else (line, "")
            rows.append(_Row(_replaced(head, _METAVARS).rstrip(), text.strip(), column))
        elif last.text.count("$$") == 1 or _goes_on(last, indent, column):
            last.text = f"{last.text} {words}".strip()
        else:
            rows.append(_Row(text=words, indent=indent))
    return rows


def _goes_on(row: _Row, indent: int, column: int) -> bool:
    """Whether a line goes on with the row before it: in the column of texts, or of paragraphs."""
    return 0 < indent == row.indent and indent in (2, column) and not row.text.startswith("---")


def _replaced(text: str, pairs: _Pairs) -> str:
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text
