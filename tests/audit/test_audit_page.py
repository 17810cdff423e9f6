"""The page of an audit in a real browser: it shows what the audit found, and nothing gets out."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from browsing import HOSTILE, opened

from elbos import audit as auditing
from elbos.audit import from_recipe
from elbos.audit.figures import figure
from elbos.audit.report import page, write_page
from elbos.audit.words import as_dict
from elbos.base.codec import parse
from elbos.theory.names import code
from elbos.theory.recipes import RECIPES
from elbos.theory.weightings import Weighting

COMMAND = "elbos audit train.py:loss --title '<b>'" + " --and-so-on" * 20


def edm_loss(network, x):
    sigma = (-1.2 + 1.2 * torch.randn(x.shape[0], 1, 1, 1)).exp()
    error = network(x + sigma * torch.randn_like(x), sigma.flatten()) - x
    return ((1 / sigma**2 + 4) * error**2).mean()


@pytest.fixture(scope="module")
def edm():
    """Measured, with an uncertainty, and not monotone."""
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return auditing.probe(edm_loss, x, num_samples=2000, title="EDM, by hand")


@pytest.fixture(scope="module")
def hostile():
    """Declared, hence exact; monotone; with a title that tries to get out."""
    return dataclasses.replace(from_recipe("sigmoid-2"), title=HOSTILE)


# ------------------------------------------------------------------------------- without a browser


def area(x, y):
    """Signed area of a closed polygon: positive where its first half lies above its second."""
    return -0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)


@pytest.mark.parametrize("name", ["edm", "min-snr-5", "sigmoid-2", "elbo", "flow"])
def test_what_the_mixture_adds_is_one_and_what_it_subtracts_is_in_proportion(name):
    audit = from_recipe(name)
    panel = [trace for trace in figure([audit]).data if trace.yaxis == "y3"]
    added, subtracted, _, mass = panel
    total = area(added.x, added.y) + mass.y[-1]
    assert total == pytest.approx(1, abs=0.02)  # on the grid, kinks of the weighting are smoothed
    share = audit.negative_mass / (1 + audit.negative_mass)
    assert area(subtracted.x, subtracted.y) == pytest.approx(share, abs=0.02)


def test_figure_holds_the_numbers_of_the_audit(edm, hostile):
    fig = edm.plot(hostile)
    lines = [trace for trace in fig.data if trace.yaxis == "y" and trace.customdata is not None]
    for audit, line in zip((edm, hostile), lines, strict=True):
        np.testing.assert_array_equal(line.x, audit.logsnr)
        np.testing.assert_array_equal(line.y, audit.weight)
    band = fig.data[0]
    half = len(band.x) // 2
    spread = np.log(band.y[:half] / band.y[half:][::-1])
    np.testing.assert_allclose(spread, 4 * edm.weight_error, rtol=1e-9)
    shaded = {(shape.x0, shape.x1) for shape in fig.layout.shapes}
    assert shaded == set(edm.rising)


@pytest.mark.parametrize(
    "weighting", sorted({r.weighting for r in RECIPES.values()}, key=repr), ids=repr
)
def test_names_are_read_back(weighting):
    # four digits: a mean of up to 2 is off by 5e-4, and log w of logit-normal times by up to 6.6
    # times that, (logit t - m) / s**2 at log-SNR 9
    logsnr = torch.linspace(-9, 9, 37, dtype=torch.float64)
    torch.testing.assert_close(
        parse(Weighting, code(weighting))(logsnr), weighting(logsnr), rtol=3.3e-3, atol=0
    )


@pytest.mark.parametrize("name", ["__import__('os').getcwd()", "Weighting()", "1 +"])
def test_names_are_not_run(name):
    with pytest.raises((ValueError, SyntaxError)):
        parse(Weighting, name)


def test_island_holds_every_number(edm, hostile):
    html = page([edm, hostile], command=COMMAND).html()
    (island,) = re.findall(r'id="elbos-data">(.*?)</script>', html, re.DOTALL)
    content = json.loads(island)
    expected = [json.loads(json.dumps(as_dict(audit))) for audit in (edm, hostile)]
    assert content["audits"] == expected
    assert content["command"] == COMMAND


# ---------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def pair(browser, edm, hostile, tmp_path_factory):
    """The page of two audits, on a phone."""
    path = tmp_path_factory.mktemp("pair") / "page.html"
    write_page([edm, hostile], path)
    with opened(browser, path, width=390, is_mobile=True, has_touch=True) as page:
        yield page


def test_titles_are_inert(pair):
    assert pair.evaluate("window.hacked") is None
    assert pair.locator("img, script[src], iframe").count() == 0
    assert HOSTILE in pair.locator("p strong").all_text_contents()[1]
    assert HOSTILE in pair.title()
    assert pair.evaluate("document.documentElement.scrollWidth") <= 390
