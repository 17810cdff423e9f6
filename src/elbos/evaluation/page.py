"""Tables of an evaluation, for the terminal and for a page."""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from elbos import __version__
from elbos.base.html import document, write_html
from elbos.base.numbers import count, fixed, number, percent, plus_minus, setting, signed
from elbos.base.tables import Cell, Column, Row, Table, evenly, settings
from elbos.evaluation import figures
from elbos.evaluation.metrics import FRECHET_DISTANCE
from elbos.evaluation.result import MAX_Z, Evaluation, Likelihood, TheoremCheck
from elbos.evaluation.scores import SampleQuality, SampleSets, Scores, Sweep
from elbos.theory.floor import Floor
from elbos.validation.result import NATS_PER_BIT

_NUM_LEVELS = 13  # rows in tables of curves


@dataclass(frozen=True)
class Unit:
    """A unit of likelihood: bits/dim for images and points, nats/dim for latents.

    Attributes:
        name: Name of the unit, per dimension.
        per_bit: Number of units per bit.
        note: Text that follows the name.
    """

    name: str
    per_bit: float
    note: str = ""

    @property
    def title(self) -> str:
        """The unit's name, followed by its note."""
        return self.name + self.note

    def plus_minus(self, bits: float, error: float) -> str:
        """Format a value and its error, both given in bits/dim, in this unit."""
        return plus_minus(bits * self.per_bit, error * self.per_bit)

    def number(self, bits: float | None, places: int = 4) -> str:
        """Format a value, given in bits/dim, in this unit."""
        return number(None if bits is None else bits * self.per_bit, places)


BITS = Unit("bits/dim", 1.0)
NATS_OF_LATENTS = Unit("nats/dim", NATS_PER_BIT, " of latents, up to a constant")


def unit_of(result: Evaluation) -> Unit:
    """Return the unit of an evaluation's likelihoods: bits/dim, or nats/dim for latents."""
    return NATS_OF_LATENTS if result.is_of_latents else BITS


def evaluation_page(
    result: Evaluation, *, samples: bytes | None = None, command: str | None = None
) -> str:
    """Render an evaluation as a self-contained HTML page; missing measurements are omitted.

    Args:
        result: The evaluation, also embedded as JSON in `<script id="elbos-evaluation">`.
        samples: A picture of samples, as PNG.
        command: The command that reproduces the evaluation.
    """
    return document(
        "evaluation/page.html",
        result=result,
        command=command,
        samples=None if samples is None else base64.b64encode(samples).decode(),
        content={"elbos": __version__, "command": command, "evaluation": result.to_dict()},
        conditions=figures.swatches(result),
        checks=[check for one in result.results.values() for check in one.weightings],
        ode=next((one.ode for one in result.results.values() if one.ode), None),
        max_z=MAX_Z,
        unit=unit_of(result),
        figures=figures,
        floor_figure=figures.floor_figure,
        underfitting=underfitting,
        tables=_page_tables(result),
    )


def write_page(
    result: Evaluation, path: Path, *, samples: bytes | None = None, command: str | None = None
) -> None:
    """Render an evaluation as an HTML page, and write the page to a file atomically.

    Raises:
        OSError: If the page cannot be written; the message names `path`.
    """
    write_html(path, evaluation_page(result, samples=samples, command=command))


def _page_tables(result: Evaluation) -> dict[str, Table | list[Table]]:
    return {
        "terms": terms_table(result),
        "ode": ode_table(result),
        "theorem": theorem_tables(result),
        "training": training_table(result),
        "levels": [level_table(result, name) for name in ("curve", "elbo")],
        "floors": floor_tables(result, _NUM_LEVELS),
        **({"quality": quality_table(result.quality)} if result.quality else {}),
        **({"sweep": sweep_table(result.sweep)} if result.sweep else {}),
    }


def evaluation_tables(result: Evaluation) -> list[Table]:
    """Return the tables of all measurements of an evaluation, for the terminal."""
    images = count(result.num_images, f"{result.split} images")
    unit = unit_of(result).title
    captions = {
        f"{result.run}: trained": training_table(result),
        f"{result.run}: the bound in {unit} on {images}": terms_table(result),
        f"ODE likelihood in {unit}": ode_table(result),
        "loss by noise level in nats/dim": level_table(result, "curve", 8),
    }
    tables = [replace(table, caption=caption) for caption, table in captions.items() if table.rows]
    for_floor = "loss and floor in nats/dim, "
    tables += [replace(t, caption=for_floor + t.caption) for t in floor_tables(result, 8)]
    for table in theorem_tables(result):
        name = f", {table.caption}" if table.caption else ""
        tables.append(replace(table, caption=f"weighted loss and mixture of ELBOs{name}"))
    if quality := result.quality:
        how = quality.protocol
        caption = (
            f"{count(how.num_samples, 'samples')}: {how.sampler} on {how.grid}, "
            f"{count(how.num_evaluations, 'evaluations')}, guidance {how.guidance:g}; features of "
            f"{how.extractor}, against {count(how.num_reference, f'{how.reference} images')}"
        )
        tables.append(replace(quality_table(quality), caption=caption))
    if sweep := result.sweep:
        caption = f"Fréchet distance of {count(sweep.num_samples, 'samples')} by evaluations"
        tables.append(replace(sweep_table(sweep), caption=caption))
    return tables


