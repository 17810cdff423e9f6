"""Tables, rendered for the terminal or as Markdown.

Cells are plain text, which is escaped for the output format.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import rich.table
from rich import box
from rich.text import Text

from elbos.base.errors import printable
from elbos.base.numbers import NONE, setting


class Bold(str):
    """Text of a cell that is emphasized."""


@dataclass(frozen=True)
class Column:
    """Title and alignment of a table column.

    Attributes:
        title: What the column shows.
        is_numeric: Whether it is aligned to the right; the first column never is.
        is_lower_better: Whether lower numbers are better, shown by an arrow; None: no arrow.
    """

    title: str
    is_numeric: bool = True
    is_lower_better: bool | None = None

    @property
    def head(self) -> str:
        return self.title + {None: "", True: " ↓", False: " ↑"}[self.is_lower_better]


Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Table of text cells under column titles, where the first cell of each row names the row.

    Attributes:
        columns: The columns, or their titles; without any title, no header is shown.
        rows: The text of a cell for each column.
        caption: What the table shows.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Row]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"A row of {len(row)} cells, {row}, has {len(self.columns)} heads")

    @cached_property
    def heads(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column) for column in self.columns]

    @property
    def is_right_aligned(self) -> list[bool]:
        return [i > 0 and column.is_numeric for i, column in enumerate(self.heads)]

    def without_empty_columns(self) -> "Table":
        filled = [
            i
            for i in range(len(self.columns))
            if i == 0 or any(row[i] not in ("", NONE) for row in self.rows)
        ]
        rows = [[row[i] for i in filled] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in filled], rows=rows)

    def rich(self) -> rich.table.Table:
        drawn = rich.table.Table(
            title=Text(printable(self.caption)) if self.caption else None,
            title_justify="left",
            box=box.SIMPLE,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_header=any(column.title for column in self.heads),
        )
        for column, is_right in zip(self.heads, self.is_right_aligned, strict=True):
            head = Text(printable(column.head))
            drawn.add_column(head, justify="right" if is_right else "left", overflow="fold")
        for row in self.rows:
            styles = ["bold" if isinstance(cell, Bold) else "" for cell in row]
            drawn.add_row(*map(Text, map(printable, row), styles))
        return drawn

    def markdown(self) -> str:
        rows = [
            [plain(column.head) for column in self.heads],
            ["---:" if is_right else "---" for is_right in self.is_right_aligned],
            *(
                [strong(cell) if isinstance(cell, Bold) else plain(cell) for cell in row]
                for row in self.rows
            ),
        ]
        caption = f"{strong(self.caption)}\n\n" if self.caption else ""
        return caption + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def named(values: Mapping[str, Any]) -> Table:
    """Return a table of values by name, without a header."""
    rows = [(key.replace("_", " "), setting(value)) for key, value in values.items()]
    return Table(["", Column("", is_numeric=False)], rows)


def evenly(num: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `num`.

    Examples:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(place) for place in np.linspace(0, num - 1, most).tolist()})


def plain(text: object) -> str:
    """Return text on one line with Markdown characters escaped.

    Examples:
        >>> print(plain("a|b <i>*c*"))
        a\\|b \\<i\\>\\*c\\*
        >>> print(plain("1. a"), plain("- b"))
        1\\. a \\- b
    """
    escaped = re.sub(r"([\\`*_<>|\[\]#~&])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"^(\d*)([-+.)])(?=\s|[-+.)]|$)", r"\1\\\2", escaped)  # a list, a rule


def strong(text: object) -> str:
    return f"**{plain(text)}**" if str(text).strip() else ""
