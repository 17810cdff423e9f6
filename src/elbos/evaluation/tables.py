"""Results as tables on the terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from elbos.analysis import rising_intervals
from elbos.recipes import RECIPES


def likelihood_table(result: dict[str, Any]) -> Table:
    """Bits per dimension, term by term."""
    table = Table(
        title=escape(
            f"{result['run']}: bits/dim on {result['num_images']:,} {result['split']} images"
        ),
        title_justify="left",
    )
    has_exact = any("exact_bits_per_dim" in row for row in result["results"].values())
    columns = ["", "bits/dim", "± s.e.", "decoder", "diffusion", "prior"]
    for column in [*columns, "exact"] if has_exact else columns:
        table.add_column(column, justify="left" if not column else "right")
    for name, row in result["results"].items():
        terms = [row[f"{term}_bpd"] for term in ("decoder", "diffusion", "prior")]
        cells = [row["bits_per_dim"], row["standard_error"], *terms]
        cells += [row["exact_bits_per_dim"]] if has_exact else []
        table.add_row(name.replace("_", " "), *(f"{value:.4f}" for value in cells))
    return table


def curve_table(result: dict[str, Any], *, num_rows: int = 9) -> Table:
    """The loss by noise level, in nats per dimension."""
    results = result["results"]
    table = Table(title="loss by noise level, nats/dim", title_justify="left")
    table.add_column("log-SNR", justify="right")
    for name in results:
        table.add_column(name.replace("_", " "), justify="right")
    levels = next(iter(results.values()))["curve"]["logsnr"]
    stride = (len(levels) - 1) // (num_rows - 1)
    for i in range(0, len(levels), stride):
        curves = [row["curve"] for row in results.values()]
        cells = (f"{c['nats_per_dim'][i]:.5f} ± {c['standard_error'][i]:.5f}" for c in curves)
        table.add_row(f"{levels[i]:.2f}", *cells)
    return table


def weightings_rows() -> list[dict[str, Any]]:
    """Every recipe, with its implied weighting, whether it is monotone, and where it rises."""
    rows = []
    for name, recipe in RECIPES.items():
        low, high = recipe.schedule.logsnr_min, recipe.schedule.logsnr_max
        found = rising_intervals(recipe.closed_form, low, high)
        rises = [(round(start, 6) + 0.0, round(end, 6) + 0.0) for start, end in found]
        rows.append(
            {
                "name": name,
                "title": recipe.title,
                "schedule": repr(recipe.schedule),
                "parameterization": repr(recipe.parameterization),
                "weighting": repr(recipe.closed_form),
                "logsnr_min": low,
                "logsnr_max": high,
                "is_monotone": not rises,
                "rising": rises,
                "reference": recipe.reference,
            }
        )
    return rows


def weightings_table(rows: list[dict[str, Any]]) -> Table:
    """`weightings_rows` as a table."""
    table = Table(title="What each recipe weighs", title_justify="left", show_lines=False)
    for column in ("recipe", "weighting", "monotone", "rises on", "reference"):
        table.add_column(column, overflow="fold")
    for row in rows:
        rises = ", ".join(f"[{a:.3g}, {b:.3g}]" for a, b in row["rising"])
        table.add_row(
            row["name"],
            row["weighting"],
            "yes" if row["is_monotone"] else "no",
            rises.replace("[", r"\["),
            row["reference"],
        )
    return table
