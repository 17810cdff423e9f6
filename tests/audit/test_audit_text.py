"""The terminal report says what the audit found, fits 80 columns, and draws what it says."""

import ast
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from elbos.audit import Oddity
from elbos.audit.declare import of_recipe
from elbos.audit.figure import figure
from elbos.audit.text import braille, report, wrapped
from elbos.audit.words import central_weights, difference, facts, headline, nearest, shortened

WIDTH = 80
HUBER = Oddity("not-squared", "The gradient grows more slowly.", is_fatal=True)


@pytest.fixture(scope="module")
def edm():
    """Not monotone, and with nothing near that has a name, so that its code is a table."""
    audit = of_recipe("edm")
    return dataclasses.replace(audit, closest=[audit.closest[-1]])


@pytest.fixture(scope="module")
def sigmoid():
    return of_recipe("sigmoid-2")


def printed(audits, width=WIDTH):
    file = io.StringIO()
    Console(file=file, width=width).print(report(audits), crop=False)
    return file.getvalue()


def flat(text):
    return " ".join(text.split())


def test_report_says_what_the_audit_found(edm):
    text = flat(printed([edm]))
    assert headline(edm).title in text
    assert flat(edm.verdict) in text
    for name, (value,) in facts([edm]):
        assert f"{name} {value}" in text
    for name, off in nearest(edm):
        assert f"{name} {off}" in text


def test_every_kind_of_loss_has_its_headline(edm, sigmoid):
    open_ = dataclasses.replace(sigmoid, oddities=[HUBER])
    assert [headline(audit).kind for audit in (edm, sigmoid, open_)] == ["no", "yes", "open"]


@pytest.mark.parametrize("name", ["edm", "sigmoid-2"])
def test_a_loss_that_no_weighting_describes_is_neither_monotone_nor_named(name):
    audit = dataclasses.replace(of_recipe(name), oddities=[HUBER])
    assert not audit.is_monotone
    assert audit.to_dict()["is_monotone"] is False
    assert audit.monotone_code is None
    assert "Together" not in audit.verdict and "likelihood objective" not in audit.verdict
    assert dict(facts([audit])).keys().isdisjoint({"monotone", "negative share"})
    beside = dict(facts([audit, of_recipe("edm")]))
    assert beside["monotone"] == ["–", "no"]
    assert "nearest named weightings, to its squared-error part" in flat(printed([audit]))
    both = printed([audit, of_recipe("flow")])
    assert re.search(r"nearest +– +Exponential\(\)", both)


@pytest.mark.parametrize("name", ["edm", "min-snr-5", "flow", "sd3"])
def test_the_nearest_objective_changes_nothing_above_the_last_rise(name):
    """Whether it is given by name or as a table, and whatever the sampling error."""
    exact = of_recipe(name)
    noise = 0.01 * torch.randn(len(exact.logsnr), generator=torch.Generator().manual_seed(0))
    noisy = dataclasses.replace(exact, weight=exact.weight * noise.exp())
    unnamed = dataclasses.replace(noisy, closest=[exact.closest[0]._replace(distance=0.5)])
    for audit in (exact, noisy, unnamed):
        lifted = audit.monotone_weight
        if not audit.rising:
            assert torch.equal(lifted, audit.weight) and audit.monotone_code is None
            continue
        end = float(re.search(r"which is 1 above (-?[\d.]+),", audit.verdict)[1])
        above = audit.logsnr > end + 0.005  # it has two digits
        assert torch.equal(lifted[above], audit.weight[above])
        assert (lifted >= audit.weight).all()
        fall = lifted.log()[:-1] - lifted.log()[1:]
        assert fall.min() > (-0.08 if audit is not exact else -1e-12)
        scope = {}
        exec(audit.monotone_code, scope)
        factor = scope["monotone_factor"](audit.logsnr)
        torch.testing.assert_close(factor[above], torch.ones_like(factor[above]))
        torch.testing.assert_close(factor, lifted / audit.weight, rtol=0.1, atol=0)


def test_a_name_is_given_to_the_nearest_objective_only_where_it_rises_too():
    """A bump of 10 % in EDM's fall: the named weighting would leave it."""
    exact = of_recipe("edm")
    assert "w = EDM()" in exact.monotone_code
    bump = 0.1 * torch.exp(-(((exact.logsnr - 1) / 0.5) ** 2))
    bumpy = dataclasses.replace(exact, weight=exact.weight * (1 + bump), rising=[(0.5, 1.0)])
    assert "searchsorted" in bumpy.monotone_code


