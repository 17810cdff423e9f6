"""The numbers of three reports, pinned: of stored scores, of a small comparison, of the guide.

A file that is deleted is written again by the test that needs it; say why in the commit.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from comparing import Here

from elbos.comparison.compare import compare
from elbos.comparison.experiment import Comparison
from elbos.comparison.job import Job
from elbos.comparison.markdown import comparison_markdown
from elbos.comparison.report import report_of
from elbos.comparison.results import Cell
from elbos.comparison.rows import ROWS
from elbos.training.presets import PRESETS

HERE = Path(__file__).parent
FASHION = HERE.parents[1] / "docs" / "results" / "fashion"
PROSE = ("conclusion", "notes", "protocol", "name", "command")
"""What a report says beside its numbers."""


def stored(name):
    return json.loads((HERE / name).read_text())


def assert_unchanged(report, name, rel):
    """A report's numbers are those of a file."""
    found = {key: value for key, value in report.items() if key not in PROSE}
    for row in found["rows"]:
        for failure in row["failures"]:
            failure["reason"] = ""
    if not (HERE / name).exists():
        (HERE / name).write_text(json.dumps(found, allow_nan=False) + "\n")
    assert_equal(json.loads(json.dumps(found)), stored(name), rel)


def of_stored_scores():
    """Twelve objectives, four seeds: one diverged in its likelihood, one lacks a seed, one all."""
    scores = {(one["objective"], one["seed"]): one["scores"] for one in stored("scores.json")}
    names = list(dict.fromkeys([name for name, _ in scores] + ["p2"]))
    rows = tuple(ROWS[name] for name in names)
    comparison = Comparison(config=PRESETS["fashion-small"], rows=rows, seeds=(0, 1, 2, 3))
    cells = []
    for row in rows:
        for seed in comparison.seeds:
            path = Path("nowhere") / f"{row.name}-{seed}"
            cell = Cell(row, seed, Job.of(comparison, path, row, seed))
            vars(cell)["scores"] = scores.get((row.name, seed))
            cells.append(cell)
    return report_of(comparison, cells, name="stored", command=None, features="Lite0")


def test_report_of_stored_scores_is_unchanged():
    assert_unchanged(of_stored_scores(), "report_of_scores.json", rel=1e-9)


def test_report_of_a_small_comparison_is_unchanged(pictures, folder):
    """To 0.1 %, as float32 sums differ over machines."""
    rows = (*pictures.rows, ROWS["iddpm"])
    report = compare(replace(pictures, rows=rows, seeds=(0, 1)), Path("c"), Here())
    assert_unchanged(report, "report_of_digits.json", rel=1e-3)


def test_fashion_report_renders_to_its_markdown():
    report = json.loads((FASHION / "report.json").read_text())
    assert comparison_markdown(report) == (FASHION / "report.md").read_text()


def assert_equal(found, expected, rel, where="report"):
    """JSON values that are equal, numbers within `rel`."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key in expected:
            assert_equal(found[key], expected[key], rel, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_equal(mine, theirs, rel, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-3 * rel), where
    else:
        assert found == expected, where
