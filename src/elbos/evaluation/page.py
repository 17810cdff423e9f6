"""HTML page of an evaluation, and tables of the results for the page and the terminal."""

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from elbos import __version__
from elbos.base.html import document, write_html
from elbos.base.numbers import NONE, count, fixed, number, percent, plus_minus, setting, signed
from elbos.base.tables import Cell, Column, Table, evenly, settings
from elbos.evaluation import figures
from elbos.evaluation.result import MAX_Z, Evaluation, Likelihood, SampleQuality
from elbos.theory.floor import Floor
from elbos.validation import Estimate
from elbos.validation.result import NATS_PER_BIT

_NUM_LEVELS = 13  # rows in tables of curves


@dataclass(frozen=True)
class Unit:
    """Unit in which the likelihood is reported."""

    name: str
    title: str
    per_bit: float

    def plus_minus(self, bits: float, error: float) -> str:
        return plus_minus(bits * self.per_bit, error * self.per_bit)

    def number(self, bits: float | None, places: int = 4) -> str:
        return number(None if bits is None else bits * self.per_bit, places)


def unit_of(result: Evaluation) -> Unit:
    """Return the unit of a likelihood: bits/dim, or nats/dim for models of latents."""
    if result.is_of_latents:
        return Unit("nats/dim", "nats/dim of latents, up to a constant", NATS_PER_BIT)
    return Unit("bits/dim", "bits/dim", 1.0)


def evaluation_page(
    results: Sequence[Evaluation], samples: Sequence[bytes | None] = (), command: str | None = None
) -> str:
    """Return evaluations as a self-contained HTML page, in which the results are JSON, too.

    Several begin with their differences from the first, paired over the images.
    """
    contents = [result.to_dict() for result in results]
    content = contents[0] if len(contents) == 1 else contents
    return document(
        "evaluation/page.html",
        models=[_shown(*pair) for pair in zip_longest(results, samples)],
        differences=[runs_table(results), *level_differences(results)],
        command=command,
        content={"elbos": __version__, "command": command, "evaluation": content},
        max_z=MAX_Z,
        figures=figures,
        underfitting=underfitting,
    )


def write_page(
    results: Sequence[Evaluation], path: Path, samples: Sequence[bytes | None], command: str | None
) -> None:
    write_html(path, evaluation_page(results, samples, command))


def _shown(result: Evaluation, samples: bytes | None) -> dict[str, Any]:
    return {
        "result": result,
        "samples": None if samples is None else base64.b64encode(samples).decode(),
        "conditions": figures.swatches(result),
        "checks": [check for bound in result.results.values() for check in bound.weightings],
        "ode": next((bound.ode for bound in result.results.values() if bound.ode), None),
        "unit": unit_of(result),
        "tables": _tables(result, _NUM_LEVELS),
    }


def _tables(result: Evaluation, num_rows: int) -> dict[str, list[Table]]:
    trained = {name: value for name, value in asdict(result.trained).items() if value is not None}
    return {
        "training": [settings(trained)],
        "terms": [terms_table(result)],
        "ode": [ode_table(result)],
        "levels": [level_table(result, name, num_rows) for name in ("curve", "elbo")],
        "floors": floor_tables(result, num_rows),
        "theorem": theorem_tables(result),
        "quality": [quality_table(result.quality)] if result.quality else [],
    }


def evaluation_tables(result: Evaluation) -> list[Table]:
    unit = unit_of(result).title
    captions = {
        "training": f"{result.run}: trained",
        "terms": f"{result.run}: the bound in {unit} on {count(result.num_images, result.images)}",
        "ode": f"ODE likelihood in {unit}",
        "levels": "loss by noise level in nats/dim per unit of log-SNR",
        "floors": "loss and floor in nats/dim per unit of log-SNR",
        "theorem": "weighted loss and mixture of ELBOs",
    }
    if quality := result.quality:
        how = quality.protocol
        captions["quality"] = (
            f"{count(how.num_samples, 'samples')}: {how.sampler} on {how.grid}, "
            f"{count(how.num_evaluations, 'evaluations')}, guidance {how.guidance:g}; features of "
            f"{how.extractor}, against {count(how.num_reference, f'{how.reference} images')}"
        )
    captioned = []
    for name, tables in _tables(result, 8).items():
        for table in tables[:1] if name == "levels" else tables:
            condition = table.caption if name in ("floors", "theorem") else ""
            if table.rows:
                caption = ", ".join(filter(None, (captions[name], condition)))
                captioned.append(replace(table, caption=caption))
    return captioned