def test_distances_are_told_in_one_way(edm):
    far = dataclasses.replace(edm, closest=[edm.closest[0]._replace(distance=0.87)])
    assert "off by a factor of 2.4" in far.verdict
    assert nearest(far) == [(far.closest[0].name, "off by a factor of 2.4")]
    names = [edm.closest[0]._replace(distance=d) for d in (0.004, 0.019, 0.6)]
    near = dataclasses.replace(edm, closest=names)
    assert [off for _, off in nearest(near)] == ["the same (0.4%)", "off by 1.9%", "off by a "
                                                 "factor of 1.8"]  # fmt: skip
    assert (
        "as EDM() does (off by 0.4%)"
        in dataclasses.replace(near, closest=[names[0]._replace(name="EDM()")]).verdict
    )


def test_the_share_that_depends_on_the_range_is_told_with_it(edm):
    assert "%" not in headline(edm).text
    assert dict(facts([edm]))["negative share"] == [f"{edm.negative_share:.1%} of the range seen"]


def test_steps_are_counted_as_declared_or_seen(edm):
    for source, words in (
        ("declared", "a table of 941 steps"),
        ("measured", "a table, 941 different steps seen"),
    ):
        audit = dataclasses.replace(edm, num_steps=941, source=source, schedule=None)
        assert f"drawn from {words}, log-SNR" in audit.verdict
        assert dict(facts([audit]))["noise levels"] == [words]


def test_json_has_no_numbers_that_json_does_not_have(edm):
    far = edm.closest[-1]._replace(distance=math.inf)
    weight = edm.weight.clone()
    weight[0] = 5e-324  # as where it underflows
    audit = dataclasses.replace(edm, closest=[far], weight=weight, rising=[])
    content = json.loads(audit.to_json(), parse_constant=pytest.fail)
    assert content["closest"] == [{"name": far.name, "distance": None}]
    assert content["mass_at_max"] is None
    assert content["weight"][1:] == audit.weight[1:].tolist()


def test_report_fits_80_columns_without_colour(edm, sigmoid):
    long = dataclasses.replace(sigmoid, title="train.py --a-flag " * 8)
    for audits in ([edm], [sigmoid], [edm, sigmoid], [edm, long, sigmoid]):
        text = printed(audits)
        assert max(map(len, text.splitlines())) <= WIDTH
        assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 30, 45, 60, 75])
def test_narrow_terminals_get_narrow_plots_or_none(edm, sigmoid, width):
    for audits in ([edm], [edm, sigmoid], [edm, sigmoid, edm]):
        text, _, code = printed(audits, width).partition("import torch")
        assert max(map(len, text.splitlines())) <= width
        has_plots = width >= 9 + 28
        assert ("weighting w" in text) == has_plots
        if has_plots:
            rows = [line for line in text.splitlines() if "│" in line]
            assert {len(row) for row in rows} == {min(width, 73)}
        if len(audits) == 1:  # which may be copied, whatever the width
            ast.parse(f"import torch{code}")


PATHS = [f"runs/of/mine/train.py:{name}" for name in ("loss", "old_loss", "unweighted_loss")]


def entitled(audit, *titles):
    return [dataclasses.replace(audit, title=title) for title in titles]


def test_paths_are_cut_to_what_tells_them_apart(edm):
    text = printed(entitled(edm, *PATHS), 120)
    for path in PATHS:
        name = path.rpartition(":")[2]
        assert text.count(path) == 1  # its heading
        assert f"weighting w of {name}, log scale" in text
    (header,) = (line for line in text.splitlines() if "old_loss" in line.split())
    assert header.split() == ["loss", "old_loss", "unweighted_loss"]
    titles = ["a/b.json", "c/b.json", "b.py:f", "c/b.py:f", "say: b.py", "b.py:f"]
    short = [audit.title for audit in shortened(entitled(edm, *titles))]
    assert short == ["a/b.json", "c/b.json", "b.py:f", "c/b.py:f", "say: b.py", "b.py:f"]
    assert shortened(entitled(edm, "a/b.py:f"))[0].title == "a/b.py:f"
    assert shortened(entitled(edm, "a/b.py:f", "a/b.py:f"))[0].title == "a/b.py:f"


@pytest.mark.parametrize("num", [2, 3, 4, 6])
@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_facts_are_side_by_side_only_where_words_stay_whole(edm, num, width):
    audits = entitled(edm, *(f"a/train.py:loss_{i}" for i in range(num)))
    text = printed(audits, width).partition("weighting w")[0]
    for _, (value, *_) in facts(audits):
        for word in value.split():
            assert text.count(word) >= num
    is_listed = len(re.findall("^half the effort", text, re.MULTILINE)) == num
    words = " ".join([*(v for _, (v, *_) in facts(audits)), ", ".join(nearest(edm)[0])]).split()
    assert is_listed == (num > 3 or width < 16 + (1 + max(18, *map(len, words))) * num)
    for audit in audits:
        assert text.count(audit.title) == 1