def training_table(result: Evaluation) -> Table:
    """Tabulate the known training settings of the evaluated model."""
    known = {name: value for name, value in asdict(result.trained).items() if value is not None}
    return settings(known)


def runs_table(results: Sequence[Evaluation]) -> Table:
    """Tabulate the results of several models, with one row per model and condition."""
    scored = [result.quality for result in results if result.quality]
    metrics = [m for m in (scored[0].metrics if scored else []) if not m.name.endswith("_score")]
    units = list(dict.fromkeys(map(unit_of, results)))
    rows = [
        (
            f"{result.run}, {name.replace('_', ' ')}",
            count(result.step),
            *(
                unit.plus_minus(one.bits_per_dim, one.standard_error)
                if unit_of(result) is unit
                else ""
                for unit in units
            ),
            unit_of(result).number(one.ode.bits_per_dim if one.ode else None),
            *(number(result.quality.samples[m].value if result.quality else None) for m in metrics),
        )
        for result in results
        for name, one in result.results.items()
    ]
    heads = [
        "",
        "step",
        *(unit.title for unit in units),
        "ODE",
        *(metric.title for metric in metrics),
    ]
    return Table(heads, rows, "runs").without_empty_columns()


def _conditions(result: Evaluation) -> Iterator[tuple[Cell, Likelihood]]:
    swatches = figures.swatches(result).items()
    for (name, swatch), one in zip(swatches, result.results.values(), strict=True):
        yield Cell(name, swatch=swatch), one


def terms_table(result: Evaluation) -> Table:
    """Tabulate the variational bound and its terms for each condition."""
    unit = unit_of(result)
    rows = [
        (
            name,
            unit.plus_minus(one.bits_per_dim, one.standard_error),
            unit.number(one.decoder_bpd, 3),
            unit.number(one.diffusion_bpd),
            unit.number(one.prior_bpd, 3),
            unit.number(one.exact_bits_per_dim),
            unit.number(one.measurement_error, 3),
        )
        for name, one in _conditions(result)
    ]
    heads = ["", "total", "decoder", "diffusion", "prior", "exact", "± of noise"]
    return Table(heads, rows).without_empty_columns()


def ode_table(result: Evaluation) -> Table:
    """Tabulate the ODE likelihood beside the variational bound for each condition."""
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
        for name, one in _conditions(result)
        if (ode := one.ode)
    ]
    heads = ["", "ODE", "bound", "ODE − bound", "images", "evaluations"]
    return Table(heads, rows)


def theorem_tables(result: Evaluation) -> list[Table]:
    """Tabulate the weighted loss and the mixture of ELBOs by weighting, one table per condition."""
    heads = ["", "z", "loss", "mixture", "difference", "monotone"]
    is_single = len(result.results) == 1
    return [
        Table(heads, [_theorem_row(w) for w in one.weightings], "" if is_single else name.text)
        for name, one in _conditions(result)
    ]


def _theorem_row(check: TheoremCheck) -> Row:
    return (
        check.name,
        f"{'✓' if check.holds else '✗'} {signed(check.z, 2)}",
        number(check.loss),
        number(check.mixture),
        plus_minus(check.loss - check.mixture, check.difference_se),
        setting(check.is_monotone),
    )


def quality_table(quality: SampleQuality) -> Table:
    """Tabulate the scores of each set of samples, their mean, and the real-data baseline."""
    heads = [Column(m.title, is_lower_better=m.is_lower_better) for m in quality.metrics]
    rows = _set_rows(quality, quality.samples, count(quality.samples.num, "samples"))
    if matched := quality.matched:
        rows += _set_rows(quality, matched, f"the first {count(matched.num, 'samples')}")
    real = quality.baseline
    name = f"real-data baseline: {count(real.num, f'{real.split} images')}"
    rows.append((name, *_score_cells(quality, real.scores)))
    return Table(["", *heads], rows)


