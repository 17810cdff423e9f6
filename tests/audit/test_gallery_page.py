"""The page of many audits in a real browser: it shows, searches and sorts them."""

import dataclasses
import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import HOSTILE, contrast, opened

from elbos import audit as auditing
from elbos.adapters.trainers import TRAINERS, Settings, read_settings
from elbos.audit import DeclaredLoss
from elbos.audit.diagnostics import NotSquared
from elbos.audit.gallery import Card, Showcase, page
from elbos.audit.gallery_figure import DECADES, HEIGHT, LOGSNR, WIDTH, picture
from elbos.base.html import write_html

ROOT = Path(__file__).parents[2]
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


def curves(shapes):
    """The points of the paths of a picture: of the density, then of the weighting."""
    paths = re.findall(r'<path class="(?:density|line)" d="M([^"]*)"', shapes)
    return [
        np.array([p.split() for p in path.partition("V")[0].split("L")], float) for path in paths
    ]


@pytest.mark.parametrize("name", NAMES)
def test_all_pictures_have_the_same_axes(name):
    audit = from_recipe(name)
    density, line = curves(picture(audit))
    levels = LOGSNR[0] + line[:, 0] / WIDTH * (LOGSNR[1] - LOGSNR[0])
    inside = line[:, 1] < HEIGHT
    w = np.interp(levels, audit.logsnr, audit.weight.log10())
    decades = -(line[:, 1] - 3) / (HEIGHT - 3) * DECADES
    np.testing.assert_allclose(decades[inside], (w - w.max())[inside], atol=0.02)
    assert density[:, 1].min() == pytest.approx(3 + (HEIGHT - 3) / 2, abs=0.06)
    assert levels[density[:, 1].argmin()] == pytest.approx(
        audit.logsnr[audit.density.argmax()].item(), abs=0.3
    )


def test_where_a_weighting_rises_is_shaded():
    audit = from_recipe("sd3")
    (x, width) = map(
        float, re.search(r'class="rising" x="(.*?)" width="(.*?)"', picture(audit)).groups()
    )
    ends = np.array([x, x + width]) / WIDTH * (LOGSNR[1] - LOGSNR[0]) + LOGSNR[0]
    np.testing.assert_allclose(ends, audit.rising[0], atol=0.02)
    assert "rising" not in picture(from_recipe("flow"))


def test_what_is_beyond_the_axes_has_an_empty_picture():
    audit = from_recipe("flow")
    assert curves(picture(dataclasses.replace(audit, logsnr=audit.logsnr + 100))) == []


def test_a_loss_beside_another_has_the_same_geometric_mean():
    audit, other = from_recipe("sd3"), from_recipe("edm")
    shapes = picture(audit, other)
    (points,) = re.findall(r'<path class="line beside" d="M([^"]*)"', shapes)
    beside = np.array([p.split() for p in points.split("L")], float)
    levels = LOGSNR[0] + beside[:, 0] / WIDTH * (LOGSNR[1] - LOGSNR[0])
    assert levels.min() > other.logsnr[0] - 0.1 and levels.max() < other.logsnr[-1] + 0.1
    line = np.interp(beside[:, 0], *curves(shapes)[-1].T)
    p = np.interp(levels, audit.logsnr, audit.density)
    assert np.average(line - beside[:, 1], weights=p) == pytest.approx(0, abs=0.1)
    far = dataclasses.replace(other, logsnr=other.logsnr + 100)
    assert "beside" not in picture(audit, far)


def test_island_holds_what_the_cards_say(cards, showcases):
    html = page(cards, showcases, command=COMMAND)
    (island,) = re.findall(r'id="elbos-gallery">(.*?)</script>', html, re.DOTALL)
    losses = json.loads(island)["losses"]
    assert [one["name"] for one in losses] == ["edm", "huber", *NAMES]
    for one, audit in zip(losses[2:], (c.audit for c in cards), strict=True):
        assert one["verdict"] == audit.verdict
        assert one["nearest"] == audit.closest[0].name
        assert one["rising"] == [list(ends) for ends in audit.rising]


def test_a_card_is_small(cards):
    assert len(page(cards, [], command=COMMAND)) < 25_000 + 8_000 * len(cards)


@pytest.fixture(scope="module")
def path(cards, showcases, tmp_path_factory):
    path = tmp_path_factory.mktemp("gallery") / "index.html"
    write_html(path, page(cards, showcases, command=COMMAND))
    return path


@pytest.fixture(params=[1280, 390])
def view(request, browser, path):
    with opened(browser, path, width=request.param) as view:
        yield view


def shown(view):
    return [h.split("\n")[0] for h in view.locator(".card:visible h3").all_inner_texts()]


