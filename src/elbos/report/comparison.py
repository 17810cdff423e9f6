"""A comparison as text and figures."""

from collections.abc import Mapping
from typing import Any

from plotly.graph_objects import Figure
from rich.table import Table

from elbos.comparison import figures, words
from elbos.comparison.conclusion import conclusion, notes
from elbos.comparison.markdown import comparison_markdown
from elbos.comparison.page import comparison_page
from elbos.comparison.result import Comparison
from elbos.comparison.table import comparison_table


def _report(comparison: Comparison) -> dict[str, Any]:
    report = comparison.to_dict()
    report["conclusion"] = conclusion(report)
    report["notes"] = [*notes(report), *comparison.remarks]
    return report


def markdown(comparison: Comparison) -> str:
    """The report as Markdown."""
    return comparison_markdown(_report(comparison))


def page(comparison: Comparison, samples: Mapping[str, bytes]) -> str:
    """The report as a page."""
    return comparison_page(_report(comparison), samples=samples)


def terminal(comparison: Comparison) -> list[Table | str]:
    """What the terminal shows."""
    report = _report(comparison)
    lacking = [f"* {name}: {reason}" for name, reason in words.failures(report)]
    table = comparison_table(report)
    return [table, *lacking, words.reading(report), "", *report["conclusion"]]


def results_table(comparison: Comparison) -> Table:
    """Every objective with its main scores."""
    return comparison_table(_report(comparison))


def levels_figure(comparison: Comparison) -> Figure:
    """The ELBO of noisy data and the loss, over log-SNR."""
    found = figures.levels_figure(comparison.to_dict()["rows"])
    assert found is not None
    return found
