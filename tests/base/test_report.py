"""Reports: all formats escape, and pages fetch nothing."""

import io
import json
import math
import re

import pytest
from browsing import HOSTILE, opened, words
from plotly.graph_objects import Scatter
from plotly.offline import get_plotlyjs
from rich.console import Console

from elbos.base.figures import Panel, logsnr_axis, stacked
from elbos.base.report import Code, Heading, Paragraph, Picture, Plot, Report
from elbos.base.tables import Bold, Table


def plot():
    panel = Panel(HOSTILE, 200, [Scatter(x=[1, 2], y=[3, 4], name=HOSTILE)], {})
    return Plot(stacked([panel], logsnr_axis(1, 2), has_legend=True))


REPORT = Report(
    title=HOSTILE,
    parts=[
        Paragraph(HOSTILE, "lead"),
        Heading(HOSTILE),
        Table([HOSTILE, "n"], [[HOSTILE, Bold("2")], ["b", "10"]]),
        Code(HOSTILE),
        Table(["without rows"], []),
        Heading("Curves"),
        Paragraph("below the curves"),
        plot(),
        plot(),
        Heading("Samples"),
        Picture(b"png", HOSTILE),
    ],
    command=f"elbos ``` {HOSTILE}",
    data={"name": HOSTILE, "bits": [math.nan, math.inf, 1.5]},
)


@pytest.fixture(scope="module")
def page():
    return REPORT.html()


def test_plotly_is_embedded_once_and_only_for_plots(page):
    assert page.count(get_plotlyjs()) == 1
    assert len(Report(title="", parts=[Paragraph("words")]).html()) < 2e4


def test_the_page_holds_the_numbers_as_json(page):
    (data,) = re.findall('id="elbos-data">(.*?)</script>', page)
    content = json.loads(data)
    assert (content["name"], content["bits"]) == (HOSTILE, [None, None, 1.5])


def test_hostile_text_is_shown_and_inert_in_a_browser(page, browser, tmp_path):
    (tmp_path / "page.html").write_text(page)
    with opened(browser, tmp_path / "page.html", width=390) as view:
        assert view.evaluate("window.hacked") is None
        assert view.title() == HOSTILE
        for place in ("h1", "h2", "p", "th", "td", "pre"):
            assert view.locator(place).first.text_content().strip() == HOSTILE
        assert view.locator("img").count() == 1 and view.locator("b").count() == 0
        assert view.locator(".plot .scatterlayer .js-line").count() == 2
        assert view.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_can_fetch_nothing(page, browser, tmp_path):
    (tmp_path / "page.html").write_text(page)
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    assert view.evaluate("fetch('https://example.com').catch(() => 'refused')") == "refused"
    view.close()


def test_texts_have_all_but_sections_with_curves_and_pictures():
    console = Console(file=(file := io.StringIO()), width=1000)
    console.print(REPORT.rich())
    for text in (REPORT.markdown(), file.getvalue()):
        assert "10" in text and "without rows" not in text
        assert not any(part in text for part in ("Curves", "below the curves", "Samples"))
    assert file.getvalue().count(HOSTILE) == 5


def test_markdown_is_escaped():
    text, _, code = REPORT.markdown().rpartition("## Reproduce")
    text = re.sub(r"```sh.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)[<>&`]", text)
    assert code.strip() == f"````sh\nelbos ``` {HOSTILE}\n````"


def test_the_page_is_written_into_a_new_folder(tmp_path):
    Report(title="a", parts=[Paragraph("b < c")]).write_html(tmp_path / "new" / "page.html")
    assert "b &lt; c" in words((tmp_path / "new" / "page.html").read_text())
