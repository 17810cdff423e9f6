"""The part of an evaluation's page that is about samples: their quality, also by evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from elbos.evaluation.figures import FLOOR_COLOR, SweepLine, sweep_figure, sweep_lines
from elbos.evaluation.words import counted, fact, mean_and_std, number, plus_minus
from elbos.pages.panels import DASHES
from elbos.pages.parts import breakable, legend, plot, record_table, swatch, table

_METRICS = {
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "inception_score": "Inception score",
}
_Records = Sequence[tuple[str, Mapping[str, str]]]


def settings_table(settings: Mapping[str, Any]) -> str:
    """Names and values of settings."""
    rows = ((escape(k.replace("_", " ")), [breakable(fact(v))]) for k, v in settings.items())
    return f'<div class="settings">{table(rows)}</div>'


def quality(result: Mapping[str, Any]) -> str:
    """Every set of samples, their mean, and the floor that real images set."""
    found = result.get("quality") or {}
    if not (records := _quality_records(found)):
        return ""
    return f"""<section class="measured">
<h2>Sample quality</h2>
{record_table(records, label="Sample quality")}
<p class="notes">± beside a mean is the standard deviation over seeds; beside one kernel distance,
its standard error. The floor compares real images with the same reference.</p>
{settings_table(found.get("protocol") or {})}
</section>"""


def _quality_records(quality: Mapping[str, Any]) -> _Records:
    n = (quality.get("protocol") or {}).get("num_samples")
    records = [
        (f"seed {fact(one.get('seed'))}, {counted(n, 'samples')}", _metrics(one))
        for one in quality.get("sets") or []
    ]
    if len(records) > 1:
        means = {title: plus_minus(*mean_and_std(quality, key)) for key, title in _METRICS.items()}
        records.append((f"mean of {len(records)} seeds", means))
    if floor := quality.get("floor"):
        real = counted(floor.get("num"), f"{floor.get('split') or 'held-out'} images")
        records.append((escape(f"floor: {real}"), _metrics(floor)))
    return records


def _metrics(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        title: plus_minus(one.get(key), one.get(f"{key}_se")) for key, title in _METRICS.items()
    }


def sweep(result: Mapping[str, Any]) -> str:
    """What more network evaluations buy."""
    found = result.get("sweep") or {}
    floor = found.get("floor") or {}
    if not (points := _measured_points(found)):
        return ""
    fig = sweep_figure(points, floor.get("frechet_distance"))
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
    n, best, floor = sweep.get("num_samples"), sweep.get("best"), sweep.get("floor") or {}
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
    if floor.get("frechet_distance") is not None:
        yield f"{swatch(FLOOR_COLOR, DASHES['dash'])} floor, {counted(floor.get('num'), 'images')}"


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
