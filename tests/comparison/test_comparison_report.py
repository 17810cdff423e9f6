"""The report of a comparison: page, Markdown, terminal; of stored scores, all of it inert."""

import io
import json
import re

import numpy as np
import pytest
from browsing import HOSTILE, contrast, opened
from comparing import stored_comparison
from PIL import Image
from rich.console import Console

from elbos.comparison.figures import family, learning_figure, levels_figure, ranking_figure
from elbos.comparison.page import Planned, markdown, page, terminal
from elbos.comparison.result import Comparison
from elbos.comparison.tables import (
    pairs_table,
    protocol_table,
    ranked,
    results_table,
    seeds_table,
    weighting_label,
)


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 8 * 28), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


SAMPLES = {name: picture(seed) for seed, name in enumerate(("iddpm", "elbo", "flow"))}
COMPARISON = stored_comparison()


@pytest.fixture
def report():
    """The report.json, to be changed."""
    return COMPARISON.to_dict()


@pytest.fixture(scope="module")
def html():
    return page(COMPARISON, {})


def read(html):
    """The text of a page, without tags and scripts."""
    body = re.sub(r"<(script|style|title).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", " ", body.replace("<wbr>", "")))


def island_of(html):
    (content,) = re.findall(r'id="elbos-comparison">(.*?)</script>', html, re.DOTALL)
    return json.loads(content, parse_constant=pytest.fail)


def test_a_training_too_short_is_said_first(report):
    """Where warm-up takes much of it, and where no objective is better than guessing pixels."""
    quiet = markdown(Comparison.from_dict(report))
    report["protocol"] |= {"long_warmup": "the warm-up is long", "num_levels": 2}
    loud = markdown(Comparison.from_dict(report))
    guess, warmup = loud.index("1.00 bits/dim"), loud.index("the warm-up is long")
    assert guess < warmup < loud.index("planned comparisons")
    assert "1.00 bits/dim" not in quiet


def shown(comparison):
    """What the terminal shows, in colours, of 80 columns."""
    console = Console(width=80, file=io.StringIO(), color_system="standard", force_terminal=True)
    for part in terminal(comparison):
        console.print(part, highlight=False, markup=False)
    return console.file.getvalue()


def test_a_report_is_what_it_was_read_from():
    assert Comparison.from_dict(json.loads(json.dumps(COMPARISON.to_dict()))) == COMPARISON


@pytest.mark.parametrize(
    "wrong", [{"protocol": {"network": "UNet"}}, {"rows": 5}, {"num_images": "9"}, {"format": 2}]
)
def test_a_report_of_an_earlier_version_is_refused(report, wrong):
    with pytest.raises(ValueError, match="report of this version"):
        Comparison.from_dict(report | wrong)


def test_the_protocol_says_how_all_runs_were_made():
    rows = dict(row for row in protocol_table(COMPARISON).rows)
    assert rows["seeds"] == "0, 1, 2, 3"
    assert rows["heun sampler"].endswith("18 steps, 35 evaluations")
    assert rows["features"].startswith("Lite0, 2,000 samples")


def test_the_protocol_names_the_metrics_of_fewer_samples(report):
    """Those that were measured and depend on the number of samples."""
    report["num_compared"] = 500
    report["metrics"][-1] |= {"key": "classifier_score_heun", "title": "classifier score, Heun"}
    rows = dict(protocol_table(Comparison.from_dict(report)).rows)
    (titles,) = [title for title, text in rows.items() if " 500 samples" in text]
    assert titles == "Fréchet distance, precision, recall, classifier score"


def test_the_table_has_every_objective_and_every_metric():
    table = results_table(COMPARISON)
    assert [column.title for column in table.columns[2:-3]] == [m.short for m in COMPARISON.metrics]
    for one, cells in zip(COMPARISON.objectives, table.body_cells, strict=True):
        assert (cells[0].text, cells[1].kind) == (one.name, "yes" if one.is_monotone else "no")
        for metric, cell in zip(COMPARISON.metrics, cells[2:-3], strict=True):
            if one.status == "failed":
                assert cell.text == "–"
                continue
            score = one.scores[metric.key]
            assert cell.value == score.mean
            assert (cell.is_best, cell.is_bold) == (score.is_best, score.is_best_within_error)
            assert ("±" in cell.text) == (score.std is not None)
    assert [cells[0].text[:5] for cells in table.foot_cells] == ["real-", "least"]


def test_numbers_have_two_digits_of_their_deviation():
    iddpm, *_, wild, _, _ = results_table(COMPARISON).body_cells
    assert iddpm[4].text == "2.8415 ± 0.0027"
    assert (wild[4].text, wild[4].note) == ("2777 ± 768", "unresolved")
    assert iddpm[4].is_bold and not wild[4].is_bold
    assert "2777 ± 768?" in shown(COMPARISON)


