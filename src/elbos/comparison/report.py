"""Report of a comparison: for the terminal, in Markdown and as an HTML page."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

from elbos.base.numbers import count
from elbos.base.report import Heading, Paragraph, Part, Picture, Plot, Report
from elbos.base.tables import named
from elbos.comparison.result import Comparison
from elbos.comparison.tables import differences_table, results_table

_NOTES = (
    "A monotone weighting never rises with the log-SNR, that is, from noisy images to clean ones. "
    "Training with one maximizes a lower bound on the likelihood of data with Gaussian noise added "
    "to it.",
    "Objectives of one seed share network, initial weights, order of the data and noise. Without "
    "scores of all seeds an objective is shown, and not compared.",
    "Verdicts hold if objectives and seeds were chosen before any results were seen: confirm a "
    "choice made later with fresh seeds alone, as --seeds 10 11 12 13 14. They are about training "
    "again on the same data, not about other images.",
)


def terminal(comparison: Comparison) -> Report:
    """Show differences, results, and the findings in words."""
    new = [pair for pair in comparison.pairs if comparison.complete[0].name not in pair]
    parts: list[Part] = [
        differences_table(comparison, [*_from_first(comparison), *new]),
        results_table(comparison, is_short=True),
        *map(Paragraph, [*_failures(comparison), _marks(comparison), *_findings(comparison)]),
    ]
    return Report(title=comparison.name, parts=parts)


def page(comparison: Comparison, samples: Mapping[str, bytes]) -> Report:
    """Show everything, with curves and with sample images by objective."""
    return Report(
        title=comparison.name,
        parts=[*_in_full(comparison, samples)],
        command=comparison.command,
        data={"comparison": comparison.to_dict()},
    )


def _from_first(comparison: Comparison) -> list[tuple[str, str]]:
    return [(o.name, comparison.complete[0].name) for o in comparison.complete[1:]]


def _in_full(comparison: Comparison, samples: Mapping[str, bytes]) -> Iterator[Part]:
    if comparison.differences:
        yield Heading(f"Each minus {comparison.complete[0].name}")
        yield differences_table(comparison, _from_first(comparison))
    yield Heading("Every objective")
    yield results_table(comparison)
    yield Paragraph(_marks(comparison))
    yield from map(Paragraph, [*_findings(comparison), *_failures(comparison)])
    if comparison.pairs:
        yield Heading("Matched pairs: of each, one weighting is monotone and the other is not")
        yield differences_table(comparison, comparison.pairs)
    if samples:
        yield Heading("Samples")
        text = "All objectives begin with the same noise: a column shows what each makes of it."
        yield Paragraph(text)
        yield from (
            Picture(samples[o.name], o.name) for o in comparison.objectives if o.name in samples
        )
    yield from _plots(comparison)
    yield Heading("Notes")
    yield from (Paragraph(line) for line in _NOTES)
    data = ("data", "num_levels", "num_test_images", "num_baseline", "num_samples")
    shown = {
        name: getattr(comparison, name) for name in ("seeds", "num_images", "num_parameters", *data)
    }
    yield from (Heading("Protocol"), named({**shown, **comparison.protocol}))


def _failures(comparison: Comparison) -> list[str]:
    return [
        f"{objective.name}-{failure.seed}: {failure.reason}"
        for objective in comparison.objectives
        for failure in objective.failures
    ]


def _findings(comparison: Comparison) -> Iterator[str]:
    complete = comparison.complete
    if len(complete) < 2:
        yield "There are not two objectives with scores yet: nothing can be compared."
    elif len(comparison.seeds) == 1:
        yield (
            f"One seed of {count(len(complete), 'objectives')}: a difference between two of them "
            "may be chance. Give the same command more --seeds for intervals."
        )
    elif len(complete) > 2 and comparison.pairs:
        verdicts = planned_verdicts(comparison)
        yield (
            "Of each planned pair, which differs only in whether the weighting is monotone, the "
            f"monotone one scored significantly better in {verdicts['better']} and worse in "
            f"{verdicts['worse']} of {verdicts.total()} comparisons."
        )
    if comparison.long_warmup:
        yield f"The training is short: {comparison.long_warmup}."


def planned_verdicts(comparison: Comparison) -> Counter[str | None]:
    """Count the verdicts on monotone weightings in the planned pairs."""
    return Counter(
        comparison.difference(*pair, metric).verdict(metric)
        for pair, metric in itertools.product(comparison.pairs, comparison.main_metrics)
    )


def _marks(comparison: Comparison) -> str:
    """Explain the marks and the metrics of the table of results."""
    text = "± is the standard deviation over seeds." if len(comparison.seeds) > 1 else ""
    if comparison.statistics:
        shorts = "; ".join(metric.short for metric in comparison.main_metrics)
        text += (
            f" ★ the best mean of a main metric ({shorts}). ☆ no significant difference from it. "
            "Unresolved: scatters over seeds more than ten times as much as is typical, too much "
            "to be compared. All verdicts together are right with 95 % confidence; other metrics "
            "have none."
        )
    spelt = {m.short.partition(",")[0]: m.title.partition(",")[0] for m in comparison.metrics}
    metrics = [f"{short}: {title}" for short, title in spelt.items() if short != title]
    return f"{text} {'; '.join(metrics)}".strip()


def _plots(comparison: Comparison) -> Iterator[Part]:
    from elbos.comparison import figures  # plotly, which the terminal does not need

    if learning := figures.learning_figure(comparison):
        yield from (Heading("Learning curves"), Plot(learning))
        yield Paragraph(
            "Bits/dim of validation images, less is better; mean over seeds. Dashed: not monotone.",
        )
    if levels := figures.levels_figure(comparison):
        yield from (Heading("By noise level"), Plot(levels))
        yield Paragraph(
            "The ELBO of test images with noise added, as a loss in nats/dim: below 0 is better. "
            "Its right end is the clean ELBO, but for the decoder's term. The loss at a noise "
            "level is its slope: an objective below 0 in the second panel denoises better there.",
        )
    yield Heading("Weighting and noise levels of each objective")
    yield Plot(figures.weightings_figure(comparison))
    yield Paragraph(
        "The weighting w(λ), scaled to its maximum and dashed if it is not monotone, and the "
        "density p(λ) of the noise levels trained on. Left is noise, right is data.",
    )
