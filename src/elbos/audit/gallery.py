"""A page of many audits: searchable cards, one per audit, and showcases that compare losses.

Without JavaScript the page shows all cards in the given order; the script only hides and reorders.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from markupsafe import Markup, escape

from elbos import __version__
from elbos.audit.gallery_figure import DECADES, HEIGHT, LOGSNR, WIDTH, picture
from elbos.audit.result import Audit
from elbos.audit.words import View, facts, in_words, views
from elbos.base.html import document
from elbos.base.numbers import NONE

_SHOWN = (
    *("predicts", "coefficient", "noise levels", "w rises on", "negative share", "undecided on"),
    *("expected loss", "nearest", "diagnostics"),
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card of the gallery: an audit and the source of its loss.

    Attributes:
        name: Name of the loss, or of the project that it comes from.
        group: Kind of card.
        title: The loss, in a few words.
        audit: What it optimizes.
        settings: The settings that determine the loss, as command-line options.
        source: Where it was published, or the project with the version that was read.
        command: The command that prints the full audit.
        beside: An audit to compare it with.
    """

    name: str
    group: Literal["recipe", "trainer", "showcase"]
    title: str
    audit: Audit
    settings: str = ""
    source: str = ""
    command: str = ""
    beside: Audit | None = None

    @cached_property
    def view(self) -> View:
        """View of the audit in words."""
        return views([self.audit])[0]

    @property
    def picture(self) -> Markup:
        return picture(self.audit, self.beside)

    @property
    def facts(self) -> dict[str, str]:
        """Facts to print below the picture, by name."""
        found = facts(self.audit)
        shown = {name: found[name] for name in _SHOWN if found[name] != NONE}
        off = self.audit.distance(self.beside) if self.beside else None
        beside = {} if off is None else {"off the first by": in_words(off.value)}
        return shown | beside

    @property
    def flags(self) -> list[str]:
        """Command-line settings of the loss, split into single options."""
        return re.split(r" (?=--)", self.settings) if self.settings else []

    @property
    def linked_source(self) -> Markup:
        """HTML of the source, with addresses as links."""
        linked = re.sub(r"(https://[^\s,;)]+)", r'<a href="\1">\1</a>', str(escape(self.source)))
        return Markup(linked.replace(">https://arxiv.org/abs/", ">arXiv:"))

    @property
    def sorts_as(self) -> dict[str, float | str]:
        """Sort keys of the card on the page, by name."""
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
    """Cards of different losses that share one name, shown side by side.

    Attributes:
        name: Anchor for links.
        title: Heading.
        text: The comparison and its result: formulas, settings and versions.
        cards: The losses, the intended one first.
    """

    name: str
    title: str
    text: str
    cards: Sequence[Card]


def page(cards: Sequence[Card], showcases: Sequence[Showcase], *, command: str) -> str:
    """Render the self-contained HTML page of cards and showcases.

    Args:
        cards: Losses by name.
        showcases: Losses side by side, which are above the others.
        command: The command that builds the page.
    """
    everything = [*(card for one in showcases for card in one.cards), *cards]
    return document(
        "audit/gallery.html",
        script_file="audit/gallery.js",
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
    """Convert a card to JSON values, without the curves."""
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
        "in_words": card.view.in_words,
    }
