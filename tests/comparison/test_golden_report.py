"""The numbers of three reports, pinned: of stored scores, of a small comparison, of the guide.

A file that is deleted is written again by the test that needs it; say why in the commit.
"""

import json
from pathlib import Path

import pytest
from comparing import stored_comparison

from elbos.comparison.result import Comparison

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"
PROSE = ("protocol", "remarks", "name", "command")
"""What a report holds beside its numbers."""


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


def test_report_of_stored_scores_is_unchanged():
    found = stored_comparison()
    assert_unchanged(found.to_dict(), "report_of_scores.json", rel=1e-9)
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert len(repr(found)) < 200


def test_report_of_a_small_comparison_is_unchanged(scored):
    """To 0.1 %, as float32 sums differ over machines."""
    folder, found = scored
    assert_unchanged(found.to_dict(), "report_of_digits.json", rel=1e-3)
    assert Comparison.from_dict(json.loads((folder / "c/report.json").read_text())) == found


@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_report_renders_to_its_markdown(name):
    found = Comparison.from_dict(json.loads((RESULTS / name / "report.json").read_text()))
    assert found.to_markdown() == (RESULTS / name / "report.md").read_text()


def assert_equal(found, expected, rel, where="report"):
    """JSON values that are equal, numbers within `rel`."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key in expected:
            precision = max(rel, 1e-7) if key == "rising" else rel  # places of extrema: sqrt(eps)
            assert_equal(found[key], expected[key], precision, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_equal(mine, theirs, rel, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-3 * rel), where
    else:
        assert found == expected, where
