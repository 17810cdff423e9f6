"""Reports of evaluations, for the terminal and as an HTML page, and their figure."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from plotly.graph_objects import Figure

from elbos.base.numbers import NONE, count, fixed, number, plus_minus, setting, signed
from elbos.base.report import Heading, Paragraph, Part, Picture, Plot, Report
from elbos.base.tables import Bold, Column, Table, evenly, named
from elbos.evaluation.metrics import Value
from elbos.evaluation.result import MAX_Z, Evaluation, Likelihood, SampleQuality
from elbos.validation import Estimate
from elbos.validation.figures import by_level_figure


def page(results: Sequence[Evaluation], command: str | None = None) -> Report:
    """Describe evaluations in full, with sample images.

    Several begin with their differences from the first, paired over the images.
    """
    contents = [result.to_dict() for result in results]
    return Report(
        title=", ".join(result.run for result in results),
        parts=[*_in_full(results)],
        command=command,
        data={"evaluation": contents[0] if len(contents) == 1 else contents},
    )


def terminal(result: Evaluation) -> Report:
    """Show the tables of an evaluation."""
    parts = [part for part in _measured(result, num_rows=8) if isinstance(part, Heading | Table)]
    title = Heading(f"{result.run}: trained")
    return Report(title=result.run, parts=[title, named(result.trained), *parts])


def terminal_of_several(results: Sequence[Evaluation]) -> Report:
    """Show a table of the results of several models, and of their differences from the first."""
    return Report(title="runs", parts=[runs_table(results), *level_differences(results)])


def curves_figure(result: Evaluation) -> Figure:
    """Plot the loss and the ELBO of noisy data over log-SNR."""
    return by_level_figure({name: (b.curve, b.elbo) for name, b in _conditions(result)})


def _in_full(results: Sequence[Evaluation]) -> Iterator[Part]:
    if len(results) > 1:
        yield Heading("Minus the first, paired over the images")
        yield from (runs_table(results), *level_differences(results))
    for result in results:
        if len(results) > 1:
            yield Heading(result.run)
        images = count(result.num_images, f"{result.split} images".removeprefix("all "))
        evaluations = count(result.num_evaluations, "network evaluations")
        step = "" if result.step is None else f"step {count(result.step)} · "
        yield Paragraph(f"{step}{images} · {evaluations}")
        for name, bound in _conditions(result):
            value = plus_minus(bound.bits_per_dim, bound.standard_error)
            yield Paragraph(f"bits/dim, {name}: {value}", "lead")
        yield Paragraph(
            "An upper bound on −log₂ p per dimension, a colour of a pixel: less is better."
        )
        if result.quality and result.quality.picture:
            text = f"Samples of {result.run}"
            yield from (Heading("Samples"), Picture(result.quality.picture, text))
        yield from (Heading("By noise level"), Plot(curves_figure(result)))
        yield Paragraph(
            "Loss: half the squared error of the predicted noise. Its area is the diffusion term "
            "of the bound. ELBO of noisy data: the loss added up from the left, where there is "
            "only noise. Every weighted loss is a mixture of these.",
        )
        yield from _measured(result, num_rows=13)
        yield from (Heading("Training"), named(result.trained))
        yield from (Heading("Protocol"), _settings(result.protocol))
        if result.quality:
            yield from (Heading("Protocol of the samples"), _settings(result.quality.protocol))


def _measured(result: Evaluation, num_rows: int) -> Iterator[Part]:
    """Describe what was measured, each in a table under a heading."""
    images = count(result.num_images, f"{result.split} images".removeprefix("all "))
    yield Heading(f"The bound, term by term, in bits/dim on {images}")
    yield terms_table(result)
    yield Paragraph(
        "± is the standard error over images and noise; that of noise is how far another "
        "measurement on the same images would differ.",
    )
    if ode := next((bound.ode for bound in result.results.values() if bound.ode), None):
        dequantization = f", {ode.dequantization} dequantization" if ode.dequantization else ""
        yield Paragraph(
            f"ODE: the probability flow of {count(ode.num_images, 'images')}, and its difference "
            f"from their bound: below zero, the flow is better. float32, {ode.trace} trace"
            f"{dequantization}, tolerance {ode.rtol}.",
        )
    yield Heading("The curves as tables")
    yield level_table(result, "curve", "Loss in nats/dim per unit of log-SNR", num_rows)
    yield level_table(result, "elbo", "ELBO of noisy data in nats/dim", num_rows)
    if checks := [check for bound in result.results.values() for check in bound.weightings]:
        yield Heading("The theorem, measured: weighted loss and mixture of ELBOs")
        num = sum(check.holds for check in checks)
        yield Paragraph(
            "A weighted loss is a mixture of the ELBOs above. Both sides were measured, in nats "
            "per dimension; z is their difference in standard errors. "
            f"{num} of {len(checks)} agree (✓: within ±{MAX_Z:.0f})."
        )
        yield theorem_table(result)
    if quality := result.quality:
        yield Heading("Sample quality")
        yield quality_table(quality)
        yield Paragraph(
            "± is the jackknife's standard error. All but the kernel distance depends on the "
            "number of images, and has a real-data baseline only if there are as many test images "
            "as samples. There are as many samples of each class.",
        )


def _settings(value: Any) -> Table:
    """Return a table of the fields of a dataclass, without unknown ones."""
    return named({name: item for name, item in asdict(value).items() if item is not None})


def runs_table(results: Sequence[Evaluation]) -> Table:
    scored = next((result.quality for result in results if result.quality), None)
    metrics = scored.metrics if scored else []
    rows = []
    for result in results:
        sampler, scores = "", dict[str, Value]()
        if quality := result.quality:
            how, scores = quality.protocol, dict(quality.scores)
            sampler = f"{how.sampler.partition('(')[0]}, {count(how.num_evaluations)}"
        gaps: dict[str, Estimate] = {}
        with suppress(ValueError):  # the models were evaluated on other images
            gaps = {} if result is results[0] else result.difference(results[0])
        for name, bound in result.results.items():
            gap = gaps.get(name)
            row = (
                f"{result.run}, {name.replace('_', ' ')}",
                count(result.step),
                plus_minus(bound.bits_per_dim, bound.standard_error),
                "" if gap is None else plus_minus(gap.mean, gap.standard_error),
                number(bound.ode.bits_per_dim if bound.ode else None),
                sampler,
                *(number(scores[m.name].value if m.name in scores else None) for m in metrics),
            )
            rows.append(row)
    heads = ["", "step", "bits/dim", "minus the first: below 0 is better", "ODE"]
    heads += ["sampler, evaluations", *(metric.title for metric in metrics)]
    return Table(heads, rows, "runs").without_empty_columns()


def level_differences(results: Sequence[Evaluation]) -> list[Table]:
    """Return tables of the differences of the losses from those of the first model."""
    first, tables = results[0], []
    for result in results[1:]:
        with suppress(ValueError):  # the models were evaluated on other images
            for name, curve in result.difference_by_level(first).items():
                points = zip(curve.logsnr, curve.nats_per_dim, curve.standard_error, strict=True)
                rows = []
                for level, gap, error in points:
                    text = plus_minus(gap, error)
                    rows.append((fixed(level, 1), Bold(text) if abs(gap) > 2 * error else text))
                head = "loss, nats/dim per unit of log-SNR: below 0 better; bold: beyond 2 errors"
                caption = f"{result.run} minus {first.run}, {name.replace('_', ' ')}"
                tables.append(Table(["log-SNR", head], rows, caption))
    return tables


def _conditions(result: Evaluation) -> list[tuple[str, Likelihood]]:
    return [(name.replace("_", " "), bound) for name, bound in result.results.items()]


def terms_table(result: Evaluation) -> Table:
    rows = []
    for name, bound in _conditions(result):
        ode = bound.ode
        row = (
            name,
            plus_minus(bound.bits_per_dim, bound.standard_error),
            number(bound.decoder_bpd, 3),
            number(bound.diffusion_bpd),
            number(bound.prior_bpd, 3),
            number(bound.measurement_error, 3),
            plus_minus(ode.bits_per_dim, ode.standard_error) if ode else "",
            plus_minus(ode.difference, ode.difference_se) if ode else "",
        )
        rows.append(row)
    heads = ["", "total", "decoder", "diffusion", "prior", "± of noise"]
    return Table([*heads, "ODE", "ODE − bound"], rows).without_empty_columns()


def theorem_table(result: Evaluation) -> Table:
    rows = [
        (
            check.name if len(result.results) == 1 else f"{check.name}, {name}",
            f"{'✓' if check.holds else '✗'} {signed(check.z, 2)}",
            number(check.loss),
            number(check.mixture),
            plus_minus(check.loss - check.mixture, check.difference_se),
            setting(check.is_monotone),
        )
        for name, bound in _conditions(result)
        for check in bound.weightings
    ]
    return Table(["", "z", "loss", "mixture", "difference", "monotone"], rows)


def quality_table(quality: SampleQuality) -> Table:
    how = quality.protocol
    baseline = f"real-data baseline: {count(quality.num_baseline, 'test images')}"
    scores = {
        count(how.num_samples, "samples"): [quality.scores.get(m.name) for m in quality.metrics],
        baseline: [quality.real(metric) for metric in quality.metrics],
    }
    rows = [
        (name, *(plus_minus(v.value, v.standard_error) if v else NONE for v in values))
        for name, values in scores.items()
    ]
    heads = [Column(m.title, is_lower_better=m.is_lower_better) for m in quality.metrics]
    caption = (
        f"{count(how.num_samples, 'samples')}: {how.sampler} on {how.grid}, "
        f"{count(how.num_evaluations, 'evaluations')}, guidance {how.guidance:g}; features of "
        f"{how.extractor}, against {count(how.num_reference, f'{how.reference} images')}"
    )
    return Table(["", *heads], rows, caption)


def level_table(result: Evaluation, name: str, title: str, num_rows: int) -> Table:
    """Return a table of a curve, "curve" or "elbo", at selected noise levels."""
    curves = [getattr(bound, name) for bound in result.results.values()]
    levels = curves[0].logsnr
    rows = []
    for i in evenly(len(levels), num_rows):
        values = (plus_minus(curve.nats_per_dim[i], curve.standard_error[i]) for curve in curves)
        rows.append((fixed(levels[i], 2), number(math.exp(-levels[i] / 2)), *values))
    heads = ["log-SNR", "noise/signal", *(name for name, _ in _conditions(result))]
    return Table(heads, rows, title)
