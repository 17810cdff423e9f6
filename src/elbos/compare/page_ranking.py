"""The part of a comparison's page on whether ELBOs rank models as their scores do."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from elbos.compare.figures import SCORES, ranking_figure
from elbos.compare.names import short_weighting
from elbos.compare.words import Report, correlation
from elbos.pages.parts import plot, scrollable, table

_NUM_LEVELS = 13


def ranking(report: Report) -> str:
    """Curves of rank correlation over log-SNR, and a table for monotone weightings."""
    if not (found := report["ranking"]):
        return ""
    return f"""<section class="group">
{_curves(found)}
{_weightings(found)}
{_levels(found)}
</section>"""


def _curves(ranking: Mapping[str, Any]) -> str:
    return plot(
        ranking_figure(ranking),
        name="ranking",
        heading="Does an ELBO rank models as their scores do?",
        label="Rank correlation of the ELBO at a noise level with scores, over log-SNR; numbers "
        "are in the table below.",
        saved_as="elbos-ranking",
        notes=(
            "Does the ELBO of noise-augmented test data rank models as the clean ELBO does, or as "
            "sample quality does?",
            "Spearman's rank correlation, over "
            f"{ranking['num_rows']} objectives with monotone weightings (means over "
            f"{ranking['num_seeds']} seeds): +1 where the ELBO of data with that much noise orders "
            "the models as the score does, 0 where it says nothing of it, −1 where it orders them "
            "the other way round.",
            "Bands are 95 % intervals of each level by itself, not of all levels at once.",
        ),
    )


def _weightings(ranking: Mapping[str, Any]) -> str:
    if not ranking["weightings"]:
        return ""
    rows = (
        (
            escape(short_weighting(one["name"])),
            [correlation(one.get(key)) for key in _known(ranking)],
        )
        for one in ranking["weightings"]
    )
    numbers = _table(rows, ranking, first="weighting")
    return f"""<p class="lead">The same for losses under monotone weightings, which are mixtures of
these ELBOs:</p>
{numbers}"""


def _levels(ranking: Mapping[str, Any]) -> str:
    levels = ranking["logsnr"]
    chosen = np.unique(np.linspace(0, len(levels) - 1, _NUM_LEVELS).round().astype(int)).tolist()
    rows = (
        (
            f"{levels[i]:.2f}",
            [
                correlation({part: values[i] for part, values in ranking[key].items()})
                for key in _known(ranking)
            ],
        )
        for i in chosen
    )
    numbers = _table(rows, ranking, first="log-SNR")
    return f"<details><summary>These curves as a table</summary>\n{numbers}</details>"


def _known(ranking: Mapping[str, Any]) -> list[str]:
    return [key for key in SCORES if ranking.get(key)]


def _table(rows: Any, ranking: Mapping[str, Any], *, first: str) -> str:
    head = [first, *(SCORES[key] for key in _known(ranking))]
    numbers = table(rows, head=head, is_numeric=True)
    return f'<div class="measured">{scrollable(numbers, label="Rank correlations")}</div>'
