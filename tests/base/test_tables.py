"""One table on the terminal, on a page and in Markdown: all is in each, and nothing gets out."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browsing import HOSTILE
from rich.console import Console

from elbos.base.colors import Swatch
from elbos.base.numbers import NONE
from elbos.base.tables import BEST, Cell, Column, Table

TABLE = Table(
    columns=[
        Column("objective"),
        Column("monotone", is_numeric=False),
        Column("bits/dim", is_lower_better=True),
        Column("recall", is_lower_better=False),
    ],
    rows=[
        [
            Cell("sigmoid-2", swatch=Swatch("#3b7dd8", is_dashed=True)),
            "yes",
            Cell("2.90", is_best=True, is_bold=True, note="± 0.01", value=2.9034),
            NONE,
        ],
        ["edm", "no", "2.95", NONE],
    ],
    caption="Fashion",
    foot=[["real-data baseline", "", "", NONE]],
)


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and all tags."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def on_terminal(table, width=200):
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(table.rich())
    return shown.get()


def in_markdown(table):
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    return [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in lines]


def test_a_page_has_every_cell():
    head, *rows = Cells(TABLE.html()).rows
    assert head == ["objective", "monotone", "bits/dim ↓", "recall ↑"]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["sigmoid-2", "yes", f"2.90{BEST}± 0.01", NONE],
        ["edm", "no", "2.95", NONE],
        ["real-data baseline", "", "", NONE],
    ]


def test_markdown_has_every_cell():
    assert in_markdown(TABLE) == [
        ["objective", "monotone", "bits/dim ↓", "recall ↑"],
        ["---", "---", "---:", "---:"],
        ["sigmoid-2", "yes", f"**2.90** {BEST} (± 0.01)", NONE],
        ["edm", "no", "2.95", NONE],
        ["real-data baseline", "", "", NONE],
    ]
    assert TABLE.markdown().startswith("**Fashion**")


def test_the_terminal_has_every_cell():
    title, _, head, _, *rows = (line.split() for line in on_terminal(TABLE).splitlines())
    assert (title, head) == (["Fashion"], ["objective", "monotone", "bits/dim", "↓", "recall", "↑"])
    assert rows[0] == ["sigmoid-2", "yes", f"2.90{BEST}", "(±", "0.01)", NONE]
    assert rows[1] == ["edm", "no", "2.95", NONE]
    assert rows[2] == ["real-data", "baseline", NONE]


def test_columns_without_values_are_left_out():
    smaller = TABLE.without_empty_columns()
    assert [column.title for column in smaller.columns] == ["objective", "monotone", "bits/dim"]
    assert {len(row) for row in (*smaller.rows, *smaller.foot)} == {3}


@pytest.mark.parametrize("part", ["columns", "rows", "foot"])
def test_rows_of_another_length_are_refused(part):
    """A column that is added to some rows would shift the others."""
    longer = [*TABLE.columns, "n"] if part == "columns" else [[*getattr(TABLE, part)[0], "5"]]
    with pytest.raises(ValueError, match=r"4.*5|5.*4"):
        replace(TABLE, **{part: longer})


HOSTILE_TABLE = Table(
    columns=[Column(HOSTILE), Column(HOSTILE)],
    rows=[[HOSTILE, Cell(HOSTILE, note=HOSTILE, is_bold=True)]],
    caption=HOSTILE,
)


def test_hostile_text_is_shown_and_inert_on_pages():
    cells = Cells(HOSTILE_TABLE.html())
    assert set(cells.tags) <= {
        *("div", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"),
        *("strong", "small"),
    }
    assert cells.rows == [[HOSTILE, HOSTILE], [HOSTILE, HOSTILE * 2]]


def test_hostile_text_is_shown_and_inert_in_markdown():
    text = HOSTILE_TABLE.markdown()
    assert not re.search(r"(?<!\\)[<>&`]", text)
    assert [len(row) for row in in_markdown(HOSTILE_TABLE)] == [2, 2, 2]
    assert in_markdown(Table([Column("a")], [["b|c\nd"]]))[2] == [r"b\|c d"]


def test_hostile_text_is_shown_and_inert_on_the_terminal():
    text = "[bold]a[/bold] [link=x] \x1b[31m\x07"
    shown = on_terminal(Table([Column(text)], [[Cell(text, note=text)]], caption=text))
    assert shown.count(r"[bold]a[/bold] [link=x] \x1b[31m\x07") == 4
    assert "\x1b" not in shown
