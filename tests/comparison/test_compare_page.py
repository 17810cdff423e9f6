"""The page of a comparison, and its Markdown, of numbers made up: all is there, all is inert."""

import io
import json
import re

import numpy as np
import pytest
from browsing import HOSTILE, contrast, opened
from comparisons import ADAPTIVE, COSINE, EDM, METRICS, NORMAL, full
from PIL import Image
from rich.console import Console

from elbos.comparison import names
from elbos.comparison.conclusion import conclusion
from elbos.comparison.figures import learning_figure, levels_figure, ranking_figure
from elbos.comparison.markdown import comparison_markdown
from elbos.comparison.page import comparison_page, write_comparison_page
from elbos.comparison.table import comparison_table
from elbos.comparison.words import ranked


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 8 * 28), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def report():
    return full()


@pytest.fixture(scope="module")
def html():
    return comparison_page(full(), samples={})


SAMPLES = {name: picture(seed) for seed, name in enumerate(("edm", "elbo", "flow"))}

# ------------------------------------------------------------------------------- without a browser


def words(html):
    """What is to be read, without tags and scripts."""
    body = re.sub(r"<(script|style|title).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<.*?>", " ", body.replace("<wbr>", "")))


def island_of(html):
    (content,) = re.findall(r'id="elbos-comparison">(.*?)</script>', html, re.DOTALL)
    return json.loads(content, parse_constant=pytest.fail)


