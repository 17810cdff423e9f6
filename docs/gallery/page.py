"""The gallery's report: audits in tables, by group, and showcases that compare losses."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos.audit.result import Audit
from elbos.audit.words import View, in_words, views
from elbos.base.colors import COLORS, LineStyle
from elbos.base.figures import Panel, logsnr_axis, stacked
from elbos.base.numbers import NONE
from elbos.base.report import Heading, Paragraph, Part, Plot, Report
from elbos.base.tables import Column, Table, evenly
from elbos.theory.recipes import FAMILIES

_SHOWN = (
    *("predicts", "coefficient", "noise levels", "w rises on", "negative share", "undecided on"),
    *("expected loss", "nearest", "diagnostics"),
)
_LOGSNR = (-14.0, 14.0)
_DECADES = 6  # of weight: the range of exp(-logsnr/2), the weighting of flow matching, over a plot
_NUM_POINTS = 120  # of a curve
_READING = (
    "Published losses, and losses that go by one name, side by side. "
    "In the plots are the weighting w, how much each noise level counts, up to a constant, and the "
    "density p of the noise levels that are drawn, each scaled to a maximum of 1. Where w rises, "
    "the bounds on the likelihood of noisy data are subtracted. That is a property of a loss, not "
    "a fault."
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the gallery says of one audited loss."""

    name: str  # of the loss
    group: Literal["recipe", "showcase"]
    title: str  # the loss, in a few words
    audit: Audit
    source: str = ""  # the publication
    command: str = ""  # that prints the full audit
    beside: Audit | None = None  # an audit for comparison

    @cached_property
    def view(self) -> View:
        return views([self.audit])[0]

    @property
    def facts(self) -> dict[str, str]:
        values = self.view.facts
        shown = {name: values[name] for name in _SHOWN if values[name] != NONE}
        off = self.audit.distance(self.beside) if self.beside else None
        beside = {} if off is None else {"off the first by": in_words(off.value)}
        return shown | beside


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """A group of losses that are compared."""

    name: str  # the name of the example's file
    title: str
    text: str  # the comparison and its result: formulas, settings and versions
    cards: Sequence[Card]  # the intended loss first


def page(cards: Sequence[Card], showcases: Sequence[Showcase], *, command: str) -> Report:
    """Return the report of the gallery."""
    everything = [*(card for showcase in showcases for card in showcase.cards), *cards]
    return Report(
        title="What diffusion losses weigh",
        parts=[*_parts(cards, showcases)],
        command=command,
        data={"losses": list(map(as_dict, everything))},
    )


def _parts(cards: Sequence[Card], showcases: Sequence[Showcase]) -> Iterator[Part]:
    yield Paragraph(_READING)
    for showcase in showcases:
        yield from (Heading(showcase.title), Paragraph(showcase.text))
        yield from (Plot(figure(showcase.cards)), table(showcase.cards))
    for family, recipes in FAMILIES.items():
        if members := [card for card in cards if card.name in recipes]:
            yield from (Heading(f"Recipes: {family}"), Plot(figure(members)), table(members))


def table(cards: Sequence[Card]) -> Table:
    """Return a table of the facts of losses."""
    names = list(dict.fromkeys(name for card in cards for name in card.facts))
    heads = ["loss", "about", "notes", *names, "source"]
    rows = []
    for card in cards:
        facts = [card.facts.get(name, NONE) for name in names]
        notes = " ".join(f"{note.mark} {note.text}" for note in card.view.notes)
        rows.append([card.name, card.title, notes, *facts, card.source])
    return Table([Column(head, is_numeric=False) for head in heads], rows).without_empty_columns()


def line_styles(num: int) -> list[LineStyle]:
    """Return the styles of so many curves: every other round of the colours is dashed."""
    rounds = (divmod(i, len(COLORS)) for i in range(num))
    return [LineStyle(COLORS[place], is_dashed=number % 2 == 1) for number, place in rounds]


def figure(cards: Sequence[Card]) -> Figure:
    """Plot weightings, on a logarithmic axis, and densities over log-SNR."""
    weights, densities, styles = [], [], line_styles(len(cards))
    for i, card in enumerate(cards):
        audit = card.audit
        places = evenly(len(audit.logsnr), _NUM_POINTS)
        x, w, p = (values.numpy()[places] for values in (audit.logsnr, audit.weight, audit.density))
        style = {"color": styles[i].color, "dash": styles[i].dash, "width": 2}
        for traces, values in ((weights, w), (densities, p)):
            name = re.sub("[<>&]", " ", card.name)
            shown = np.round(values / values.max(), 7)
            trace = Scatter(x=np.round(x, 3), y=shown, name=name, line=style)
            trace.update(hovertemplate="%{fullData.name} %{y:.3g}<extra></extra>")
            traces.append(trace.update(showlegend=traces is weights))
    axis = {"type": "log", "range": [-_DECADES, 0.2], "dtick": 1, "exponentformat": "power"}
    panels = [
        Panel("<b>Weighting w</b>", 260, weights, axis),
        Panel("<b>Density p</b> of the noise levels", 120, densities, {"rangemode": "tozero"}),
    ]
    fig = stacked(panels, logsnr_axis(*_LOGSNR), has_legend=len(cards) <= 2 * len(COLORS))
    return fig.update_layout(hovermode="closest", hoversubplots="single")


def as_dict(card: Card) -> dict[str, object]:
    """Return what the gallery says of a loss as JSON values."""
    audit = card.audit
    return {
        "name": card.name,
        "group": card.group,
        "title": card.title,
        "source": card.source,
        "command": card.command,
        "verdict": audit.verdict,
        "rising": audit.rising,
        "rising_share": audit.rising_share,
        "negative_share": audit.negative_share,
        "nearest": audit.closest[0].name if audit.closest else None,
        "facts": card.facts,
        "in_words": card.view.prose,
    }
