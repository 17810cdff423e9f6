"""The report of a comparison as a dictionary of numbers, from the scores of its runs.

Page and Markdown are written from it alone; report.json holds it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elbos.comparison import curves
from elbos.comparison.conclusion import conclusion, notes
from elbos.comparison.curves import rounded
from elbos.comparison.experiment import Comparison
from elbos.comparison.metrics import Metric
from elbos.comparison.results import Cell, Results
from elbos.comparison.rows import Row
from elbos.comparison.statistics import MIN_WEIGHTINGS, Correlation, rank_correlations


def report_of(
    comparison: Comparison,
    cells: Sequence[Cell],
    *,
    name: str,
    command: str | None,
    features: str | None,
) -> dict[str, Any]:
    """The report.

    Args:
        comparison: What was compared.
        cells: All rows with all seeds.
        name: Of the comparison.
        command: What was typed.
        features: Name of what computed the features; None of points.
    """
    results = Results(comparison, cells)
    report = {
        "name": name,
        "command": command,
        **_extent(comparison, results),
        "metrics": [_metric(metric, results) for metric in results.metrics],
        "rows": [_row(row, results) for row in comparison.rows],
        "statistics": {metric.key: _statistics(results, metric) for metric in results.metrics},
        "pairs": _pairs(results),
        "losses": _losses(results),
        "ranking": _ranking(results),
    }
    report["conclusion"] = conclusion(report)
    report["notes"] = notes(report)
    report["protocol"] = _protocol(comparison, results, features)
    return report


def _extent(comparison: Comparison, results: Results) -> dict[str, Any]:
    some = results.some or {}
    return {
        "data": (some.get("data") or {}).get("name"),
        "num_test_images": some.get("num_images"),
        "num_samples": comparison.scoring.num_samples if some.get("samples") else None,
        "num_compared": some.get("num_compared"),
        "num_features": some.get("num_features"),
        "num_floor": (some.get("floor") or {}).get("num"),
        "num_images": comparison.config.num_images,
        "num_parameters": some.get("num_parameters"),
        "seeds": list(comparison.seeds),
        "logsnr_min": results.ends[0],
        "logsnr_max": results.ends[1],
    }


def _metric(metric: Metric, results: Results) -> dict[str, Any]:
    return {
        "key": metric.key,
        "title": metric.title,
        "short": metric.short,
        "is_lower_better": metric.is_lower_better,
        "is_main": metric in results.main,
        "floor": metric.floor(results.some) if results.some else None,
    }


def _row(row: Row, results: Results) -> dict[str, Any]:
    """A row: what it is, how it did, and its curves."""
    scores = results.scores(row.name)
    is_complete = row in results.complete
    failures = [
        {"seed": seed, **{key: failure[key] for key in ("reason", "is_final")}}
        for seed, cell in results.cells[row.name].items()
        if seed not in scores
        for failure in [cell.job.failure() or {"reason": "it is not done yet", "is_final": False}]
    ]
    return {
        "name": row.name,
        "parameterization": repr(row.parameterization),
        "schedule": repr(results.comparison.run_config(row, 0).schedule),
        "weighting": repr(row.weighting),
        "is_monotone": results.is_monotone(row),
        "rising": [list(ends) for ends in results.rising[row.name]],
        "status": "complete" if is_complete else "incomplete" if scores else "failed",
        "failures": failures,
        "scores": {m.key: _score(m, row, results) for m in results.metrics} if scores else {},
        "weights": curves.weights(row, results),
        "elbo": curves.mean_curve(scores, "elbo"),
        "curve": curves.mean_curve(scores, "curve"),
        "learning": curves.learning(scores),
        "density": curves.density(scores),
    }


def _score(metric: Metric, row: Row, results: Results) -> dict[str, Any]:
    values = results.array(metric, [row])[0]
    return {
        "values": {
            str(seed): value
            for seed, value in zip(results.scores(row.name), values.tolist(), strict=True)
        },
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        **_standing(metric, row, results),
    }


def _standing(metric: Metric, row: Row, results: Results) -> dict[str, Any]:
    """How a row stands against the best: `detectable` is the difference from it above which it
    would be significant. A wild row that does not differ significantly is unresolved.
    """
    found = results.differences.get(metric.key)
    if found is None or row not in results.complete:
        return {
            "is_best": False,
            "is_best_within_error": False,
            "is_unresolved": False,
            "detectable": None,
        }
    i, best = results.complete.index(row), found.best(metric.is_lower_better)
    is_near = not found.is_significant[best, i]
    is_unresolved = bool(is_near and found.is_wild[i] and i != best)
    return {
        "is_best": i == best,
        "is_best_within_error": is_near and not is_unresolved,
        "is_unresolved": is_unresolved,
        "detectable": None if i == best else float(found.half_widths[best, i]),
    }


def _statistics(results: Results, metric: Metric) -> dict[str, Any] | None:
    """Of a main metric; `detectable` is that of the middle one of all rows but the best."""
    if (found := results.differences.get(metric.key)) is None:
        return None
    best = found.best(metric.is_lower_better)
    return {
        "num_rows": len(results.complete),
        "num_seeds": len(results.seeds),
        "residual_std": found.residual_std,
        "detectable": float(np.median(np.delete(found.half_widths[best], best))),
        "erratic": [results.complete[i].name for i in np.flatnonzero(found.is_wild)],
        "pairing": found.pairing,
    }


def _pairs(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "monotone": yes.name,
            "non_monotone": no.name,
            "differences": {
                metric.key: _difference(metric, yes, no, results) for metric in results.metrics
            },
        }
        for yes, no in results.pairs
    ]


def _difference(metric: Metric, yes: Row, no: Row, results: Results) -> dict[str, Any]:
    """Of a planned pair, with its interval and half of that's width, in the main metrics."""
    means = results.array(metric, [yes, no]).mean(1)
    mean = float(means[0] - means[1])
    if (found := results.differences.get(metric.key)) is None:
        interval = {"low": None, "high": None, "detectable": None, "is_unresolved": False}
        return {"mean": mean, **interval}
    pair = results.complete.index(yes), results.complete.index(no)
    half_width = float(found.half_widths[pair])
    return {
        "mean": mean,
        "low": mean - half_width,
        "high": mean + half_width,
        "detectable": half_width,
        "is_unresolved": bool(found.is_wild[list(pair)].any() and not found.is_significant[pair]),
    }