def runs_table(results: Sequence[Evaluation]) -> Table:
    scored = next((result.quality for result in results if result.quality), None)
    metrics = scored.metrics if scored else []
    units = list(dict.fromkeys(map(unit_of, results)))
    samplers = []
    for result in results:
        how = result.quality.protocol if result.quality else None
        evaluations = count(how.num_evaluations) if how else None
        samplers.append(f"{how.sampler_label}, {how.grid_label}, {evaluations}" if how else "")
    if len(set(filter(None, samplers))) == 1:
        samplers = [""] * len(results)
    rows = []
    for result, sampler in zip(results, samplers, strict=True):
        result_unit, quality = unit_of(result), result.quality
        gaps: dict[str, Estimate] = {}
        with suppress(ValueError):  # the models were evaluated on other images
            gaps = {} if result is results[0] else result.difference(results[0])
        for name, bound in result.results.items():
            gap = gaps.get(name)
            bits = result_unit.plus_minus(bound.bits_per_dim, bound.standard_error)
            rows.append(
                (
                    f"{result.run}, {name.replace('_', ' ')}",
                    count(result.step),
                    *(bits if result_unit == unit else "" for unit in units),
                    "" if gap is None else result_unit.plus_minus(gap.mean, gap.standard_error),
                    result_unit.number(bound.ode.bits_per_dim if bound.ode else None),
                    sampler,
                    *(number(quality.scores[m.name].value if quality else None) for m in metrics),
                )
            )
    titles = (
        *(unit.title for unit in units),
        "minus the first: below 0 is better",
        "ODE",
        "sampler, grid, evaluations",
        *(metric.title for metric in metrics),
    )
    return Table(["", "step", *titles], rows, "runs").without_empty_columns()


def level_differences(results: Sequence[Evaluation]) -> list[Table]:
    """Return tables of the differences of the losses from those of the first model."""
    first, tables = results[0], []
    for result in results[1:]:
        with suppress(ValueError):  # the models were evaluated on other images
            for name, curve in result.difference_by_level(first).items():
                points = zip(curve.logsnr, curve.nats_per_dim, curve.standard_error, strict=True)
                rows = [
                    (fixed(level, 1), Cell(plus_minus(gap, error), is_bold=abs(gap) > 2 * error))
                    for level, gap, error in points
                ]
                heads = [
                    "log-SNR",
                    "loss, nats/dim per unit of log-SNR: below 0 is better; bold: beyond 2 errors",
                ]
                caption = f"{result.run} minus {first.run}, {name.replace('_', ' ')}"
                tables.append(Table(heads, rows, caption))
    return tables


def _conditions(result: Evaluation) -> Iterator[tuple[Cell, Likelihood]]:
    swatches = figures.swatches(result).items()
    for (name, swatch), bound in zip(swatches, result.results.values(), strict=True):
        yield Cell(name, swatch=swatch), bound


def terms_table(result: Evaluation) -> Table:
    unit = unit_of(result)
    rows = [
        (
            name,
            unit.plus_minus(bound.bits_per_dim, bound.standard_error),
            unit.number(bound.decoder_bpd, 3),
            unit.number(bound.diffusion_bpd),
            unit.number(bound.prior_bpd, 3),
            unit.number(bound.exact_bits_per_dim),
            unit.number(bound.measurement_error, 3),
        )
        for name, bound in _conditions(result)
    ]
    heads = ["", "total", "decoder", "diffusion", "prior", "exact", "± of noise"]
    return Table(heads, rows).without_empty_columns()


def ode_table(result: Evaluation) -> Table:
    unit = unit_of(result)
    rows = [
        (
            name,
            unit.plus_minus(ode.bits_per_dim, ode.standard_error),
            unit.number(ode.bound_bits_per_dim),
            unit.plus_minus(ode.difference, ode.difference_se),
            count(ode.num_images),
            count(ode.num_evaluations),
        )
        for name, bound in _conditions(result)
        if (ode := bound.ode)
    ]
    heads = ["", "ODE", "bound", "ODE − bound", "images", "evaluations"]
    return Table(heads, rows)


