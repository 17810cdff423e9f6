"""Results as tables on the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from elbos.evaluation.words import fact, four_digits, metrics, sweep_baseline

_TITLES = {
    "frechet_distance": "Fréchet",
    "kernel_distance": "kernel",
    "precision": "precision",
    "recall": "recall",
    "inception_score": "inception",
    "classifier_score": "classifier",
}


def evaluation_tables(result: dict[str, Any]) -> list[Table]:
    """All that was measured of a run."""
    tables = (
        trained_table,
        likelihood_table,
        ode_table,
        curve_table,
        theorem_table,
        quality_table,
        sweep_table,
    )
    return [found for table in tables if (found := table(result)) is not None]


def trained_table(result: dict[str, Any]) -> Table:
    """What was trained."""
    table = _table(f"{result['run']}: trained")
    table.show_header = False
    table.add_column("", min_width=13)
    table.add_column("", overflow="fold")
    for name, value in result["trained"].items():
        table.add_row(_title(name), escape(fact(value)))
    return table


def likelihood_table(result: dict[str, Any]) -> Table:
    """Bits per dimension, term by term, with the ODE's beside it."""
    table = _table(
        f"{result['run']}: bits/dim on {result['num_images']:,} images ({result['split']})"
    )
    results = result["results"]
    has_exact = any(row["exact_bits_per_dim"] is not None for row in results.values())
    columns = ["bits/dim", "± s.e.", "noise", "decoder", "diffusion", "prior"]
    _add_columns(table, [*columns, "exact"] if has_exact else columns)
    for name, row in results.items():
        terms = [row[f"{term}_bpd"] for term in ("decoder", "diffusion", "prior")]
        cells = [row["bits_per_dim"], row["standard_error"], row["measurement_error"], *terms]
        cells += [row["exact_bits_per_dim"]] if has_exact else []
        table.add_row(_title(name), *(f"{value:.4f}" for value in cells))
    return table


def ode_table(result: dict[str, Any]) -> Table | None:
    """The ODE likelihood and the bound on the same images."""
    found = {name: row["ode"] for name, row in result["results"].items() if row["ode"]}
    if not found:
        return None
    ode = next(iter(found.values()))
    how = f"{ode['precision']}, tolerance {ode['rtol']:g}, {ode['trace']} trace"
    if ode["dequantization"]:
        how += f", {ode['dequantization']} dequantization"
    table = _table(f"ODE likelihood on {ode['num_images']} images, bits/dim ({how})")
    _add_columns(table, ["ODE", "± s.e.", "bound", "difference", "± s.e.", "evaluations"])
    for name, row in found.items():
        keys = ("bits_per_dim", "standard_error", "bound_bits_per_dim", "difference")
        cells = [row[key] for key in (*keys, "difference_se")]
        count = f"{row['num_evaluations']}"
        table.add_row(_title(name), *(f"{value:.4f}" for value in cells), count)
    return table


def theorem_table(result: dict[str, Any]) -> Table:
    """Both sides of the theorem, relative to their error."""
    table = _table("weighted loss = mixture of ELBOs, nats/dim; standard error of their difference")
    _add_columns(table, ["monotone", "weighted loss", "mixture", "± s.e.", "z"])
    for name, row in result["results"].items():
        for side in row["weightings"]:
            numbers = (side["loss"], side["mixture"], side["difference_se"])
            table.add_row(
                f"{_title(name)}, {side['name']}",
                "yes" if side["is_monotone"] else "no",
                *(f"{value:.4g}" for value in numbers),
                f"{side['z']:+.1f}",
            )
    return table