def test_deviations_stand_below_the_means_on_a_page(report):
    """And names are as they were given."""
    report["rows"][0]["weighting"] = "mine ± 2"
    comparison = Comparison.from_dict(report)
    beside, below = (results_table(comparison, is_stacked=one) for one in (False, True))
    assert (beside.body_cells[0][4].text, beside.body_cells[0][4].note) == ("2.8415 ± 0.0027", "")
    assert (below.body_cells[0][4].text, below.body_cells[0][4].note) == ("2.8415", "± 0.0027")
    assert "mine ± 2" in page(comparison, {})


def test_weightings_have_short_names():
    """One whose values are stored has its own."""
    assert weighting_label("Monotone(inner=EDM(mean=2.4, std=2.4, sigma_data=0.5))") == (
        "EDM-monotonic"
    )
    assert weighting_label("Monotone(inner=Tabulated('mine', '1f2e'))") == "mine-monotonic"
    assert weighting_label("somebody's own") == "somebody's own"
    assert family("Shifted(inner=EDM(mean=2.4), shift=1.0)") == "EDM"


def test_what_is_not_complete_is_shown_with_its_reason(html):
    for text in (read(html), markdown(COMPARISON), shown(COMPARISON)):
        assert "seeds 0, 1, 2, 3: the loss is not finite at step 812" in " ".join(text.split())
        assert "seed 2: the loss" in " ".join(text.split())
    assert results_table(COMPARISON).body_cells[-2][0].note.startswith("3 of 4")


def test_values_of_every_seed_are_there(html):
    rows = seeds_table(COMPARISON).rows
    assert len(rows) == 12 * 4
    assert f"{COMPARISON.objectives[0].scores['frechet_heun'].values[2]:#.4g}" in rows[2]
    assert rows[2][0] in read(html)


def test_the_page_holds_the_report_as_json(html):
    assert island_of(html)["comparison"] == json.loads(json.dumps(COMPARISON.to_dict()))


SECTIONS = {
    "pairs": "Matched pairs",
    "losses": "Every model under every objective",
    "ranking": "Does an ELBO rank models",
    "protocol": "Protocol",
    "learning": "Learning curves",
    "density": "How the adaptive schedules moved",
}


@pytest.mark.parametrize("is_odd", [False, True])
def test_what_is_null_or_empty_is_left_out(report, html, is_odd):
    missing = list(SECTIONS)[is_odd::2]
    for place in (report, *report["rows"]):
        for key in missing:
            if key in place:
                place[key] = [] if key == "pairs" else None
    text = read(page(Comparison.from_dict(report), {}))
    assert all((title in text) == (key not in missing) for key, title in SECTIONS.items())
    assert not re.search(r"\b(nan|None|null)\b", text)
    assert all(title in read(html) for title in SECTIONS.values())


def test_one_seed_crowns_nobody():
    """Not on the page, in Markdown, or on the terminal."""
    comparison = stored_comparison(seeds=(0,))
    for text in (read(page(comparison, {})), markdown(comparison), shown(comparison)):
        assert "★" not in text and "±" not in text and "best with" not in text
        assert "One seed" in text
    assert not any(cell.is_bold for row in results_table(comparison).body_cells for cell in row)


@pytest.mark.parametrize("is_monotone", [True, False])
def test_curves_of_monotone_weightings_are_solid_the_others_dashed(is_monotone):
    known = {one.name for one in COMPARISON.objectives if one.is_monotone == is_monotone}
    for figure in (learning_figure, levels_figure):
        lines = [trace for trace in figure(COMPARISON).data if trace.meta in known]
        assert {line.line.dash for line in lines} == {"solid" if is_monotone else "dash"}


def test_differences_to_the_median_of_all_objectives_have_median_zero():
    for figure, panel in ((learning_figure, "y2"), (levels_figure, "y"), (levels_figure, "y2")):
        lines = [trace.y for trace in figure(COMPARISON).data if trace.yaxis == panel]
        assert len(lines) == 11
        np.testing.assert_allclose(np.median(lines, axis=0), 0, atol=1e-12)
        assert np.ptp(lines, axis=0).max() > 0


def test_a_curve_far_from_all_others_leaves_its_panel(report):
    """And the others fill it."""
    figure = learning_figure(COMPARISON)
    low, high = figure.layout.yaxis.range
    lines = [line for line in figure.data if line.yaxis == "y" and line.meta != "min-snr"]
    others = np.concatenate([line.y for line in lines])
    assert low < others.min() < others.max() < high < 1.1 * others.max()
    report["rows"] = [row for row in report["rows"] if row["name"] != "min-snr"]
    assert learning_figure(Comparison.from_dict(report)).layout.yaxis.range is None


