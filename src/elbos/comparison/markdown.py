"""A comparison as Markdown, as GitHub renders it: for an issue, a README or a commit."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from elbos.comparison.names import short_prediction, short_schedule, short_weighting
from elbos.comparison.words import (
    MONOTONE,
    Report,
    correlation,
    detectable,
    difference_formatter,
    facts,
    failures,
    finished,
    floor_name,
    formatter,
    interval,
    is_significant,
    measured,
    ranked,
    reading,
    reading_of_pairs,
    score,
    score_formatter,
    signed,
    verdict,
)
from elbos.evaluation.words import fact
from elbos.report.parts import NONE


def comparison_markdown(report: Report) -> str:
    """The conclusion and the tables; what is null or empty is left out."""
    parts = [
        f"# {plain(report['name'])}",
        plain(" · ".join(facts(report))),
        *(plain(sentence) for sentence in report["conclusion"]),
        *_results(report),
        *_pairs(report),
        *_ranking(report),
        *_protocol(report),
        *([f"## Reproduce\n\n{_code(report['command'])}"] if report["command"] else []),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text that is shown as it is: on one line, without markup.

    Examples:
        >>> plain("a|b <i>*c*")
        'a\\\\|b \\\\<i\\\\>\\\\*c\\\\*'
    """
    return re.sub(r"([\\`*_<>|\[\]#~&])", r"\\\1", " ".join(text.split()))


def _results(report: Report) -> Iterator[str]:
    metrics = measured(report)
    heads = [
        *("objective", "monotone", "predicts", "schedule", "weighting"),
        *(f"{one['short']} {'↓' if one['is_lower_better'] else '↑'}" for one in metrics),
    ]
    rows = [_row(report, row) for row in report["rows"]]
    if any(one["floor"] is not None for one in metrics):
        floors = (formatter(report, one["key"])(one["floor"]) for one in metrics)
        rows.append([plain(floor_name(report)), *("" for _ in range(4)), *floors])
    if any(report["statistics"].values()):
        least = [detectable(report, metric["key"]) for metric in metrics]
        rows.append(["least significant difference from ★", *("" for _ in range(4)), *least])
    yield f"## Every objective\n\n{_table(map(plain, heads), rows, num_texts=5)}"
    yield f"{MONOTONE} {reading(report)}"
    if lacking := [f"- {plain(name)}: {plain(reason)}" for name, reason in failures(report)]:
        yield "Not complete:"
        yield "\n".join(lacking)


def _row(report: Report, row: Mapping[str, Any]) -> list[str]:
    lacking = finished(report, row)
    texts = [
        f"{row['name']} ({lacking})" if lacking else row["name"],
        "yes" if row["is_monotone"] else "no",
        short_prediction(row["parameterization"]),
        short_schedule(row["schedule"]),
        short_weighting(row["weighting"]),
    ]
    return [*map(plain, texts), *(_cell(report, row, one["key"]) for one in measured(report))]


def _cell(report: Report, row: Mapping[str, Any], key: str) -> str:
    one, write = score(row, key), score_formatter(report, row, key)
    if one.get("mean") is None:
        return NONE
    value = write(one["mean"])
    if one["std"] is not None:
        value += f" ± {write(one['std'])}"
    if one["is_best_within_error"]:
        value = f"**{value}**"
    if one["is_unresolved"]:
        return f"{value} (unresolved)"
    return f"{value} ★" if one["is_best"] else value


def _pairs(report: Report) -> Iterator[str]:
    if not report["pairs"]:
        return
    yield f"## Matched pairs\n\n{reading_of_pairs(report)}"
    rows = [
        [plain(f"{pair['monotone']} minus {pair['non_monotone']}"), *cells]
        for pair in report["pairs"]
        for cells in _differences(report, pair)
    ]
    heads = ["pair", "score", "difference", "interval", "least significant", ""]
    yield _table(heads, rows, num_texts=2)


def _differences(report: Report, pair: Mapping[str, Any]) -> Iterator[list[str]]:
    for metric in report["metrics"]:
        found = pair["differences"].get(metric["key"])
        if found is None or found["mean"] is None:
            continue
        apart = is_significant(found)
        known = apart is not None
        write = difference_formatter(found) if known else formatter(report, metric["key"])
        ends = NONE if apart is None else interval(found["low"], found["high"], write)
        mean = signed(found["mean"], write)
        least = write(found["detectable"]) if known else NONE
        mean = f"**{mean}**" if apart else mean
        yield [plain(metric["short"]), mean, ends, least, verdict(found, metric)]


def _ranking(report: Report) -> Iterator[str]:
    if not (found := report["ranking"]) or not found["weightings"]:
        return
    titles = ranked(report)
    rows = [
        [plain(short_weighting(one["name"])), *(correlation(one.get(key)) for key in titles)]
        for one in found["weightings"]
    ]
    yield "## Does an ELBO rank models as their scores do?"
    yield (
        "Spearman's rank correlation of the loss under a monotone weighting, a mixture of ELBOs of "
        f"noise-augmented test data, with each score, over {found['num_weightings']} distinct "
        f"weightings, each the mean of its objectives ({found['num_rows']} in all)."
    )
    yield _table(["weighting", *map(plain, titles.values())], rows, num_texts=1)


def _protocol(report: Report) -> Iterator[str]:
    if report["notes"]:
        yield "## Notes"
        yield "\n".join(f"- {plain(note)}" for note in report["notes"])
    if report["protocol"]:
        yield "## Protocol"
        settings = report["protocol"].items()
        rows = [[plain(key.replace("_", " ")), plain(fact(value))] for key, value in settings]
        yield _table(["setting", "value"], rows, num_texts=2)


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], *, num_texts: int) -> str:
    """A table whose first columns are text, and all others numbers."""
    names = list(heads)
    aligned = ["---"] * num_texts + ["---:"] * (len(names) - num_texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, aligned, *rows))


def _code(command: str) -> str:
    """The command in a fence that nothing in it closes."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
