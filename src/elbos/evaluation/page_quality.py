"""The part of an evaluation's page that is about samples: their quality, also by evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from elbos.evaluation.figures import BASELINE_COLOR, SweepLine, sweep_figure, sweep_lines
from elbos.evaluation.words import (
    METRICS,
    counted,
    fact,
    mean_and_std,
    metrics,
    number,
    plus_minus,
    sweep_baseline,
)
from elbos.report.panels import DASHES
from elbos.report.parts import breakable, legend, plot, record_table, swatch, table

_Record = tuple[str, Mapping[str, str]]
_Records = Sequence[_Record]


def settings_table(settings: Mapping[str, Any]) -> str:
    """Names and values of settings."""
    rows = ((escape(k.replace("_", " ")), [breakable(fact(v))]) for k, v in settings.items())
    return f'<div class="settings">{table(rows)}</div>'


def quality(result: Mapping[str, Any]) -> str:
    """Every set of samples, their mean, and the real-data baseline."""
    found = result.get("quality") or {}
    if not (records := _quality_records(found)):
        return ""
    return f"""<section class="measured">
<h2>Sample quality</h2>
{record_table(records, label="Sample quality")}
<p class="notes">± beside a mean is the standard deviation over seeds; beside one kernel distance,
its standard error. The real-data baseline compares held-out images with the same reference: all but
the kernel distance depends on the number of images, and is to be compared at the same number.</p>
{settings_table(found.get("protocol") or {})}
</section>"""


def _quality_records(quality: Mapping[str, Any]) -> _Records:
    keys = metrics(quality)
    num = (quality.get("protocol") or {}).get("num_samples")
    records = _sets(quality, counted(num, "samples"), keys)
    if matched := quality.get("matched"):
        records += _sets(matched, f"the first {counted(matched.get('num'), 'samples')}", keys)
    if baseline := quality.get("baseline"):
        real = counted(baseline.get("num"), f"{baseline.get('split') or 'held-out'} images")
        records.append((escape(f"real-data baseline: {real}"), _metrics(baseline, keys)))
    return records


def _sets(found: Mapping[str, Any], samples: str, keys: Sequence[str]) -> list[_Record]:
    """Sets of samples, and their mean."""
    sets = found.get("sets") or []
    records: list[_Record] = [
        (f"seed {fact(one.get('seed'))}, {samples}", _metrics(one, keys)) for one in sets
    ]
    if len(sets) > 1:
        means = {METRICS[key]: plus_minus(*mean_and_std(found, key)) for key in keys}
        records.append((f"mean of {len(sets)} seeds, {samples}", means))
    return records


def _metrics(one: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    return {METRICS[key]: plus_minus(one.get(key), one.get(f"{key}_se")) for key in keys}


def sweep(result: Mapping[str, Any]) -> str:
    """What more network evaluations buy."""
    found = result.get("sweep") or {}
    if not (points := _measured_points(found)):
        return ""
    fig = sweep_figure(points, sweep_baseline(found))
    lines = sweep_lines(points)
    return plot(
        fig,
        name="sweep",
        heading="Quality by network evaluations",
        label="Fréchet distance over network evaluations; numbers are in the table below.",
        saved_as="elbos-sweep",
        notes=_sweep_notes(found, lines),
        key=legend({line.sampler: line.color for line in lines}),
    )


def _sweep_notes(sweep: Mapping[str, Any], lines: Sequence[SweepLine]) -> Iterator[str]:
    n, best = sweep.get("num_samples"), sweep.get("best")
    if best:
        on = f" on {best['grid']}" if best.get("grid") else ""
        yield escape(
            f"Best: {best.get('sampler')}{on} with {best.get('num_evaluations')} evaluations, "
            f"{number(best.get('frechet_distance'))}."
        )
    grids = {line.grid: line.dash for line in lines if line.grid}
    for grid, dash in grids.items():
        yield f"{swatch('currentColor', DASHES.get(dash, ''))} {escape(grid)}"
    if n is not None:
        yield f"Each point is of {n:,} samples; fewer samples give a larger distance."
    if sweep_baseline(sweep) is not None:
        yield f"{swatch(BASELINE_COLOR, DASHES['dash'])} real-data baseline, {counted(n, 'images')}"


def _measured_points(sweep: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    points = sweep.get("points") or []
    return [point for point in points if point.get("frechet_distance") is not None]


def sweep_table(result: Mapping[str, Any]) -> str:
    """The points of the sweep's curves."""
    points = _measured_points(result.get("sweep") or {})
    records = [
        (
            escape(line.name),
            {
                "evaluations": fact(point["num_evaluations"]),
                "Fréchet distance": number(point["frechet_distance"]),
            },
        )
        for line in sweep_lines(points)
        for point in line.points
    ]
    if not records:
        return ""
    return record_table(records, caption="Quality by evaluations", label="Quality by evaluations")