def test_objectives_that_are_alike_drive_no_other_out_of_its_panel(report):
    """Half of the curves on the median exactly."""
    report["rows"] = report["rows"][:3]
    report["rows"][1]["learning"] = report["rows"][0]["learning"]
    assert learning_figure(Comparison.from_dict(report)).layout.yaxis2.range is None


def test_bands_of_correlations_are_their_intervals():
    found = COMPARISON.ranking.by_level["frechet_ancestral"]
    band, line = ranking_figure(COMPARISON.ranking.logsnr, {"FD": found}).data
    np.testing.assert_array_equal(band.y, found.high + found.low[::-1])
    np.testing.assert_array_equal(line.y, found.rho)
    assert ranked(COMPARISON)["bits_per_dim"] != "bits/dim"  # the clean ELBO, by name


def test_markdown_escapes_pipes_and_tags(report):
    report["rows"][0]["name"] = f"a|b {HOSTILE}\n# c"
    report["command"] = "elbos `compare` ```x```"
    text = markdown(Comparison.from_dict(report))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines[:14]}
    assert widths == {5 + len(COMPARISON.metrics)}
    assert not re.search(r"(?<!\\)<", text) and not re.search(r"^# c", text, re.MULTILINE)
    assert text.rstrip().endswith("````")


def test_the_terminal_shows_every_objective_in_80_columns():
    text = shown(COMPARISON)
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 80
    for one in COMPARISON.objectives:
        assert one.name in text


# --- what was found ------------------------------------------------------------------------------


def found(report, **differences):
    """How pairs came out, of these differences and half-widths."""
    for pair in report["pairs"]:
        for key in ("frechet_heun", "frechet_ancestral", "bits_per_dim"):
            mean, half = differences.get(key, (0.1, 1.1))
            ends = {"low": mean - half, "high": mean + half, "detectable": half}
            pair["differences"][key] |= {"mean": mean, **ends}
    comparison = Comparison.from_dict(report)
    return comparison, Planned.from_comparison(comparison)


def test_significant_differences_are_counted_and_named(report):
    """Of two pairs with three scores each; and what would have been found of the others."""
    comparison, planned = found(report, frechet_heun=(-4.0, 1.0), bits_per_dim=(0.5, 0.3))
    assert (planned.num, planned.num_better, planned.num_worse) == (6, 2, 2)
    assert len(planned.significant) == 4
    assert (
        "eps-cosine-sigmoid-2 minus iddpm, bits/dim: +0.50 (+0.20 to +0.80)" in planned.significant
    )
    assert planned.least == ["1.1 (Fréchet distance, ancestral)"]
    assert "better in 2 and worse in 2 of 6" in markdown(comparison)


def test_what_would_have_been_significant_is_said_where_nothing_was(report):
    comparison, planned = found(report)
    assert (planned.num, planned.num_better, planned.num_worse) == (6, 0, 0)
    assert planned.significant == [] and "1.1 (bits/dim)" in planned.least
    rows = [cells for cells in pairs_table(comparison).rows if cells[3].text != "–"]
    assert [cells[4].text for cells in rows] == ["1.1"] * 6
    assert read(page(comparison, {})).count("no significant difference") >= 6


@pytest.mark.parametrize("num_near", [0, 2, 9])
def test_the_best_objective_is_named_and_those_that_may_be_as_good(report, num_near):
    """Of ten complete ones; many are counted."""
    complete = [row for row in report["rows"] if row["status"] == "complete"]
    for i, row in enumerate(complete):
        row["scores"]["bits_per_dim"] |= {"is_best": i == 0, "is_best_within_error": i <= num_near}
    report["statistics"]["bits_per_dim"]["detectable"] = 0.123
    text = markdown(Comparison.from_dict(report))
    (line,) = re.findall(r"^bits/dim: iddpm .*$", text, re.MULTILINE)
    num_monotone = sum(row["is_monotone"] for row in complete[1:])
    assert {
        0: "all others",
        2: "0.12: eps-cosine-sigmoid-2 (monotone), eps-adaptive-sigmoid-3 (monotone).",
        9: f"0.12: 9 of the other 9, {num_monotone} ",
    }[num_near] in line


def test_the_best_level_is_never_without_its_p_value(report):
    """Of all noise levels, on the page and in Markdown."""
    for key in ("bits_per_dim", "frechet_heun", "frechet_ancestral"):
        report["ranking"]["by_level"][key]["p_value"] = 0.375
    comparison = Comparison.from_dict(report)
    assert "p = 0.38" in markdown(comparison)
    assert read(page(comparison, {})).count("p = 0.38") == 4


