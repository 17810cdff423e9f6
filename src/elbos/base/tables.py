"""Tables, rendered for the terminal, as HTML or as Markdown.

Cells are plain text, which is escaped for the output format. Only `Markup`, for HTML pages, is not
escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import rich.table
from markupsafe import escape
from rich import box
from rich.text import Text

from elbos.base.colors import Swatch
from elbos.base.errors import printable
from elbos.base.html import Markdown, plain, render
from elbos.base.numbers import NONE, setting

BEST = "★"


@dataclass(frozen=True)
class Column:
    """Title, alignment and sort direction of a table column.

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
        arrow = {None: "", True: " ↓", False: " ↑"}[self.is_lower_better]
        return self.title + arrow  # the title first: a `Markup` stays one


@dataclass(frozen=True)
class Cell:
    """Text and formatting of a table cell.

    Attributes:
        text: The value.
        is_best: Whether it gets a star.
        note: Remark shown below the value on a page, and after the value elsewhere.
        swatch: Line sample of the curve that the value belongs to.
        is_bold: Whether it is emphasized.
        value: Sort key on a page. Default: the text.
        kind: The class of a badge on a page: "yes" or "no". Default: no badge.
    """

    text: str
    is_best: bool = False
    note: str = ""
    swatch: Swatch | None = None
    is_bold: bool = False
    value: float | None = None
    kind: str = ""

    @property
    def sorts_as(self) -> str:
        if self.value is not None:
            return str(self.value)
        return "" if self.text == NONE else escape(self.text).striptags()


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """Table of text cells under column titles, where the first cell of each row names the row.

    Attributes:
        columns: The columns, or their titles; without any title, no header is shown.
        rows: A cell for each column, or its text.
        caption: What the table shows.
        foot: Footer rows, which are not sorted.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Row]
    caption: str = ""
    foot: Sequence[Row] = ()

    @property
    def has_head(self) -> bool:
        return any(column.title for column in self.heads)

    @cached_property
    def heads(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column) for column in self.columns]

    @property
    def body_cells(self) -> list[list[Cell]]:
        return _cells(self.rows)

    @property
    def foot_cells(self) -> list[list[Cell]]:
        return _cells(self.foot)

    def without_empty_columns(self) -> "Table":
        cells = [*self.body_cells, *self.foot_cells]
        filled = [
            i
            for i in range(len(self.columns))
            if i == 0 or any(row[i].text not in ("", NONE) for row in cells)
        ]
        rows, foot = ([[row[i] for i in filled] for row in part] for part in (self.rows, self.foot))
        return replace(self, columns=[self.columns[i] for i in filled], rows=rows, foot=foot)

    def rich(self) -> rich.table.Table:
        drawn = rich.table.Table(
            title=Text(printable(self.caption)) if self.caption else None,
            title_justify="left",
            box=box.SIMPLE,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_header=self.has_head,
        )
        for i, column in enumerate(self.heads):
            drawn.add_column(
                Text(printable(column.head)),
                justify="right" if i and column.is_numeric else "left",
                overflow="fold",
            )
        for row in self.body_cells:
            drawn.add_row(*map(_for_terminal, row))
        for row in self.foot_cells:
            drawn.add_row(*map(_for_terminal, row), style="dim")
        return drawn

    def html(self, kind: str = "", *, is_sortable: bool = False) -> str:
        """Render the table as HTML, with `kind` as classes for the style sheet.

        The heads of columns of a sortable table are buttons.
        """
        has_numbers = any(column.is_numeric for column in self.heads[1:])
        classes = f"{'numbers' if has_numbers else ''} {kind}".strip()
        return render("table.html", table=self, classes=classes, is_sortable=is_sortable)

    def markdown(self) -> Markdown:
        titles = [plain(column.head) for column in self.heads]
        is_number = [i > 0 and column.is_numeric for i, column in enumerate(self.heads)]
        rows = [list(map(_for_markdown, row)) for row in [*self.body_cells, *self.foot_cells]]
        lines = [titles, ["---:" if right else "---" for right in is_number], *rows]
        caption = f"**{plain(self.caption)}**\n\n" if self.caption else ""
        return Markdown(caption + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def settings(values: Mapping[str, Any]) -> Table:
    rows = [(key.replace("_", " "), setting(value)) for key, value in values.items()]
    return Table([Column(""), Column("", is_numeric=False)], rows)


def evenly(num: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `num`.

    Examples:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(place) for place in np.linspace(0, num - 1, most).tolist()})


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]


def _for_terminal(cell: Cell) -> Text:
    text = Text(printable(cell.text), style="bold" if cell.is_bold else "")
    text.append(BEST if cell.is_best else "")
    return text.append(f" ({printable(cell.note)})" if cell.note else "", style="dim")


def _for_markdown(cell: Cell) -> str:
    text = plain(cell.text)
    text = f"**{text}**" if cell.is_bold and text else text
    note = f" ({plain(cell.note)})" if cell.note else ""
    return f"{text}{f' {BEST}' if cell.is_best else ''}{note}"
