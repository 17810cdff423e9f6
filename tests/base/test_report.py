"""Reports: all formats escape, and pages are closed by a policy that knows their scripts."""

import base64
import hashlib
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
from elbos.base.tables import Cell, Table


def plot():
    panel = Panel(HOSTILE, 200, [Scatter(x=[1, 2], y=[3, 4], name=HOSTILE)], {})
    return Plot(stacked([panel], logsnr_axis(1, 2), has_legend=True))


REPORT = Report(
    title=HOSTILE,
    parts=[
        Paragraph(HOSTILE, "lead"),
        Heading(HOSTILE),
        Table([HOSTILE, "n"], [[HOSTILE, Cell("2", value=2.0)], ["b", Cell("10", value=10.0)]]),
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


def test_policy_lets_the_two_scripts_run_and_fetches_nothing(page):
    (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    (script,) = re.findall('<script type="module">(.*?)</script>', page, re.DOTALL)
    for code in (script, get_plotlyjs()):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]
    assert rules["script-src"].count("sha256-") == 2 and "unsafe" not in rules["script-src"]


def test_plotly_is_embedded_once_and_only_for_plots(page):
    assert page.count('id="plotly"') == 1 and len(page) < 2.5e6
    assert len(Report(title="", parts=[Paragraph("words")]).html()) < 2e4


def test_hostile_text_makes_no_element(page):
    assert page.count("<script") == 5  # two figures, the numbers, plotly and the page's
    assert page.count("<img") == 1 and "<b>" not in page
    (data,) = re.findall('id="elbos-data">(.*?)</script>', page)
    content = json.loads(data)
    assert (content["name"], content["bits"]) == (HOSTILE, [None, None, 1.5])


def test_hostile_text_is_inert_in_a_browser(page, browser, tmp_path):
    (tmp_path / "page.html").write_text(page)
    with opened(browser, tmp_path / "page.html", width=390) as view:
        assert view.evaluate("window.hacked") is None
        assert view.title() == HOSTILE
        assert view.locator(".plot .scatterlayer .js-line").count() == 2
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        view.locator("th button").last.click()
        view.locator("th button").last.click()
        assert view.locator("tbody th").first.text_content() == "b"  # 10 before 2


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