# ---------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    report = COMPARISON.to_dict()
    report["rows"][2]["scores"]["frechet_heun"]["mean"] = 100.2  # after 51, as a number
    path = tmp_path_factory.mktemp("page") / "page.html"
    Comparison.from_dict(report).to_html(path, SAMPLES)
    return path


@pytest.fixture(scope="module")
def view(browser, path):
    with opened(browser, path, width=1280) as page:
        yield page


def column(view, index):
    cells = view.locator(f".compared tbody tr > :nth-child({index})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")


def test_objectives_are_sorted_by_numbers_and_what_failed_is_last(view):
    head = view.get_by_role("columnheader", name="FD, Heun").first
    button = head.get_by_role("button")
    for press in (button.click, lambda: button.press("Enter")):
        press()
        *values, last = column(view, 4)
        order = head.get_attribute("aria-sort")
        numbers = [float(value) for value in values]
        assert last == "" and max(numbers) == 100.2
        assert numbers == sorted(numbers, reverse=order == "descending")
    assert order == "descending"
    assert view.locator(".compared [aria-sort]").count() == 1
    assert view.locator(".compared tfoot").inner_text().startswith("real-data baseline")


def test_more_is_better_is_sorted_from_the_most_and_names_by_the_alphabet(view):
    view.locator(".compared th button", has_text="precision, ancestral").click()
    numbers = [float(value) for value in column(view, 8)[:-1]]
    assert numbers == sorted(numbers, reverse=True)
    view.locator(".compared th button", has_text="objective").click()
    assert column(view, 1) == sorted(column(view, 1))


def test_names_bring_their_curves_out(view):
    chip = view.locator(".chips button", has_text="min-snr")
    script = """() => document.getElementById("plot-levels").data
        .filter(curve => curve.opacity === 1).map(curve => curve.meta)"""
    chip.click()
    assert set(view.evaluate(script)) == {"min-snr"}
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    assert len(set(view.evaluate(script))) == 11


def test_pictures_and_plots_are_there(view):
    widths = view.locator(".strips img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert widths == [8 * 28] * len(SAMPLES)
    assert view.locator("#plot-levels .scatterlayer .js-line").count() == 3 * 11
    assert view.locator(".tiles svg.picture").count() == 12 + 7


def test_all_is_read_in_the_light_and_in_the_dark(view):
    script = """places => {
        const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const rgb = (color) => {
            pen.fillStyle = color;
            pen.fillRect(0, 0, 1, 1);
            return "rgb(" + pen.getImageData(0, 0, 1, 1).data.slice(0, 3).join() + ")";
        };
        const paper = (element) => {
            const color = getComputedStyle(element).backgroundColor;
            return color === "rgba(0, 0, 0, 0)" ? paper(element.parentElement) : color;
        };
        return places.flatMap(place => [...document.querySelectorAll(place)].map(one =>
            [rgb(getComputedStyle(one).color), rgb(paper(one))]));
    }"""
    places = [".badge", ".explained p", ".mark", ".compared td", ".compared small", ".best"]
    places += [".pairs td", ".heat td", ".chips button", ".tile small"]
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        assert min(contrast(*colors) for colors in view.evaluate(script, places)) > 4.5


def test_nothing_is_wider_than_a_phone(browser, path):
    with opened(browser, path, width=390, is_mobile=True, has_touch=True) as page:
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        region = page.get_by_role("region", name="Every objective and its scores")
        assert region.evaluate("region => region.scrollWidth > region.clientWidth")
        region.evaluate("region => region.scrollLeft = 300")
        name = region.locator("tbody th").first
        assert name.bounding_box()["x"] == region.bounding_box()["x"]


def test_words_from_outside_are_inert(browser, tmp_path):
    text = json.dumps(COMPARISON.to_dict())
    for known in ("iddpm", "flow", "ELBO()", "V()", "FD, Heun", "bits/dim"):
        text = text.replace(json.dumps(known), json.dumps(HOSTILE + known))
    hostile = json.loads(text)
    hostile |= dict.fromkeys(("name", "command", "data"), HOSTILE)
    hostile["remarks"] = [HOSTILE]
    hostile["protocol"] |= {"network": HOSTILE, "clipped": {HOSTILE: 0.5}, "versions": [HOSTILE]}
    hostile["rows"][-1]["failures"][0]["reason"] = HOSTILE
    samples = {hostile["rows"][0]["name"]: SAMPLES["iddpm"]}
    Comparison.from_dict(hostile).to_html(tmp_path / "page.html", samples)
    with opened(browser, tmp_path / "page.html", width=1280) as page:
        page.locator(".compared th button").first.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img:not(.strips img), script[src], iframe").count() == 0
        assert HOSTILE in page.title()
