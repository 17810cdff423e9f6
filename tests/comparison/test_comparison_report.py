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

from elbos.comparison.figures import family, learning_figure, levels_figure, swatches
from elbos.comparison.page import markdown, page, planned_verdicts, terminal
from elbos.comparison.result import Comparison
from elbos.comparison.tables import results_table


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
    return page(COMPARISON, {})


def shown(comparison):
    """What the terminal shows, in colours, of 80 columns."""
    console = Console(width=80, file=io.StringIO(), color_system="standard", force_terminal=True)
    for part in terminal(comparison):
        console.print(part, highlight=False, markup=False)
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
    for one, cells in zip(COMPARISON.objectives, table.body_cells, strict=True):
        assert (cells[0].text, cells[1].kind) == (one.name, "yes" if one.is_monotone else "no")
        for metric, cell in zip(COMPARISON.metrics, cells[scores], strict=True):
            score = COMPARISON.scores[one.name].get(metric.key)
            if score is None:
                assert (one.name, cell.text) == ("p2", "–")
                continue
            assert cell.value == score.mean
            is_near = score.is_best_within_error and not score.is_best
            assert (cell.is_best, "☆" in cell.text) == (score.is_best, is_near)
            assert ("±" in cell.text) == (score.std is not None)
    assert [cells[0].text[:5] for cells in table.foot_cells] == ["real-", "least"]


def test_every_objective_minus_the_first_comes_first(html):
    """With two objectives curves are relative to the first, too; an own one and its twin differ."""
    keys = [metric.key for metric in COMPARISON.main_metrics]
    (first, *others), found = COMPARISON.complete, COMPARISON.to_dict()["differences"]
    wanted = [(other.name, first.name, key) for other in others for key in keys]
    assert [(one["objective"], one["minus"], one["metric"]) for one in found] == wanted
    shown = f"{others[0].name} minus {first.name}"
    for text, later in ((words(html), "Result"), (markdown(COMPARISON), "A monotone")):
        assert -1 < text.find(shown) < text.find(later)
    two = replace(
        COMPARISON,
        objectives=COMPARISON.objectives[:2],
        rows=[row for row in COMPARISON.rows if row.objective in (first.name, others[0].name)],
    )
    assert "the median" not in words(page(two, {}))
    assert levels_figure(two).data[0].y == (0.0,) * len(first.elbo.x)
    lone = replace(two, objectives=(replace(first, elbo=None, loss=None, learning=None), others[0]))
    curves = {levels_figure: others[0].loss, learning_figure: others[0].learning}
    for figure, curve in curves.items():  # and no difference of a curve from itself
        assert [trace.y for trace in figure(lone).data] == [curve.y]
    own = ["Tabulated('mine', 'ab')", "Monotone(inner=Tabulated('mine', 'ab'))"]
    looks = swatches([replace(first, name=name, weighting=name) for name in own])
    assert len({look.color for look in looks.values()}) == len(set(map(family, own))) == 2


def test_what_is_not_complete_is_shown_with_its_reason(html):
    for text in (words(html), markdown(COMPARISON), shown(COMPARISON)):
        assert "seeds 0, 1, 2, 3: the loss is not finite at step 812" in " ".join(text.split())
        assert "seed 2: the loss" in " ".join(text.split())
    assert results_table(COMPARISON).body_cells[-2][0].note.startswith("3 of 4")


def test_one_seed_crowns_nobody():
    """Not on the page, in Markdown, or on the terminal."""
    comparison = stored_comparison(seeds=(0,))
    for text in (words(page(comparison, {})), markdown(comparison), shown(comparison)):
        assert "★" not in text and "±" not in text and "best with" not in text
        assert "One seed" in text
    assert not any(cell.is_bold for row in results_table(comparison).body_cells for cell in row)


def test_markdown_escapes_pipes_and_tags(report):
    name = f"a|b {HOSTILE}\n# c"
    for row in report["rows"]:
        row["objective"] = row["objective"].replace("iddpm", name)
    report["objectives"][0]["name"] = name
    report["command"] = "elbos `compare` ```x```"
    text = markdown(Comparison.from_dict(report))
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
    assert "better in 2 and worse in 2 of 6" in markdown(comparison)


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
    with opened(browser, tmp_path / "page.html", width=1280) as page:
        page.locator(".compared th button").first.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img:not(.strips img), script[src], iframe").count() == 0
        assert HOSTILE in page.title()