def quality_table(result: dict[str, Any]) -> Table | None:
    """Scores of samples, and of real images."""
    if result["quality"] is None:
        return None
    quality, how = result["quality"], result["quality"]["protocol"]
    guided = how["guidance_logsnr"]
    guidance = "" if guided is None else f", guidance {how['guidance']:g} on log-SNR {guided}"
    table = _table(
        f"sample quality: {how['num_samples']:,} samples, {how['sampler']} on {how['grid']}, "
        f"{how['num_evaluations']} evaluations{guidance}; "
        f"{how['extractor']}, against {how['reference']}"
    )
    keys = metrics(quality)
    _add_columns(table, [_TITLES[key] for key in keys])
    rows = _sets(quality)
    if matched := quality["matched"]:
        rows |= {f"{name}, first {matched['num']:,}": row for name, row in _sets(matched).items()}
    baseline = quality["baseline"]
    rows[f"{baseline['num']:,} {baseline['split']} images"] = baseline
    for name, row in rows.items():
        errors = {"kernel_distance": row.get("kernel_distance_se")}
        cells = (_number(row.get(key), errors.get(key)) for key in keys)
        table.add_row(name, *cells)
    return table


def _sets(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of sets of samples, and their mean and deviation."""
    rows = {f"seed {one['seed']}": one for one in found["sets"]}
    if found["std"]:
        rows |= {"mean": found["mean"], "standard deviation": found["std"]}
    return rows


def sweep_table(result: dict[str, Any]) -> Table | None:
    """Fréchet distance by sampler, grid and evaluations."""
    if result["sweep"] is None:
        return None
    sweep = result["sweep"]
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for point in sweep["points"]:
        line = lines.setdefault((point["sampler"], point["grid"]), {})
        line[point["num_evaluations"]] = point["frechet_distance"]
    counts = sorted({count for line in lines.values() for count in line})
    baseline = sweep_baseline(sweep)
    table = _table(
        f"Fréchet distance of {sweep['num_samples']:,} samples by network evaluations"
        + ("" if baseline is None else f"; real-data baseline {baseline:.4g}")
    )
    _add_columns(table, [str(count) for count in counts])
    for (sampler, grid), line in lines.items():
        name = escape(f"{sampler} on {grid}")
        table.add_row(name, *(_number(line.get(count)) for count in counts))
    return table


def runs_table(results: Sequence[dict[str, Any]]) -> Table:
    """Several runs, a row for each of what their networks are told."""
    table = _table("runs")
    found = (metrics(result["quality"]) for result in results if result["quality"])
    scores = [key for key in next(found, []) if not key.endswith("_score")]
    titles = ["step", "bits/dim", "± s.e.", "ODE", *(_TITLES[key] for key in scores)]
    _add_columns(table, titles)
    for result in results:
        quality = (result["quality"] or {}).get("mean", {})
        for name, row in result["results"].items():
            ode = row["ode"] or {}
            table.add_row(
                escape(f"{result['run']}, {_title(name)}"),
                str(result["step"]),
                *(f"{row[key]:.4f}" for key in ("bits_per_dim", "standard_error")),
                _number(ode.get("bits_per_dim")),
                *(_number(quality.get(key)) for key in scores),
            )
    return table


def curve_table(result: dict[str, Any], *, num_rows: int = 8) -> Table:
    """The loss by noise level, in nats per dimension."""
    results = result["results"]
    table = _table("loss by noise level, nats/dim")
    table.add_column("log-SNR", justify="right")
    for name in results:
        table.add_column(_title(name), justify="right")
    levels = next(iter(results.values()))["curve"]["logsnr"]
    for i in range(0, len(levels), len(levels) // num_rows):
        curves = [row["curve"] for row in results.values()]
        cells = (f"{c['nats_per_dim'][i]:.5f} ± {c['standard_error'][i]:.5f}" for c in curves)
        table.add_row(f"{levels[i]:.2f}", *cells)
    return table


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE)


def _add_columns(table: Table, titles: Iterable[str]) -> None:
    """A column of names, and columns of numbers."""
    table.add_column("", min_width=13, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right")


def _title(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return four_digits(value) if error is None else f"{four_digits(value)} ± {error:.1g}"