def rows_of(html, kind):
    """The cells of a table, by the names of its rows."""
    (body,) = re.findall(rf'<table class="numbers {kind}".*?<tbody>(.*?)</tbody>', html, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    return {words(row[0]).split()[0]: row[1:] for row in cells}


@pytest.mark.parametrize(
    ("shorten", "text", "short"),
    [
        (names.short_weighting, EDM, "EDM"),
        (names.short_weighting, f"Monotone(inner={EDM})", "EDM-monotonic"),
        (names.short_weighting, EDM.replace("mean=2.4", "mean=-1.0"), "EDM(mean -1)"),
        (names.short_weighting, f"Shifted(inner={EDM}, shift=1.0)", "EDM shifted by 1"),
        (names.short_weighting, "Sigmoid(k=2.0)", "sigmoid(2)"),
        (names.short_weighting, "ShiftedFlow(shift=3.0)", "shifted flow(3)"),
        (names.short_weighting, "somebody's own", "somebody's own"),
        (names.short_schedule, NORMAL, "Normal(2.4, 2.4)"),
        (names.short_schedule, COSINE, "cosine"),
        (names.short_schedule, COSINE.replace("shift=0.0", "shift=1.0"), "cosine(1)"),
        (names.short_schedule, ADAPTIVE, "adaptive"),
        (names.short_prediction, "V()", "v"),
        (names.short_prediction, "EDM(sigma_data=0.5)", "EDM"),
    ],
)
def test_names_are_short(shorten, text, short):
    assert shorten(text) == short


def test_table_has_every_row_and_every_column(report, html):
    table = rows_of(html, "compared")
    assert list(table) == [row["name"] for row in report["rows"]]
    for row in report["rows"]:
        mark, _, _, _, *scores = table[row["name"]]
        assert words(mark).strip() == ("monotone" if row["is_monotone"] else "not monotone")
        assert len(scores) == len(report["metrics"])
        for metric, cell in zip(report["metrics"], scores, strict=True):
            score = row["scores"][metric["key"]]
            mean = score["mean"]
            assert f'data-value="{"" if mean is None else mean}"' in cell
            assert ("<strong>" in cell) == score["is_best_within_error"]
            assert ("★" in cell) == score["is_best"]
            assert ("unresolved" in cell) == score["is_unresolved"]
            assert ("±" in cell) == (score["std"] is not None)


def test_what_is_not_complete_is_shown_with_its_reason(html):
    text = words(html)
    assert "2 of 3 seeds" in text and "iddpm : seed 2: interrupted" in text
    assert "broken : seeds 0, 1, 2: the loss is not finite at step 812" in text


def test_values_of_every_seed_are_there(report, html):
    text = words(html)
    for row in report["rows"]:
        for value in row["scores"]["frechet_heun"]["values"].values():
            assert f"{value:#.4g}" in text


def test_island_is_the_report(report, html):
    assert island_of(html)["comparison"] == json.loads(json.dumps(report))


SECTIONS = {
    "pairs": "Matched pairs",
    "losses": "Every model under every objective",
    "ranking": "Does an ELBO rank models",
    "notes": "Notes",
    "protocol": "Protocol",
    "learning": "Learning curves",
    "density": "How the adaptive schedules moved",
}


def test_every_section_is_there(html):
    text = words(html)
    assert all(title in text for title in SECTIONS.values())


@pytest.mark.parametrize("key", SECTIONS)
def test_what_is_null_or_empty_is_left_out(report, key):
    for place in (report, *report["rows"]):
        if key in place:
            place[key] = type(place[key])() if key in ("pairs", "notes", "protocol") else None
    text = words(comparison_page(report, samples={}))
    assert SECTIONS[key] not in text
    assert all(title in text for other, title in SECTIONS.items() if other != key)
    assert not re.search(r"\b(nan|None|null)\b", text)


def test_one_seed_crowns_nobody():
    """Not on the page, in Markdown, on the terminal or in the findings."""
    report = full(3, 1)
    report["conclusion"] = conclusion(report)
    page = comparison_page(report, samples={})
    console = Console(width=80, file=io.StringIO(), color_system="standard", force_terminal=True)
    console.print(comparison_table(report))
    table, text = console.file.getvalue(), comparison_markdown(report)
    for shown in (words(page), text, table):
        assert "★" not in shown and "±" not in shown
    assert not any("best" in sentence for sentence in report["conclusion"])
    results = page[page.index("Every objective") : page.index("Matched pairs")]
    assert "<strong>" not in results and "**" not in text
    assert "\x1b[1m" not in table.split("───", 1)[1]
    assert "One seed" in report["conclusion"][0]


def test_infinite_numbers_become_null(report):
    report["rows"][0]["scores"]["bits_per_dim"]["values"]["0"] = float("inf")
    found = island_of(comparison_page(report, samples={}))["comparison"]
    assert found["rows"][0]["scores"]["bits_per_dim"]["values"]["0"] is None


@pytest.mark.parametrize("is_monotone", [True, False])
def test_curves_of_monotone_weightings_are_solid_the_others_dashed(report, is_monotone):
    known = {row["name"] for row in report["rows"] if row["is_monotone"] == is_monotone}
    for figure in (learning_figure, levels_figure):
        lines = [trace for trace in figure(report["rows"]).data if trace.meta in known]
        assert {line.line.dash for line in lines} == {"solid" if is_monotone else "dash"}


def test_differences_to_the_median_of_all_rows_have_median_zero(report):
    for figure, panel in ((learning_figure, "y2"), (levels_figure, "y"), (levels_figure, "y2")):
        lines = [trace.y for trace in figure(report["rows"]).data if trace.yaxis == panel]
        assert len(lines) == 11
        np.testing.assert_allclose(np.median(lines, axis=0), 0, atol=1e-12)
        assert np.ptp(lines, axis=0).max() > 0


def test_a_curve_far_from_all_others_leaves_its_panel(report):
    """And the others fill it."""
    assert learning_figure(report["rows"]).layout.yaxis.range is None
    row = report["rows"][0]
    row["learning"]["bits_per_dim"] = [1000 * value for value in row["learning"]["bits_per_dim"]]
    figure = learning_figure(report["rows"])
    low, high = figure.layout.yaxis.range
    others = np.concatenate([line.y for line in figure.data[1:11]])
    assert low < others.min() < others.max() < high < 1.1 * others.max()


def test_rows_that_are_alike_drive_no_other_out_of_its_panel(report):
    """Half of the curves on the median exactly."""
    rows = report["rows"][:3]
    rows[1]["learning"] = rows[0]["learning"]
    figure = learning_figure(rows)
    assert figure.layout.yaxis2.range is None


def test_bands_of_correlations_are_their_intervals(report):
    band, line = ranking_figure(report["ranking"], ranked(report)).data[:2]
    found = report["ranking"]["frechet_ancestral"]
    np.testing.assert_array_equal(band.y, found["high"] + found["low"][::-1])
    np.testing.assert_array_equal(line.y, found["rho"])


def markdown_rows(text):
    """Cells of every line of a table; escaped pipes separate none."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_bold_in_markdown_is_best_within_error(report):
    text = comparison_markdown(report)
    table = {row[0].split(" ")[0]: row[1:] for row in markdown_rows(text)[:14]}
    for row in report["rows"]:
        for metric, cell in zip(report["metrics"], table[row["name"]][4:], strict=True):
            score = row["scores"][metric["key"]]
            assert cell.startswith("**") == score["is_best_within_error"]
            assert cell.endswith("★") == score["is_best"]
    for said in (*report["conclusion"], *report["notes"], report["command"], "interrupted"):
        assert said in text


def test_markdown_escapes_pipes_and_tags(report):
    report["rows"][0]["name"] = f"a|b {HOSTILE}\n# c"
    report["command"] = "elbos `compare` ```x```"
    text = comparison_markdown(report)
    widths = {len(row) for row in markdown_rows(text)[:14]}
    assert widths == {5 + len(report["metrics"])}
    assert not re.search(r"(?<!\\)<", text) and not re.search(r"^# c", text, re.MULTILINE)
    assert text.rstrip().endswith("````")


def test_the_terminal_shows_every_row_in_80_columns(report):
    report["rows"][0]["name"] = "min-snr-adaptive-monotonic"  # the longest of the built-in ones
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table(report))
    text = console.file.getvalue()
    assert "iddpm *" in text  # of two seeds
    lines = [line.split(maxsplit=2) for line in text.replace(" *", "  ").splitlines()]
    cells = {line[0]: line[1:] for line in lines if len(line) == 3}
    for row in report["rows"][:-1]:
        kind, rest = cells[row["name"]]
        assert kind == ("yes" if row["is_monotone"] else "no")
        found = re.findall(r"([\d.]+)(?: ± [\d.]+)?", rest)
        means = [row["scores"][key]["mean"] for key, *_ in METRICS[:3]]
        np.testing.assert_allclose([float(cell) for cell in found], means, rtol=0.01)
    assert cells["broken"][1].startswith("failed ")


# ------------------------------------------------------------------------------- what was found


def told(report, **scores):
    """The report with three comparisons of a pair, of these differences and half-widths."""
    for pair in report["pairs"]:
        for key in ("frechet_heun", "frechet_ancestral", "bits_per_dim"):
            mean, half = scores.get(key, (0.1, 1.1))
            ends = {"low": mean - half, "high": mean + half, "detectable": half}
            pair["differences"][key] |= {"mean": mean, **ends}
    return conclusion(report)


def test_the_first_finding_counts_what_is_significant(report):
    """Of two pairs with three scores each; what differs is named, and what would have been found
    of the others.
    """
    first, second, third, *_ = told(report, frechet_heun=(-4.0, 1.0), bits_per_dim=(0.5, 0.3))
    assert "better in 2 and worse in 2 of 6" in first
    assert "edm-adaptive-monotonic minus edm-adaptive, Fréchet distance, Heun: −4.0" in second
    assert "iddpm-monotonic minus iddpm, bits/dim: +0.50 (+0.20 to +0.80)" in second
    assert "1.1 (Fréchet distance, ancestral)" in third and "bits/dim" not in third


def test_nothing_is_said_to_differ_without_a_significant_difference(report):
    first, second, *_ = told(report)
    assert "no significant difference in any of 6" in first
    assert "minus" not in second and "1.1 (bits/dim)" in second


def test_every_verdict_without_a_difference_says_what_would_have_been_found(report):
    told(report)
    text, page = comparison_markdown(report), words(comparison_page(report, samples={}))
    pairs = [row for row in markdown_rows(text) if len(row) == 6 and "no significant" in row[5]]
    assert [row[4] for row in pairs] == ["1.1"] * 6
    assert page.count("±1.1 would be") == 6


@pytest.mark.parametrize("num_near", [0, 2, 9])
def test_the_best_objective_is_named_and_those_that_may_be_as_good(report, num_near):
    """Of ten complete ones; many are counted."""
    complete = [row for row in report["rows"] if row["status"] == "complete"]
    for i, row in enumerate(complete):
        row["scores"]["bits_per_dim"] |= {"is_best": i == 0, "is_best_within_error": i <= num_near}
    report["statistics"]["bits_per_dim"]["detectable"] = 0.123
    (found,) = [one for one in conclusion(report) if one.startswith("bits/dim: edm (not monotone)")]
    num_monotone = sum(row["is_monotone"] for row in complete[1:])
    said = {
        0: "all others are significantly worse",
        2: "0.12: edm-adaptive (not monotone), edm-adaptive-monotonic (monotone).",
        9: f"0.12: 9 of the other 9, {num_monotone} of them monotone",
    }
    assert said[num_near] in found


def test_what_is_unresolved_is_marked_and_no_best(report):
    score = report["rows"][1]["scores"]["bits_per_dim"]
    score |= {"mean": 2706.0, "std": 996.0, "is_unresolved": True, "is_best_within_error": False}
    report["conclusion"] = conclusion(report)
    (found,) = [one for one in report["conclusion"] if one.startswith("bits/dim")]
    assert "edm-adaptive" in found.split("Unresolved")[1]
    cell = rows_of(comparison_page(report, samples={}), "compared")["edm-adaptive"][6]
    assert "2706" in cell and "unresolved" in cell and "<strong>" not in cell
    row = markdown_rows(comparison_markdown(report))[3]
    assert (row[0], row[7]) == ("edm-adaptive", "2706 ± 996 (unresolved)")
    console = Console(width=80, file=io.StringIO())
    console.print(comparison_table(report))
    assert "2706 ± 996?" in console.file.getvalue()


def test_the_best_level_is_never_without_its_p_value(report):
    """Of all noise levels, on the page and in the findings."""
    for key in ("bits_per_dim", "frechet_heun", "frechet_ancestral"):
        report["ranking"][key]["p_value"] = 0.375
    question, answer = conclusion(report)[-2:]
    num = report["ranking"]["num_weightings"]
    assert f"{num} monotone" in question
    assert "highest" in answer and "p = 0.38" in answer
    assert words(comparison_page(report, samples={})).count("p = 0.38") == 3


# ---------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    report = full()
    report["rows"][2]["scores"]["frechet_heun"]["mean"] = 100.2  # after 57, as a number
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_comparison_page(report, path, samples=SAMPLES)
    return path


@pytest.fixture(scope="module")
def view(browser, path):
    with opened(browser, path, width=1280) as page:
        yield page


def column(view, index):
    cells = view.locator(f".compared tbody tr > :nth-child({index})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")


def test_rows_are_sorted_by_numbers_and_what_failed_is_last(view):
    head = view.get_by_role("columnheader", name="FD, Heun").first
    button = head.get_by_role("button")
    for press in (button.click, lambda: button.press("Enter")):
        press()
        *values, last = column(view, 7)
        order = head.get_attribute("aria-sort")
        numbers = [float(value) for value in values]
        assert last == "" and max(numbers) == 100.2
        assert numbers == sorted(numbers, reverse=order == "descending")
    assert order == "descending"
    assert view.locator(".compared [aria-sort]").count() == 1
    assert view.locator(".compared tfoot").inner_text().startswith("real-data baseline")


def test_more_is_better_is_sorted_from_the_most_and_names_by_the_alphabet(view):
    view.locator(".compared th button", has_text="precision, anc.").click()
    numbers = [float(value) for value in column(view, 11)[:-1]]
    assert numbers == sorted(numbers, reverse=True)
    view.locator(".compared th button", has_text="objective").click()
    assert column(view, 1) == sorted(column(view, 1))


def test_names_bring_their_curves_out(view):
    chip = view.locator(".chips button", has_text="min-snr-5")
    script = """() => document.getElementById("plot-levels").data
        .filter(curve => curve.opacity === 1).map(curve => curve.meta)"""
    chip.click()
    assert set(view.evaluate(script)) == {"min-snr-5"}
    assert chip.get_attribute("aria-pressed") == "true"
    chip.click()
    assert len(set(view.evaluate(script))) == 11


def test_pictures_and_plots_are_there(view):
    widths = view.locator(".strips img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert widths == [8 * 28] * len(SAMPLES)
    assert view.locator("#plot-levels .scatterlayer .js-line").count() == 3 * 11
    assert view.locator(".tiles svg.picture").count() == 12 + 5


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
    places += [".pairs small", ".difference-of", ".heat td", ".chips button", ".tile small"]
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
    text = json.dumps(full())
    for known in ("edm", "flow", "ELBO()", "V()", COSINE, "FD, Heun", "bits/dim"):
        text = text.replace(json.dumps(known), json.dumps(HOSTILE + known))
    hostile = json.loads(text)
    hostile |= dict.fromkeys(("name", "command", "data"), HOSTILE)
    hostile |= {"conclusion": [HOSTILE], "notes": [HOSTILE], "protocol": {HOSTILE: HOSTILE}}
    hostile["rows"][-1]["failures"][0]["reason"] = HOSTILE
    samples = {hostile["rows"][0]["name"]: SAMPLES["edm"]}
    write_comparison_page(hostile, tmp_path / "page.html", samples=samples)
    with opened(browser, tmp_path / "page.html", width=1280) as page:
        page.locator(".compared th button").first.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img:not(.strips img), script[src], iframe").count() == 0
        assert HOSTILE in page.title()
