"""The part of a comparison's page on whether ELBOs rank models as their scores do."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from elbos.comparison.figures import ranking_figure
from elbos.comparison.names import short_weighting
from elbos.comparison.words import Report, correlation, ranked
from elbos.report.parts import plot, scrollable, table

_NUM_LEVELS = 13

Titles = Mapping[str, str]  # of scores, by key


def ranking(report: Report) -> str:
    """Curves of rank correlation over log-SNR, and a table for monotone weightings."""
    if not (found := report["ranking"]):
        return ""
    titles = ranked(report)
    return f"""<section class="group">
{_curves(found, titles)}
{_weightings(found, titles)}
{_levels(found, titles)}
</section>"""


def _curves(ranking: Mapping[str, Any], titles: Titles) -> str:
    largest = "; ".join(
        f"{escape(title)}, p = {ranking[key]['p_value']:.2g}"
        for key, title in titles.items()
        if ranking[key]["p_value"] is not None
    )
    return plot(
        ranking_figure(ranking, titles),
        name="ranking",
        heading="Does an ELBO rank models as their scores do?",
        label="Rank correlation of the ELBO at a noise level with scores, over log-SNR; numbers "
        "are in the table below.",
        saved_as="elbos-ranking",
        notes=(
            "Does the ELBO of noise-augmented test data rank models as the clean ELBO does, or as "
            "sample quality does?",
            f"Spearman's rank correlation over {ranking['num_weightings']} monotone weightings, "
            f"each the mean of its objectives ({ranking['num_rows']} in all) and "
            f"{ranking['num_seeds']} seeds: +1 where the ELBO of data with that much noise orders "
            "the models as the score does, 0 where it says nothing of it, −1 where it orders them "
            "the other way round.",
            "Bands are 95 % intervals of each noise level by itself. Of the highest correlation of "
            f"all noise levels, by permutation of the weightings: {largest}.",
        ),
    )


def _weightings(ranking: Mapping[str, Any], titles: Titles) -> str:
    if not ranking["weightings"]:
        return ""
    rows = (
        (
            escape(short_weighting(one["name"])),
            [correlation(one.get(key)) for key in titles],
        )
        for one in ranking["weightings"]
    )
    numbers = _table(rows, titles, first="weighting")
    return f"""<p class="lead">The same for losses under monotone weightings, which are mixtures of
these ELBOs:</p>
{numbers}"""


def _levels(ranking: Mapping[str, Any], titles: Titles) -> str:
    levels = ranking["logsnr"]
    chosen = np.unique(np.linspace(0, len(levels) - 1, _NUM_LEVELS).round().astype(int)).tolist()
    rows = (
        (
            f"{levels[i]:.2f}",
            [
                correlation({end: ranking[key][end][i] for end in ("rho", "low", "high")})
                for key in titles
            ],
        )
        for i in chosen
    )
    numbers = _table(rows, titles, first="log-SNR")
    return f"<details><summary>These curves as a table</summary>\n{numbers}</details>"


def _table(rows: Any, titles: Titles, *, first: str) -> str:
    head = [first, *titles.values()]
    numbers = table(rows, head=head, is_numeric=True)
    return f'<div class="measured">{scrollable(numbers, label="Rank correlations")}</div>'
