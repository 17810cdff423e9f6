"""The numbers of three reports, pinned: of stored scores, of a small comparison, of the guide.

A file that is deleted is written again by the test that needs it; say why in the commit.
"""

import json
from pathlib import Path

import pytest
from comparing import stored_comparison

from elbos.comparison.result import Comparison, Pair

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"


def numbers(comparison):
    """The numbers that follow from a comparison's table, and its curves."""
    return {
        "scores": {
            name: {
                key: {
                    field: getattr(score, field)
                    for field in (
                        *("values", "mean", "std", "is_best", "is_best_within_error"),
                        *("is_unresolved", "detectable"),
                    )
                }
                for key, score in by_metric.items()
            }
            for name, by_metric in comparison.scores.items()
        },
        "pairs": [
            {
                **pair._asdict(),
                "differences": {
                    metric.key: {
                        field: getattr(comparison.difference(*pair, metric), field)
                        for field in ("mean", "low", "high", "detectable", "is_unresolved")
                    }
                    for metric in comparison.metrics
                },
            }
            for pair in comparison.pairs
        ],
        "statistics": {
            metric.key: {
                "residual_std": comparison.statistics[metric.key].residual_std,
                "pairing": comparison.statistics[metric.key].pairing,
                "detectable": comparison.detectable(metric),
            }
            for metric in comparison.metrics
            if metric.key in comparison.statistics
        },
        "elbo": {o.name: o.elbo and o.elbo.y for o in comparison.objectives},
        "loss": {o.name: o.loss and o.loss.y for o in comparison.objectives},
    }


def assert_unchanged(comparison, name, rel):
    path, computed = HERE / name, json.loads(json.dumps(numbers(comparison)))
    if not path.exists():
        path.write_text(json.dumps(computed, allow_nan=False) + "\n")
    assert_equal(computed, json.loads(path.read_text()), rel)


def test_numbers_of_stored_scores_are_unchanged():
    comparison = stored_comparison()
    assert_unchanged(comparison, "report_of_scores.json", rel=1e-9)
    assert Comparison.from_dict(json.loads(json.dumps(comparison.to_dict()))) == comparison
    assert len(repr(comparison)) < 200


def test_numbers_of_a_small_comparison_are_unchanged(scored):
    """To 0.1 %, as float32 sums differ over machines."""
    folder, comparison = scored
    assert_unchanged(comparison, "report_of_digits.json", rel=1e-3)
    stored = json.loads((folder / "c/report.json").read_text())
    assert Comparison.from_dict(stored) == comparison
    assert_table_is_of_the_runs(folder, comparison)


def assert_table_is_of_the_runs(folder, comparison):
    records = comparison.table()
    records = records.to_dict("records") if hasattr(records, "to_dict") else records
    assert len({(row["objective"], row["seed"], row["metric"]) for row in records}) == len(records)
    for row in records:
        path = folder / f"c/runs/{row['objective']}-{row['seed']}/scores.json"
        stored = json.loads(path.read_text())["scores"]["metrics"][row["metric"]]
        assert row["value"] == stored["value"]
    assert {row["seed"] for row in records} == {0, 1}
    assert sum(row["metric"].startswith("loss under ") for row in records) == 3 * 2 * 3
    assert all(objective.p for objective in comparison.objectives)  # of adaptive schedules, too
    assert comparison.pairs == (Pair("edm-adaptive-monotonic", "edm-adaptive"),)
    assert comparison.protocol["heun sampler"].endswith(" 3 evaluations")
    assert (folder / "c/report.html").read_text().count("data:image/png;base64,") == 3


ROWS = {  # a planned pair, and some scores of the best and of the worst objective
    "digits": (
        ("eps-cosine-sigmoid-2 minus iddpm", "**+0.104** (+0.026 to +0.183)"),
        ("k6", "yes", "0.0038 ± 0.0011 ☆", "0.0097 ± 0.0011", "2.068 ± 0.017 ★"),
        ("k-2", "yes", "0.0120 ± 0.0018", "0.0246 ± 0.0035", "2.502 ± 0.015"),
    ),
    "fashion": (
        ("eps-cosine-sigmoid-2 minus iddpm", "**+0.153** (+0.099 to +0.206)"),
        ("iddpm-monotonic minus iddpm", "−0.004 (−0.070 to +0.062)"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_markdown_has_the_numbers_of_the_comparison(name):
    comparison = Comparison.from_dict(json.loads((RESULTS / name / "report.json").read_text()))
    lines = [line.strip("| ").split(" | ") for line in comparison.to_markdown().splitlines()]
    for row in ROWS[name]:
        assert any(line[0] == row[0] and set(row) <= set(line) for line in lines), row


def assert_equal(computed, expected, rel, where="report"):
    """JSON values that are equal, numbers within `rel`."""
    if isinstance(expected, dict):
        assert set(expected) <= set(computed), where  # a metric may be added
        for key in expected:
            assert_equal(computed[key], expected[key], rel, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(computed) == len(expected), where
        for i, (mine, theirs) in enumerate(zip(computed, expected, strict=True)):
            assert_equal(mine, theirs, rel, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert computed == pytest.approx(expected, rel=rel, abs=1e-3 * rel), where
    else:
        assert computed == expected, where