def _losses(results: Results) -> dict[str, Any] | None:
    """Every row's loss under every row's weighting, relative to the lowest."""
    if not results.complete:
        return None
    names = [repr(weighting) for weighting in results.comparison.weightings]
    found = [results.scores(row.name).values() for row in results.complete]
    losses = [np.array([[s["losses"][name] for s in scores] for scores in found]) for name in names]
    of = [[r.name for r in results.comparison.rows if repr(r.weighting) == name] for name in names]
    return {
        "rows": [row.name for row in results.complete],
        "weightings": [{"name": n, "rows": rows} for n, rows in zip(names, of, strict=True)],
        "relative": rounded(np.transpose([_relative(one.mean(1)) for one in losses])),
    }


def _relative(means: Any) -> Any:
    """As multiples of the lowest; NaN where that is none, as estimates of few images may be."""
    return means / means.min() if means.min() > 0 else np.full_like(means, np.nan)


def _ranking(results: Results) -> dict[str, Any] | None:
    """Whether the ELBO of noisy data ranks monotone weightings as the main metrics do."""
    rows = [row for row in results.complete if results.is_monotone(row)]
    of_rows = [repr(row.weighting) for row in rows]
    names = list(dict.fromkeys(of_rows))
    if len(names) < MIN_WEIGHTINGS:
        return None
    found = [list(results.scores(row.name).values()) for row in rows]
    elbos = np.array([[s["elbo"]["nats_per_dim"] for s in one] for one in found])
    losses = np.array([[[s["losses"][name] for name in names] for s in one] for one in found])
    values = {metric.key: results.array(metric, rows) for metric in results.main}
    by_level = {key: rank_correlations(elbos, y, of_rows) for key, y in values.items()}
    by_weighting = {key: rank_correlations(losses, y, of_rows) for key, y in values.items()}
    return {
        "rows": [row.name for row in rows],
        "num_rows": len(rows),
        "num_weightings": len(names),
        "num_seeds": len(results.seeds),
        "logsnr": found[0][0]["elbo"]["logsnr"],
        **{
            key: {**_correlation(one), "p_value": rounded([one.p_value])[0]}
            for key, one in by_level.items()
        },
        "weightings": [
            {"name": name, **{key: _at(one, i) for key, one in by_weighting.items()}}
            for i, name in enumerate(names)
        ],
    }


def _correlation(found: Correlation) -> dict[str, Any]:
    return {end: rounded(getattr(found, end)) for end in ("rho", "low", "high")}


def _at(found: Correlation, i: int) -> dict[str, Any]:
    return {end: values[i] for end, values in _correlation(found).items()}


def _protocol(comparison: Comparison, results: Results, features: str | None) -> dict[str, Any]:
    scoring, config = comparison.scoring, comparison.config
    found = [s for row in comparison.rows for s in results.scores(row.name).values()]
    machines = [s["machine"] for s in found]
    samplings = {
        f"{name} sampler": (
            f"{one.sampler!r} on {one.grid_within(config.schedule)!r}, {one.num_steps} steps, "
            f"{one.num_evaluations(config.schedule)} evaluations"
        )
        for name, one in scoring.samplings.items()
    }
    samplings["features"] = (
        f"{features}, {scoring.num_samples:,} samples of each run, against train + "
        "validation images"
    )
    num = found[0]["num_compared"] if found else None
    if num not in (None, scoring.num_samples):
        samplings["Fréchet distance, precision, recall"] = (
            f"of the first {num:,} samples of each run, as many as there are test images"
        )
    return {
        "seeds": list(comparison.seeds),
        "images seen by a run": config.num_images,
        "batch size": config.batch_size,
        "network": repr(config.network),
        "optimizer": repr(config.optimizer),
        "clipping": "at a norm in proportion to the loss of the best denoiser of normal data",
        **_clipped(comparison, results),
        "precision": config.precision,
        "likelihood": (
            f"variational bound of {found[0]['num_images']:,} test images, {found[0]['condition']}"
            if found
            else "–"
        ),
        **(samplings if found and found[0]["samples"] else {}),
        "hardware": sorted({machine["device"] for machine in machines}),
        "versions": sorted({f"torch {m['torch']}, elbos {m['elbos']}" for m in machines}),
    }


def _clipped(comparison: Comparison, results: Results) -> dict[str, list[str]]:
    """The share of steps at which the gradient was clipped, where it is known, mean over seeds: the
    norm depends on what the network predicts.
    """
    shares = {
        row.name: [s["clipped"] for s in results.scores(row.name).values() if "clipped" in s]
        for row in comparison.rows
    }
    found = [f"{name} {100 * np.mean(one):.0f} %" for name, one in shares.items() if one]
    return {"clipped steps": found} if found else {}
