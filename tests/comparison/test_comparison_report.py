"""The report of a comparison: page, Markdown, terminal; of stored scores, all of it inert."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browsing import HOSTILE, opened, words
from comparing import stored_comparison
from PIL import Image
from rich.console import Console

from elbos.base.tables import Bold
from elbos.comparison.figures import learning_figure, levels_figure, weightings_figure
from elbos.comparison.report import page, planned_verdicts, terminal
from elbos.comparison.result import Comparison
from elbos.comparison.tables import line_styles, results_table


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 8 * 28), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


COMPARISON = stored_comparison()


@pytest.fixture
def report():
    """The report.json, to be changed."""
    return COMPARISON.to_dict()


@pytest.fixture(scope="module")
def html():
    return page(COMPARISON, {}).html()


def shown(comparison):
    """What the terminal shows, in colours, of 80 columns."""
    console = Console(width=80, file=io.StringIO(), color_system="standard", force_terminal=True)
    console.print(terminal(comparison).rich())
    return console.file.getvalue()


@pytest.mark.parametrize("wrong", [{"rows": 5}, {"num_images": "9"}, {"format": 2}])
def test_a_report_of_an_other_version_is_refused(report, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Comparison.from_dict(report | wrong)


def test_the_table_has_every_objective_and_every_metric():
    table = results_table(COMPARISON)
    titles, shorts = [c.title for c in table.columns], [m.short for m in COMPARISON.metrics]
    scores = slice(titles.index(shorts[0]), titles.index(shorts[0]) + len(shorts))
    assert titles[scores] == shorts
    *rows, baseline = table.rows
    for item, cells in zip(COMPARISON.objectives, rows, strict=True):
        name = cells[0].partition(" (")[0]
        assert (name, cells[1]) == (item.name, "yes" if item.is_monotone else "no")
        for metric, cell in zip(COMPARISON.metrics, cells[scores], strict=True):
            score = COMPARISON.scores[item.name].get(metric.key)
            if score is None:
                assert (item.name, cell) == ("p2", "–")
                continue
            is_near = score.is_best_within_error and not score.is_best
            assert ("★" in cell, "☆" in cell) == (score.is_best, is_near)
            assert ("±" in cell) == (score.std is not None)
    assert baseline[0].startswith("real-data baseline")


def test_every_objective_minus_the_first_comes_first(html):
    """With two objectives curves are relative to the first, too; an own one and its twin differ."""
    keys = [metric.key for metric in COMPARISON.main_metrics]
    (first, *rest), actual = COMPARISON.complete, COMPARISON.to_dict()["differences"]
    wanted = [(other.name, first.name, key) for other in rest for key in keys]
    assert [(item["objective"], item["minus"], item["metric"]) for item in actual] == wanted
    shown = f"{rest[0].name} minus {first.name}"
    for text in (words(html), COMPARISON.to_markdown()):
        assert -1 < text.find(shown) < text.find("Every objective")
    two = replace(
        COMPARISON,
        objectives=COMPARISON.objectives[:2],
        rows=[row for row in COMPARISON.rows if row.objective in (first.name, rest[0].name)],
    )
    assert levels_figure(two).data[0].y == (0.0,) * len(first.elbo.x)
    lone = replace(two, objectives=(replace(first, elbo=None, loss=None, learning=None), rest[0]))
    assert [trace.y for trace in learning_figure(lone).data] == [rest[0].learning.y]
    assert levels_figure(lone) is None  # a curve does not differ from itself
    mine = ["Tabulated('mine', 'ab')", "Monotone(inner=Tabulated('mine', 'ab'))"]
    looks = line_styles([replace(first, name=name, weighting=name) for name in mine])
    assert len({look.color for look in looks.values()}) == 2


def test_weightings_are_scaled_to_one_and_dashed_where_w_rises():
    weights, densities = (
        [trace for trace in weightings_figure(COMPARISON).data if trace.yaxis == axis]
        for axis in ("y", "y2")
    )
    assert len(weights) == len(COMPARISON.objectives) >= len(densities) > 0
    assert all(max(trace.y) == 1 for trace in weights)
    rising = [not objective.is_monotone for objective in COMPARISON.objectives]
    assert [trace.line.dash == "dash" for trace in weights] == rising


def test_what_is_not_complete_is_shown_with_its_reason(html):
    for text in (words(html), COMPARISON.to_markdown(), shown(COMPARISON)):
        for seed in range(4):
            assert f"p2-{seed}: the loss is not finite at step 812" in " ".join(text.split())
    assert "3 of 4" in results_table(COMPARISON).rows[-3][0]


def test_one_seed_crowns_nobody():
    """Not on the page, in Markdown, or on the terminal."""
    comparison = stored_comparison(seeds=(0,))
    for text in (words(page(comparison, {}).html()), comparison.to_markdown(), shown(comparison)):
        assert "★" not in text and "±" not in text and "best with" not in text
        assert "One seed" in text
    assert not any(isinstance(cell, Bold) for row in results_table(comparison).rows for cell in row)


def test_markdown_escapes_pipes_and_tags(report):
    name = f"a|b {HOSTILE}\n# c"
    for row in report["rows"]:
        row["objective"] = row["objective"].replace("iddpm", name)
    report["objectives"][0]["name"] = name
    report["command"] = "elbos `compare` ```x```"
    text = Comparison.from_dict(report).to_markdown()
    every = text.partition("## Every objective")[2]
    lines = [line for line in every.splitlines() if line.startswith("|")]
    widths = {len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines[:14]}
    assert widths == {len(results_table(COMPARISON).columns)}
    assert not re.search(r"(?<!\\)<", text) and not re.search(r"^# c", text, re.MULTILINE)
    assert text.rstrip().endswith("````")


def shifted(report, **shifts):
    """A comparison in which every monotone objective of a pair is shifted, without any scatter."""
    pairs = {pair.monotone: pair.non_monotone for pair in COMPARISON.pairs}
    values = COMPARISON.values
    for row in report["rows"]:
        if row["objective"] in pairs and row["metric"] in shifts:
            twin = values[pairs[row["objective"]]][row["metric"]][row["seed"]]
            row["value"] = twin + shifts[row["metric"]]
    return Comparison.from_dict(report)


def test_significant_differences_are_counted(report):
    """Of two pairs with three scores each."""
    comparison = shifted(report, frechet_heun=-400.0, bits_per_dim=50.0, frechet_ancestral=0)
    assert planned_verdicts(comparison) == {"better": 2, "worse": 2, "same": 2}
    verdicts = {
        metric.key: comparison.difference(*comparison.pairs[0], metric).verdict(metric)
        for metric in comparison.main_metrics
    }
    assert (verdicts["frechet_heun"], verdicts["bits_per_dim"]) == ("better", "worse")
    assert "better in 2 and worse in 2 of 6" in comparison.to_markdown()


def test_words_from_outside_are_inert(browser, tmp_path):
    text = json.dumps(COMPARISON.to_dict())
    for word in ("iddpm", "flow", "ELBO()", "V()", "FD, Heun", "bits/dim"):
        text = text.replace(json.dumps(word), json.dumps(HOSTILE + word))
        text = text.replace(f'"loss under {word}"', json.dumps(f"loss under {HOSTILE}{word}"))
    hostile = json.loads(text)
    hostile |= dict.fromkeys(("name", "command", "data"), HOSTILE)
    hostile["protocol"] |= {"network": HOSTILE, HOSTILE: "0.5"}
    hostile["objectives"][-1]["failures"][0]["reason"] = HOSTILE
    samples = {hostile["objectives"][0]["name"]: picture(0)}
    Comparison.from_dict(hostile).to_html(tmp_path / "page.html", samples)
    with opened(browser, tmp_path / "page.html", width=1280) as view:
        assert view.evaluate("window.hacked") is None
        assert view.locator("img:not(figure img), script[src], iframe").count() == 0
        assert HOSTILE in view.title()