def test_the_axis_of_several_is_that_of_central_levels(edm):
    """A tail 30 orders of magnitude down is that of no one else."""
    tail = torch.where(edm.logsnr > 11.5, 1e-30, 1.0).double()
    assert edm.density[edm.logsnr > 11.5].sum() < 1e-3 * edm.density.sum()
    deep = dataclasses.replace(edm, weight=edm.weight * tail, title="deep")
    low, high = figure([edm, deep]).layout.yaxis.range
    central = central_weights(edm).min(), central_weights(edm).max()
    assert low < math.log10(central[0]) and math.log10(central[1]) < high and high - low < 6
    label = re.search(r"^ *(\S+) │.*\n +rises", printed([edm, deep]), re.M)[1]
    assert float(label) == pytest.approx(central[0], rel=0.1)
    assert figure([deep]).layout.yaxis.range[0] < -30


def test_code_can_be_copied_from_the_report(edm):
    text = printed([edm])
    code = text[text.index("import torch") :]
    assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(edm.monotone_code))
    scope = {}
    exec(code, scope)
    factor = scope["monotone_factor"](edm.logsnr)
    assert (edm.weight * factor).log().diff().max() < 0.01
    assert wrapped("a = [" + "1.0, " * 30 + "]").count("\n") > 0


def test_strokes_mark_where_the_weighting_rises(edm, sigmoid):
    (line,) = (line for line in printed([edm]).splitlines() if "╱" in line)
    (start, end), (low, high) = edm.rising[0], (edm.logsnr[0], edm.logsnr[-1])
    share = (end - start) / (high - low).item()
    assert line.count("╱") == pytest.approx(64 * share, abs=1)
    assert "╱" not in printed([sigmoid])
    assert "never rises" in printed([sigmoid])


@pytest.mark.parametrize("height", [2, 8])
def test_braille_shows_the_curve(height):
    curve = (1 + torch.linspace(0, 7, 128, dtype=torch.float64).sin().numpy()) / 2
    rows = braille(curve, height)
    dots = np.zeros((4 * height, len(curve)), dtype=bool)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            code = 0 if cell == " " else ord(cell) - 0x2800
            for k, bits in enumerate([(0, 3), (1, 4), (2, 5), (6, 7)]):
                for side, bit in enumerate(bits):
                    dots[4 * i + k, 2 * j + side] = code >> bit & 1
    # the curve is in every column, and nothing is far from it
    line = (1 - curve) * (4 * height - 1)
    row = np.arange(4 * height)[:, None]
    assert dots[line.round().astype(int), np.arange(len(curve))].all()
    step = np.abs(np.diff(line)).max()
    assert (np.abs(row - line)[dots] <= max(step, 0.5)).all()


def test_braille_leaves_a_gap():
    curve = np.where(np.arange(8) < 4, np.nan, 0.5)
    (row,) = braille(curve, 1)
    assert row[:2] == "  " and row[2:].strip()


def test_several_are_side_by_side(edm, sigmoid):
    text = printed([edm, sigmoid])
    assert difference(edm, sigmoid) in flat(text)
    (header,) = (line for line in text.splitlines() if line.split() == ["edm", "sigmoid-2"])
    assert header
    for _, values in facts([edm, sigmoid]):
        assert all(flat(value)[:12] in flat(text) for value in values)


def test_difference_is_that_of_the_weightings(edm, sigmoid):
    assert "alike: their weightings differ by 0.0%" in difference(edm, edm)
    scaled = dataclasses.replace(edm, weight=3 * edm.weight)  # a constant does not count
    assert difference(edm, scaled) == difference(edm, edm)
    tilted = dataclasses.replace(edm, weight=edm.weight * torch.exp(0.1 * edm.logsnr))
    spread = 0.1 * _std(edm.logsnr, edm.density)  # of 0.1 logsnr, in closed form
    assert f"differ by {spread:.1%}" in difference(edm, tilted)
    far = dataclasses.replace(sigmoid, logsnr=sigmoid.logsnr + 100)
    assert "no noise level in common" in difference(edm, far)


def _std(logsnr, density):
    p = density / density.sum()
    mean = (p * logsnr).sum()
    return math.sqrt((p * (logsnr - mean) ** 2).sum())


def test_titles_are_shown_as_they_are(edm):
    title = "[bold]w[/bold] [/] :smile:"
    renamed = dataclasses.replace(edm, title=title)
    assert title in printed([renamed])
    assert printed([renamed, renamed]).count(title) >= 4  # headlines, columns, plots