def theorem_tables(result: Evaluation) -> list[Table]:
    heads = ["", "z", "loss", "mixture", "difference", "monotone"]
    tables = []
    for name, bound in _conditions(result):
        rows = [
            (
                check.name,
                f"{'✓' if check.holds else '✗'} {signed(check.z, 2)}",
                number(check.loss),
                number(check.mixture),
                plus_minus(check.loss - check.mixture, check.difference_se),
                setting(check.is_monotone),
            )
            for check in bound.weightings
        ]
        tables.append(Table(heads, rows, "" if len(result.results) == 1 else name.text))
    return tables


def quality_table(quality: SampleQuality) -> Table:
    how, real = quality.protocol, quality.baseline
    names = (
        count(how.num_samples, "samples"),
        f"real-data baseline: {count(real.num, f'{real.split} images')}",
    )
    scores = (
        [quality.scores.get(metric.name) for metric in quality.metrics],
        [quality.real(metric) for metric in quality.metrics],
    )
    rows = [
        (name, *(plus_minus(v.value, v.standard_error) if v else NONE for v in values))
        for name, values in zip(names, scores, strict=True)
    ]
    heads = [Column(m.title, is_lower_better=m.is_lower_better) for m in quality.metrics]
    return Table(["", *heads], rows)


def level_table(result: Evaluation, name: str, num_rows: int) -> Table:
    """Return a table of the loss, "curve", or the ELBO, "elbo", at selected noise levels."""
    curves = [getattr(curve, name) for curve in result.results.values()]
    levels = curves[0].logsnr
    rows = []
    for i in evenly(len(levels), num_rows):
        values = (plus_minus(curve.nats_per_dim[i], curve.standard_error[i]) for curve in curves)
        rows.append((fixed(levels[i], 2), number(math.exp(-levels[i] / 2)), *values))
    heads = ["log-SNR", "noise/signal", *figures.swatches(result)]
    title = {
        "curve": "Loss in nats/dim per unit of log-SNR",
        "elbo": "ELBO of noisy data in nats/dim",
    }[name]
    return Table(heads, rows, title)


def floor_tables(result: Evaluation, num_rows: int) -> list[Table]:
    tables = []
    for condition, floor in (result.floors or {}).items():
        bound, title = result.results[condition], condition.replace("_", " ")
        curve, rows = bound.curve, []
        for i in evenly(len(curve.logsnr), num_rows):
            loss, error = curve.nats_per_dim[i], curve.standard_error[i]
            least, least_error = floor.loss[i], floor.standard_error[i]
            excess = plus_minus(loss - least, math.hypot(error, least_error) if error else None)
            cells = (plus_minus(loss, error), plus_minus(least, least_error), excess)
            rows.append((fixed(curve.logsnr[i], 2), *cells))
        if excess_loss := underfitting(bound, floor):
            title += f"; {percent(excess_loss.excess)} ± {percent(excess_loss.error)} above it"
            title += f" up to log-SNR {fixed(excess_loss.logsnr, 1)}"
        tables.append(Table(["log-SNR", "loss", "floor", "loss − floor"], rows, title))
    return tables


@dataclass(frozen=True)
class Underfitting:
    """Relative excess of the loss over an irreducible loss that a tenth of the images gives, too.

    Attributes:
        logsnr: The highest log-SNR that is included.
        excess: Area between loss and irreducible loss, relative to that of the irreducible loss.
        error: Upper bound on the standard error of `excess`, for perfectly correlated errors.
    """

    logsnr: float
    excess: float
    error: float


def underfitting(bound: Likelihood, floor: Floor) -> Underfitting | None:
    """Return the excess over the irreducible loss; None if that is reliable at no noise level."""
    curve = bound.curve
    # Where the standard error is 0, no image was measured, and the loss is the pilot's.
    levels = [i for i in range(floor.num_resolved) if curve.standard_error[i] > 0]
    if not levels:
        return None
    area = sum(floor.loss[i] for i in levels)
    errors = [math.hypot(curve.standard_error[i], floor.standard_error[i]) for i in levels]
    excess = sum(curve.nats_per_dim[i] for i in levels) / area - 1
    return Underfitting(floor.logsnr[levels[-1]], excess, sum(errors) / area)
