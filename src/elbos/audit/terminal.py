"""Terminal output of audits: verdict, properties and nearest weightings."""

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType, group
from rich.text import Text

from elbos.audit.result import Audit
from elbos.audit.words import difference, facts_tables, views
from elbos.base.tables import Column, Table

_STYLES = {"error": "bold red", "slip": "bold yellow"}  # verdicts have no colour
_MIN_COLUMN = 20  # characters for each of several audits side by side
_NAMES = 18  # characters for the names of the facts


@group()
def report(
    audits: Sequence[Audit], width: int, *, is_verbose: bool = False
) -> Iterator[RenderableType]:
    """Describe audits for `rich`; if verbose, with all facts and the nearest weightings."""
    shown = views(audits)
    for view in shown:
        notes = [
            (f"\n{note.mark} {note.text}", _STYLES.get(note.kind, "not bold"))
            for note in view.notes
        ]
        yield Text.assemble(f"{view.audit.title}: ", (view.summary, "bold"), *notes)
    yield Text()
    if len(shown) == 2:
        yield from (Text(difference(*audits)), Text())
    if len(shown) == 1:
        yield Text(view.explanation)
    is_wide = (width - _NAMES) // len(shown) - 2 >= _MIN_COLUMN
    titles = [view.title for view in shown]
    for table in facts_tables(shown, titles, len(shown) if is_wide else 1, is_verbose=is_verbose):
        yield table.rich()
    if is_verbose and len(shown) == 1 and view.audit.is_weighted_elbo:
        columns = [Column("nearest named weightings"), Column("", is_numeric=False)]
        yield Table(columns, view.nearest).rich()
        if view.code:
            yield Text(f"{view.factor} --html PAGE shows it as code.\n")


def as_text(audits: Sequence[Audit], width: int = 80, *, is_verbose: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(report(audits, width, is_verbose=is_verbose), crop=False)
    return file.getvalue()
