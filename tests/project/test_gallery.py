"""The gallery: its page holds what the audits say, and a command makes it."""

import dataclasses
import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
from browsing import HOSTILE

from elbos import audit as auditing
from elbos.audit.diagnostics import NotSquared

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs/gallery"))
from page import Card, Showcase, page  # noqa: E402

COMMAND = "python docs/gallery/make.py --only '<b>'"
NAMES = ("sd3", "flow", "edm", "sigmoid-2")
from_recipe = cache(auditing.from_recipe)


def card(name, **changes):
    """A recipe's card, or another."""
    audit = changes.pop("audit", None) or from_recipe(name)
    source = "A (2020), https://arxiv.org/abs/1"
    given = {"group": "recipe", "title": f"about {name}", "source": source, "audit": audit}
    return Card(name=name, **(given | changes))


@pytest.fixture(scope="module")
def cards():
    return [card(name) for name in NAMES]


@pytest.fixture(scope="module")
def showcases(cards):
    """One, with texts that try to get out, and a loss that no weighting describes."""
    huber = NotSquared(growth=0.5)
    audit = dataclasses.replace(cards[0].audit, diagnostics=[huber])
    hostile = card("huber", title=HOSTILE, settings=HOSTILE, audit=audit)
    losses = [dataclasses.replace(one, group="showcase") for one in (cards[2], hostile)]
    return [Showcase(name="one-name", title=HOSTILE, text=HOSTILE, cards=losses)]


def test_island_holds_what_the_cards_say(cards, showcases):
    html = page(cards, showcases, command=COMMAND)
    (island,) = re.findall(r'id="elbos-gallery">(.*?)</script>', html, re.DOTALL)
    losses = json.loads(island)["losses"]
    assert [one["name"] for one in losses] == ["edm", "huber", *NAMES]
    for one, audit in zip(losses[2:], (c.audit for c in cards), strict=True):
        assert one["verdict"] == audit.verdict
        assert one["nearest"] == audit.closest[0].name
        assert one["rising"] == [list(ends) for ends in audit.rising]


def test_the_command_makes_the_page(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "index.html"
    monkeypatch.syspath_prepend(ROOT / "docs/gallery")
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(out), "--only", "edm", "flow"])
    runpy.run_path(str(ROOT / "docs/gallery/make.py"), run_name="__main__")
    assert re.findall("<h3>(.*?) <a", out.read_text()) == ["edm", "flow"]
    assert str(out) in capsys.readouterr().out