def _set_rows(quality: SampleQuality, found: SampleSets, samples: str) -> list[Row]:
    rows: list[Row] = [
        (f"seed {one.seed}, {samples}", *_score_cells(quality, one.scores)) for one in found.sets
    ]
    if len(found.sets) > 1:
        name = f"mean of {len(found.sets)} seeds, {samples}"
        rows.append((name, *_score_cells(quality, found)))
    return rows


def _score_cells(quality: SampleQuality, scores: Scores | SampleSets) -> list[str]:
    found = (scores[metric] for metric in quality.metrics)
    return [plus_minus(one.value, one.standard_error) for one in found]


def sweep_table(sweep: Sweep) -> Table:
    """Tabulate Fréchet distances by sampler and grid against the number of network evaluations."""
    counts = sorted({point.protocol.num_evaluations for point in sweep.points})
    rows = []
    for (sampler, grid), points in figures.sweep_lines(sweep).items():
        found = {p.protocol.num_evaluations: p.scores[FRECHET_DISTANCE].value for p in points}
        rows.append((f"{sampler}, {grid}", *(number(found.get(num)) for num in counts)))
    baseline = figures.sweep_baseline(sweep)
    foot = [] if baseline is None else [("real data", *[number(baseline)] * len(counts))]
    return Table(["", *map(count, counts)], rows, foot=foot)


def level_table(result: Evaluation, name: str, num_rows: int = _NUM_LEVELS) -> Table:
    """Tabulate the loss ("curve") or ELBO ("elbo") of each condition at selected noise levels."""
    curves = [getattr(one, name) for one in result.results.values()]
    levels = curves[0].logsnr
    rows = []
    for i in evenly(len(levels), num_rows):
        values = (plus_minus(one.nats_per_dim[i], one.standard_error[i]) for one in curves)
        rows.append((fixed(levels[i], 2), number(math.exp(-levels[i] / 2)), *values))
    heads = ["log-SNR", "noise/signal", *figures.swatches(result)]
    title = {"curve": "Loss in nats/dim", "elbo": "ELBO of noisy data in nats/dim"}[name]
    return Table(heads, rows, title)


def floor_tables(result: Evaluation, num_rows: int) -> list[Table]:
    """Tabulate the loss, the irreducible loss and the excess at selected noise levels, one table
    per condition.
    """
    return [
        _floor_table(result.results[name], floor, name.replace("_", " "), num_rows)
        for name, floor in (result.floors or {}).items()
    ]


def _floor_table(one: Likelihood, floor: Floor, name: str, num_rows: int) -> Table:
    curve = one.curve
    rows = []
    for i in evenly(len(curve.logsnr), num_rows):
        loss, error = curve.nats_per_dim[i], curve.standard_error[i]
        least, least_error = floor.loss[i], floor.standard_error[i]
        excess = plus_minus(loss - least, math.hypot(error, least_error) if error else None)
        cells = (plus_minus(loss, error), plus_minus(least, least_error), excess)
        rows.append((fixed(curve.logsnr[i], 2), *cells))
    heads = ["log-SNR", "loss", "floor", "loss − floor"]
    if found := underfitting(one, floor):
        name += f"; {percent(found.excess)} ± {percent(found.error)} above it"
        name += f" up to log-SNR {fixed(found.logsnr, 1)}"
    return Table(heads, rows, name)


@dataclass(frozen=True)
class Underfitting:
    """Relative excess of the loss over the irreducible loss, on the noise levels where a tenth of
    the training images has the same irreducible loss.

    Attributes:
        logsnr: The highest log-SNR that is included.
        excess: Area between loss and irreducible loss, relative to that of the irreducible loss.
        error: Upper bound on the standard error of `excess`, reached if the errors at all noise
            levels are perfectly correlated.
    """

    logsnr: float
    excess: float
    error: float


def underfitting(one: Likelihood, floor: Floor) -> Underfitting | None:
    """Compute the relative excess of the loss over the irreducible loss on the resolved noise
    levels; None if no noise level is resolved.

    Levels at which the loss has zero standard error are excluded: no image was measured there, and
    the loss is an estimate from the pilot.
    """
    curve = one.curve
    levels = [i for i in range(floor.num_resolved) if curve.standard_error[i] > 0]
    if not levels:
        return None
    area = sum(floor.loss[i] for i in levels)
    errors = [math.hypot(curve.standard_error[i], floor.standard_error[i]) for i in levels]
    excess = sum(curve.nats_per_dim[i] for i in levels) / area - 1
    return Underfitting(floor.logsnr[levels[-1]], excess, sum(errors) / area)