def test_search_hides_the_others_and_empty_showcases(view):
    everything = ["edm", "huber", *NAMES]
    assert shown(view) == everything
    search = view.get_by_role("searchbox")
    search.fill("SD3 logit")
    assert shown(view) == ["sd3"]
    assert not view.locator(".showcase").is_visible()
    search.fill("huber")
    assert shown(view) == ["huber"]
    search.fill("no such loss")
    assert shown(view) == [] and "0 of 6" in view.locator("output").inner_text()
    search.fill("")
    assert shown(view) == everything


def test_search_finds_a_showcase_by_its_heading(view):
    view.get_by_role("searchbox").fill("onerror huber")  # of the heading, and of one card
    assert shown(view) == ["huber"]
    view.get_by_role("searchbox").fill("onerror edm")
    assert shown(view) == ["edm"]


def test_code_is_copied(browser, path):
    with opened(browser, path, width=1280) as view:
        view.context.grant_permissions(["clipboard-read", "clipboard-write"])
        view.get_by_role("button", name="Copy").click()
        view.get_by_role("button", name="Copied").wait_for()
        assert view.evaluate("navigator.clipboard.readText()") == COMMAND


def test_sorting_orders_all_but_the_showcases(view, cards):
    sort = view.get_by_role("combobox")
    sort.select_option("name")
    assert shown(view) == ["edm", "huber", *sorted(NAMES)]
    sort.select_option("share")
    shares = [
        one.audit.negative_share for one in sorted(cards, key=lambda c: c.audit.negative_share)
    ]
    found = [
        float(share)
        for share in view.locator("#cards .card").evaluate_all(
            "all => all.map(c => c.dataset.share)"
        )
    ]
    assert found == shares
    sort.select_option("")
    assert shown(view) == ["edm", "huber", *NAMES]


def test_nothing_is_wider_than_the_screen(view):
    for summary in view.locator("summary").all():
        summary.click()
    for width in (360, 390, 1280):
        view.set_viewport_size({"width": width, "height": 800})
        assert view.evaluate("document.documentElement.scrollWidth") == width
    assert view.evaluate("window.hacked") is None


def test_page_follows_the_colour_scheme(browser, path):
    with opened(browser, path, width=1280) as view:
        for scheme in ("light", "dark"):
            view.emulate_media(color_scheme=scheme)
            *words, behind, panel, line = view.evaluate(
                """() => {
                    const style = (selector) => getComputedStyle(document.querySelector(selector));
                    const words = [".about", "dt", "dd", ".found li", ".ends"];
                    return [...words.map((s) => style(s).color),
                            style("body").backgroundColor, style(".picture").backgroundColor,
                            style(".line").stroke];
                }"""
            )
            assert min(contrast(color, behind) for color in words) > 4.5
            assert contrast(line, panel) > 3


def test_without_a_script_everything_is_there(browser, path):
    context = browser.new_context(java_script_enabled=False)
    view = context.new_page()
    view.goto(path.as_uri())
    assert len(shown(view)) == 6
    assert not view.get_by_role("searchbox").is_visible()
    context.close()


def test_the_command_makes_the_page(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "index.html"
    monkeypatch.syspath_prepend(ROOT / "docs/gallery")
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(out), "--only", "edm", "flow"])
    runpy.run_path(str(ROOT / "docs/gallery/make.py"), run_name="__main__")
    assert re.findall("<h3>(.*?)</h3>", out.read_text()) == ["edm", "flow"]
    assert str(out) in capsys.readouterr().out


def test_an_unknown_name_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    out = tmp_path / "index.html"
    monkeypatch.syspath_prepend(ROOT / "docs/gallery")
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(out), "--only", "kohyaa"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "docs/gallery/make.py"), run_name="__main__")
    assert stop.value.code == 2 and not out.exists()
    assert "there is no 'kohyaa': did you mean kohya?" in capsys.readouterr().err


@pytest.mark.parametrize("name", TRAINERS)
def test_the_command_of_a_trainers_card_means_its_settings(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/gallery")
    make = runpy.run_path(str(ROOT / "docs/gallery/make.py"))
    levels = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for option in filter(make["flags"], TRAINERS[name].options):
        given, words = Settings(make["values"](option)), read_settings(make["flags"](option))
        found = [TRAINERS[name].loss(settings) for settings in (given, words)]
        for loss in found:
            assert loss.title == found[0].title and loss.diagnostics == found[0].diagnostics
            assert loss.parameterization == found[0].parameterization
            if isinstance(loss, DeclaredLoss):
                assert loss.schedule == found[0].schedule
                assert torch.equal(loss.coefficient(levels), found[0].coefficient(levels))
            else:
                assert torch.equal(loss.probability, found[0].probability)
                assert torch.equal(loss.coefficient, found[0].coefficient)
