"""The terminal report says what the audit found, fits 80 columns, and draws what it says."""

import ast
import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from elbos.audit import Oddity
from elbos.audit.declare import of_recipe
from elbos.audit.text import braille, difference, facts, headline, nearest, report, wrapped

WIDTH = 80


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
    Console(file=file, width=width).print(report(audits))
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
    huber = Oddity("not-squared", "The gradient grows more slowly.", is_fatal=True)
    open_ = dataclasses.replace(sigmoid, oddities=[huber])
    assert [headline(audit).kind for audit in (edm, sigmoid, open_)] == ["no", "yes", "open"]


def test_report_fits_80_columns_without_colour(edm, sigmoid):
    long = dataclasses.replace(sigmoid, title="train.py --a-flag " * 8)
    for audits in ([edm], [sigmoid], [edm, sigmoid], [edm, long, sigmoid]):
        text = printed(audits)
        assert max(map(len, text.splitlines())) <= WIDTH
        assert "\x1b" not in text


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
