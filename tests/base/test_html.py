"""Templates and whole pages: escaped, and closed by a policy that knows its scripts."""

import base64
import hashlib
import json
import math
import re

import jinja2
import pytest
from browsing import HOSTILE, opened
from plotly.graph_objects import Scatter
from plotly.offline import get_plotlyjs

from elbos.base import html
from elbos.base.figures import Panel, logsnr_axis, stacked
from elbos.base.html import Markdown, document, fenced, inert, plain, render, to_json
from elbos.base.tables import Column, Table

PAGE = """{% extends "base.html" %}
{% from "macros.html" import plot, island, legend, scrollable %}
{% block title %}{{ name }}{% endblock %}
{% block heading %}{{ name | breakable }}{% endblock %}
{% block main %}
{% call plot(figure, name, name, "elbos-test") %}<li>{{ name }}</li>{% endcall %}
{{ scrollable(table.html(), name) }}
{{ nothing }}
{% endblock %}
{% block data %}{{ island("data", {"name": name, "bits": bits} | to_json) }}{% endblock %}
"""


@pytest.fixture
def templates(monkeypatch):
    """Templates that are there for a test."""
    own = {}
    for suffix in (".html", ".md", ".txt"):
        environment = html._environment(suffix)
        both = jinja2.ChoiceLoader([jinja2.DictLoader(own), environment.loader])
        monkeypatch.setattr(environment, "loader", both)
    return own


@pytest.fixture
def page(templates):
    templates["page.html"] = PAGE
    panel = Panel(HOSTILE, 200, [Scatter(x=[1, 2], y=[3, 4], name=HOSTILE)], {})
    figure = stacked([panel], logsnr_axis(1, 2), has_legend=True)
    table = Table([Column("")], [[HOSTILE]])
    context = {"name": HOSTILE, "command": HOSTILE, "nothing": None, "bits": math.nan}
    return document("page.html", figure=figure, table=table, **context)


def test_policy_lets_the_two_scripts_run_and_fetches_nothing(page):
    (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    (script,) = re.findall('<script type="module">(.*?)</script>', page, re.DOTALL)
    for code in (script, get_plotlyjs()):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]
    assert rules["script-src"].count("sha256-") == 2 and "unsafe" not in rules["script-src"]


def test_hostile_text_makes_no_element(page):
    assert page.count("<script") == 4  # two of JSON, plotly and the page's
    assert "<img" not in page and "<b>" not in page
    (data,) = re.findall('id="data">(.*?)</script>', page)
    assert json.loads(data) == {"name": HOSTILE, "bits": None}


def test_hostile_text_is_inert_in_a_browser(page, browser, tmp_path):
    (tmp_path / "page.html").write_text(page)
    with opened(browser, tmp_path / "page.html", width=1280) as view:
        assert view.evaluate("window.hacked") is None
        assert view.title() == HOSTILE
        assert view.locator(".plot .scatterlayer .js-line").count() == 1


def test_each_format_escapes_in_its_own_way(templates):
    templates |= {f"a{suffix}": "*{{ a }}* {{ b }}" for suffix in (".html", ".md", ".txt")}
    assert render("a.html", a="<|>", b=None) == "*&lt;|&gt;* –"
    assert render("a.md", a="<|>", b=Markdown("**c**")) == r"*\<\|\>* **c**"
    assert render("a.txt", a="<|>", b=1) == "*<|>* 1"


def test_rendered_parts_are_taken_as_they_are(templates):
    templates |= {"part.md": "**{{ a }}**", "whole.md": "# {{ part }}"}
    assert render("whole.md", part=render("part.md", a="*")) == r"# **\***"
    templates |= {"part.html": "<b>{{ a }}</b>", "whole.html": "<p>{{ part }}</p>"}
    assert render("whole.html", part=render("part.html", a="<")) == "<p><b>&lt;</b></p>"


def test_code_stays_in_its_fence():
    assert fenced("a ``` b") == "````sh\na ``` b\n````"
    assert plain("a\nb") == "a b"


def test_json_is_finite_and_inert():
    text = to_json({"a": [math.inf, 1.5, "</script>"], "b": math.nan})
    assert json.loads(text) == {"a": [None, 1.5, "</script>"], "b": None}
    assert "<" not in inert(text) and json.loads(inert(text)) == json.loads(text)
