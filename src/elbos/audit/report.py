"""Reports of audits, for the terminal and as an HTML page that can be attached to an issue."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from elbos.audit.result import Audit
from elbos.audit.words import View, as_dict, difference, facts_tables, views
from elbos.base.numbers import count, fixed, number, percent, signed
from elbos.base.report import Code, Emphasis, Heading, Paragraph, Part, Plot, Report
from elbos.base.tables import Column, Table, evenly

_NUM_ROWS = 13  # rows of the table of curves
_MIN_COLUMN = 20  # characters for each of several audits side by side
_NAMES = 18  # characters for the names of the facts
# Verdicts have none: an increase of w is not an error.
_EMPHASIS: dict[str, Emphasis] = {"error": "error", "slip": "warning"}
_READING = (
    "Weighting: how much each noise level counts, up to a constant. Shaded is where it rises, from "
    "left to right; the weighting of a likelihood objective never rises.",
    "Density: how often each noise level is drawn. It changes the noise of training and, unless "
    "the loss divides by it, the weighting.",
    "Mixture of ELBOs: which noisy data's likelihood bounds the loss adds up; the hatched part "
    "below zero is subtracted, and the diamond at the right is the share of the clean data's "
    "bound.",
)


def terminal(audits: Sequence[Audit], width: int = 80, *, is_verbose: bool = False) -> Report:
    """Describe audits in brief; if verbose, with all facts and the nearest weightings."""
    return Report(title=_title(audits), parts=[*_in_brief(views(audits), width, is_verbose)])


def as_text(audits: Sequence[Audit], width: int = 80, *, is_verbose: bool = False) -> str:
    console = Console(file=(file := io.StringIO()), width=width)
    console.print(terminal(audits, width, is_verbose=is_verbose).rich(), crop=False)
    return file.getvalue()


def page(audits: Sequence[Audit], *, command: str | None = None) -> Report:
    """Describe audits with all facts, curves, and code of the nearest likelihood objectives."""
    return Report(
        title=_title(audits),
        parts=[*_in_full(views(audits))],
        command=command,
        data={"audits": list(map(as_dict, audits))},
    )


def _title(audits: Sequence[Audit]) -> str:
    return ", ".join(audit.title for audit in audits)


def _verdicts(shown: Sequence[View]) -> Iterator[Part]:
    for view in shown:
        yield Paragraph(f"{view.audit.title}: {view.summary}", "lead")
        for note in view.notes:
            yield Paragraph(f"{note.mark} {note.text}", _EMPHASIS.get(note.kind, ""))


def _in_brief(shown: Sequence[View], width: int, is_verbose: bool) -> Iterator[Part]:
    yield from _verdicts(shown)
    yield Paragraph("")
    if len(shown) == 2:
        yield from (Paragraph(difference(*(view.audit for view in shown))), Paragraph(""))
    if len(shown) == 1:
        yield Paragraph(shown[0].explanation)
    is_wide = (width - _NAMES) // len(shown) - 2 >= _MIN_COLUMN
    yield from facts_tables(shown, len(shown) if is_wide else 1, is_verbose=is_verbose)
    if is_verbose and len(shown) == 1 and shown[0].audit.is_weighted_elbo:
        yield _nearest(shown[0])
        if shown[0].code:
            yield Paragraph(f"{shown[0].factor} --html PAGE shows it as code.")
            yield Paragraph("")


def _in_full(shown: Sequence[View]) -> Iterator[Part]:
    from elbos.audit.figures import figure  # plotly, which the terminal does not need

    yield from _verdicts(shown)
    for view in shown:
        title = f"{view.title}: " if len(shown) > 1 else ""
        yield Paragraph(f"{title}{view.explanation}")
    if len(shown) == 2:
        yield Paragraph(difference(*(view.audit for view in shown)), "lead")
    yield Heading("Facts")
    yield from facts_tables(shown, len(shown))
    yield Heading("Curves")
    yield Plot(figure([view.audit for view in shown]))
    yield from (Paragraph(text) for text in _READING)
    if any(view.audit.undecided for view in shown):
        text = "Fainter is where a rise is not significant, but cannot be excluded."
        yield Paragraph(text)
    if named := [view for view in shown if view.audit.is_weighted_elbo]:
        yield Heading("Named weightings")
        yield Paragraph(
            "Their distance is the standard deviation of the log-ratio over the noise levels that "
            "the loss draws."
        )
        for view in named:
            yield _nearest(view, view.title if len(shown) > 1 else "")
    for view in shown:
        if view.code:
            yield Heading(f"The nearest likelihood objective: {view.title}")
            yield from (Paragraph(view.factor), Code(view.code))
    yield Heading("The curves as tables")
    yield from map(_curves, shown)
    if num_samples := list(dict.fromkeys(v.audit.num_samples for v in shown)):
        counts = ", ".join(count(num, "samples") for num in num_samples if num)
        yield Paragraph(f"Measured on {counts}." if counts else "Declared, exact.")


def _nearest(view: View, caption: str = "") -> Table:
    heads: list[Column | str] = ["nearest named weightings", Column("", is_numeric=False)]
    return Table(heads, view.nearest, caption)


def _curves(view: View) -> Table:
    audit, rows = view.audit, []
    scale = 1 + audit.negative_mass
    for i in evenly(len(audit.logsnr), _NUM_ROWS):
        level, error = audit.logsnr[i].item(), 2 * audit.weight_error[i].item()
        weight = number(audit.weight[i].item(), 3) + (f" ± {percent(error)}" if error else "")
        mixture = signed(audit.mixture_density[i].item() / scale, 3)
        density = number(audit.density[i].item(), 3)
        rows.append([fixed(level, 2), number(math.exp(-level / 2), 3), weight, density, mixture])
    return Table(("log-SNR", "noise/signal", "w", "p", "mixture"), rows, audit.title)


def write_page(audits: Sequence[Audit], path: Path, *, command: str | None = None) -> None:
    """Write the HTML page of audits to a file.

    Raises:
        OSError: If the file cannot be written; the message names `path`.
    """
    page(audits, command=command).write_html(path)
