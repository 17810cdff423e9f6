"""HTML gallery of audits: searchable cards, one per audit, and showcases that compare losses.

The page can be read without JavaScript: the script only hides and reorders cards.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from markupsafe import Markup, escape
from picture import DECADES, HEIGHT, LOGSNR, WIDTH, picture

from elbos import __version__
from elbos.audit.result import Audit
from elbos.audit.words import View, in_words, views
from elbos.base.html import document
from elbos.base.numbers import NONE

HERE = Path(__file__).resolve().parent
_SHOWN = (
    *("predicts", "coefficient", "noise levels", "w rises on", "negative share", "undecided on"),
    *("expected loss", "nearest", "diagnostics"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A gallery card for one audited loss."""

    name: str  # of the loss, or of its project
    group: Literal["recipe", "trainer", "showcase"]
    title: str  # the loss, in a few words
    audit: Audit
    settings: str = ""  # that determine the loss, as command-line options
    source: str = ""  # the publication, or the project with its version
    command: str = ""  # that prints the full audit
    beside: Audit | None = None  # an audit for comparison

    @cached_property
    def view(self) -> View:
        return views([self.audit])[0]

    @property
    def anchor(self) -> str:
        """The card's address on the page, such as `recipe-edm`."""
        title = self.title if self.group == "showcase" else ""
        words = f"{self.group} {self.name} {self.settings} {title}"
        return "-".join(re.findall(r"[a-z0-9]+", words.lower()))

    @property
    def picture(self) -> Markup:
        return picture(self.audit, self.beside)

    @property
    def facts(self) -> dict[str, str]:
        values = self.view.facts
        shown = {name: values[name] for name in _SHOWN if values[name] != NONE}
        off = self.audit.distance(self.beside) if self.beside else None
        beside = {} if off is None else {"off the first by": in_words(off.value)}
        return shown | beside

    @property
    def flags(self) -> list[str]:
        return re.split(r" (?=--)", self.settings) if self.settings else []

    @property
    def linked_source(self) -> Markup:
        linked = re.sub(r"(https://[^\s,;)]+)", r'<a href="\1">\1</a>', str(escape(self.source)))
        return Markup(linked.replace(">https://arxiv.org/abs/", ">arXiv:"))

    @property
    def sorts_as(self) -> dict[str, float | str]:
        audit, (low, high) = self.audit, self.audit.central_half
        verdicts = ("monotone", "undecided", "not monotone", "code error", "no weighting")
        return {
            "name": self.name,
            "verdict": verdicts.index(audit.verdict),
            "share": audit.negative_share if audit.is_weighted_elbo else "",
            "samples": audit.rising_share if audit.is_weighted_elbo else "",
            "level": (low + high) / 2,
        }


@dataclass(frozen=True, kw_only=True)
class Showcase:
    """A group of gallery cards that compares several losses."""

    name: str  # anchor for links
    title: str
    text: str  # the comparison and its result: formulas, settings and versions
    cards: Sequence[Card]  # the intended loss first


def page(cards: Sequence[Card], showcases: Sequence[Showcase], *, command: str) -> str:
    """Return the self-contained HTML page of the gallery."""
    everything = [*(card for showcase in showcases for card in showcase.cards), *cards]
    return document(
        str(HERE / "gallery.html"),
        script_file=str(HERE / "gallery.js"),
        has_plots=False,
        cards=cards,
        showcases=showcases,
        size={"width": WIDTH, "height": HEIGHT},
        ends=LOGSNR,
        decades=DECADES,
        content={"elbos": __version__, "losses": list(map(as_dict, everything))},
        command=command,
    )


def as_dict(card: Card) -> dict[str, object]:
    """Return the contents of a gallery card as JSON values."""
    audit = card.audit
    return {
        "name": card.name,
        "group": card.group,
        "title": card.title,
        "settings": card.settings,
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
