"""One table on the terminal and in Markdown: all is in each, and nothing gets out."""

import re
from dataclasses import replace

import pytest
from browsing import HOSTILE
from rich.console import Console

from elbos.base.numbers import NONE
from elbos.base.tables import Bold, Column, Table

TABLE = Table(
    columns=[
        Column("objective"),
        Column("monotone", is_numeric=False),
        Column("bits/dim", is_lower_better=True),
        Column("recall", is_lower_better=False),
    ],
    rows=[["sigmoid-2", "yes", Bold("2.90 ★"), NONE], ["edm", "no", "2.95", NONE]],
    caption="Fashion",
)


def on_terminal(table, width=200):
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(table.rich())
    return shown.get()


def in_markdown(table):
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    return [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in lines]


def test_markdown_has_every_cell():
    assert in_markdown(TABLE) == [
        ["objective", "monotone", "bits/dim ↓", "recall ↑"],
        ["---", "---", "---:", "---:"],
        ["sigmoid-2", "yes", "**2.90 ★**", NONE],
        ["edm", "no", "2.95", NONE],
    ]
    assert TABLE.markdown().startswith("**Fashion**")


def test_the_terminal_has_every_cell():
    title, _, head, _, *rows = (line.split() for line in on_terminal(TABLE).splitlines())
    assert (title, head) == (["Fashion"], ["objective", "monotone", "bits/dim", "↓", "recall", "↑"])
    assert rows[0] == ["sigmoid-2", "yes", "2.90", "★", NONE]
    assert rows[1] == ["edm", "no", "2.95", NONE]


def test_columns_without_values_are_left_out():
    smaller = TABLE.without_empty_columns()
    assert [column.title for column in smaller.columns] == ["objective", "monotone", "bits/dim"]
    assert {len(row) for row in smaller.rows} == {3}


@pytest.mark.parametrize("part", ["columns", "rows"])
def test_rows_of_another_length_are_refused(part):
    """A column that is added to some rows would shift the others."""
    longer = [*TABLE.columns, "n"] if part == "columns" else [[*TABLE.rows[0], "5"]]
    with pytest.raises(ValueError, match=r"4.*5|5.*4"):
        replace(TABLE, **{part: longer})


def test_hostile_text_is_shown_and_inert_in_markdown():
    table = Table([Column(HOSTILE), Column(HOSTILE)], [[HOSTILE, Bold(HOSTILE)]], HOSTILE)
    text = table.markdown()
    assert not re.search(r"(?<!\\)[<>&`]", text)
    assert [len(row) for row in in_markdown(table)] == [2, 2, 2]
    assert in_markdown(Table([Column("a")], [["b|c\nd"]]))[2] == [r"b\|c d"]


def test_hostile_text_is_shown_and_inert_on_the_terminal():
    text = "[bold]a[/bold] [link=x] \x1b[31m\x07"
    shown = on_terminal(Table([Column(text)], [[Bold(text)]], caption=text))
    assert shown.count(r"[bold]a[/bold] [link=x] \x1b[31m\x07") == 3
    assert "\x1b" not in shown
