"""The gallery: its page in a real browser, and ratios of weightings that formulas have."""

import dataclasses
import json
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from browsing import HOSTILE, opened
from scipy.special import expit
from scipy.stats import norm

from elbos import audit as auditing
from elbos.audit.diagnostics import NotSquared
from elbos.base.html import write_html

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 2000
sys.path.append(str(ROOT / "docs/gallery"))
from page import Card, Showcase, page  # noqa: E402
from picture import DECADES, HEIGHT, LOGSNR, WIDTH, picture  # noqa: E402

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


def test_island_holds_what_the_cards_say(cards, showcases):
    html = page(cards, showcases, command=COMMAND)
    (island,) = re.findall(r'id="elbos-gallery">(.*?)</script>', html, re.DOTALL)
    losses = json.loads(island)["losses"]
    assert [one["name"] for one in losses] == ["edm", "huber", *NAMES]
    for one, audit in zip(losses[2:], (c.audit for c in cards), strict=True):
        assert one["verdict"] == audit.verdict
        assert one["nearest"] == audit.closest[0].name
        assert one["rising"] == [list(ends) for ends in audit.rising]


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


@pytest.fixture(scope="module")
def measured_showcases():
    """Every showcase, with few samples, when it is asked for."""
    return {
        showcase.file: showcase
        for showcase in runpy.run_path(str(ROOT / "docs/gallery/showcases.py"))["SHOWCASES"]
    }


def ratio_density(t):
    """Of X / (X + Y) for X = U**(1/1.5), Y = V, over that of Beta(1.5, 1)."""
    return np.maximum(t, 1 - t) ** -2.5 / 2.5


def three(logsnr):
    """Three normal densities over the first."""
    first = norm.pdf(logsnr, -2.3, 2)
    return 0.79 + (0.11 * norm.pdf(logsnr, -6, 2) + 0.1 * norm.pdf(logsnr, 5.36, 1)) / first


# of each loss: its weighting over that of the first, up to a constant; and the error allowed
RATIOS = {
    "diffusers_v_prediction.py": {
        "plus_one": (lambda snr: (snr + 1) * (1 / snr + 1 / np.minimum(snr, 5)), 0.02),
        "snr_plus_one": (lambda snr: np.minimum(snr + 1, 5) / np.minimum(snr, 5), 0.02),
        "eps_weight": (lambda snr: (snr + 1) / snr, 0.02),
    },
    "debiased.py": {
        "inverse": (lambda snr: (snr + 1) / (snr.clip(max=1000) + 1) / np.sqrt(snr), 0.02),
        "root": (lambda snr: (snr + 1) / np.sqrt(snr * (snr.clip(max=1000) + 1)), 0.02),
    },
    "beta_times.py": {"ratio": (lambda snr: ratio_density(expit(-np.log(snr) / 2)), 0.2)},
    "p2.py": {
        "snr_twice": (lambda snr: snr, 0.02),
        "one_twice": (lambda snr: (1 + snr) ** 2 / (snr * (2 + snr)), 0.02),
    },
    "flipped_mean.py": {"flipped": (lambda snr: snr ** (-4.8 / 2.4**2), 0.02)},
    "three_densities.py": {"three": (lambda snr: three(np.log(snr)), 0.2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("file", RATIOS)
def test_losses_differ_as_their_formulas_do(measured_showcases, file):
    first, *others = measured_showcases[file].measured(NUM_SAMPLES).cards
    found = {card.name: card.audit for card in others}
    assert set(found) == set(RATIOS[file])
    for name, audit in found.items():
        formula, tolerance = RATIOS[file][name]
        low, high = first.audit.logsnr[[0, -1]]
        levels = audit.logsnr[(low <= audit.logsnr) & (audit.logsnr <= high)]
        p = np.interp(levels, audit.logsnr, audit.density)
        log_ratio = (audit.weighting(levels) / first.audit.weighting(levels)).log().numpy()
        error = log_ratio - np.log(formula(np.exp(levels.numpy())))
        mean = np.average(error, weights=p)
        assert np.sqrt(np.average((error - mean) ** 2, weights=p)) < tolerance, name
