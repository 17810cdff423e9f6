r"""An evaluation as one HTML page: what the numbers are, how sure, and what they mean.

The page is whole in itself; `elbos.report` makes it so. The numbers are in
`<script id="elbos-evaluation">`, as JSON. What was not measured is left out.
"""

import base64
import json
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from elbos import __version__, files
from elbos.evaluation import page_likelihood, page_quality
from elbos.evaluation.figures import BASELINE_COLOR, colored
from elbos.evaluation.words import (
    METRICS,
    bits_in_words,
    compared,
    distance_in_words,
    mean_and_std,
    metrics,
    number,
    plus_minus,
)
from elbos.report.document import document, finite, island
from elbos.report.parts import footer, header, scrollable, table

_NUM_ROWS = 13


def write_evaluation_page(
    result: Mapping[str, Any],
    path: Path,
    *,
    samples: bytes | None = None,
    command: str | None = None,
) -> None:
    """Write `evaluation_page` to a file, whole or not at all.

    Raises:
        OSError: If that is impossible; it names `path`.
    """
    html = evaluation_page(result, samples=samples, command=command)
    files.write(path, html.encode(errors="replace"))


def evaluation_page(
    result: Mapping[str, Any], *, samples: bytes | None = None, command: str | None = None
) -> str:
    """One HTML page that needs nothing else.

    Args:
        result: What eval.json holds. All but "results" may be absent, or null.
        samples: A picture of samples, as PNG.
        command: What to type to get the same again, for the reader.
    """
    result = finite(result)
    content = {"elbos": __version__, "command": command, "evaluation": result}
    title = result.get("run") or "a trained model"
    body = "\n".join(
        [
            header("elbos evaluate", title),
            _extent(result),
            "<main>",
            *(_headlines(result), _samples(samples)),
            *(page_likelihood.curves(result), page_likelihood.terms(result)),
            *(page_likelihood.ode(result), page_likelihood.theorem(result)),
            *(page_quality.quality(result), page_quality.sweep(result)),
            *(_settings(result, "trained", "Training"), _settings(result, "protocol", "Protocol")),
            _numbers(result),
            "</main>",
            footer(command),
            island("elbos-evaluation", json.dumps(content, allow_nan=False)),
        ]
    )
    return document(f"{title} · elbos evaluate", body)


def _extent(result: Mapping[str, Any]) -> str:
    """How long was trained, and on how much was measured."""
    images = f"{result.get('split') or 'test'} images"
    extents = {
        "images seen": result.get("images_seen"),
        images: result.get("num_images"),
        "network evaluations": result.get("num_evaluations"),
    }
    known = [f"{num:,} {what}" for what, num in extents.items() if num is not None]
    if (step := result.get("step")) is not None:
        known.insert(0, f"step {step:,}")
    return f'<p class="kicker">{escape(" · ".join(known))}</p>'


def _headlines(result: Mapping[str, Any]) -> str:
    cards = []
    for name, row, color in colored(result["results"]):
        of = f", {escape(name)}" if len(result["results"]) > 1 else ""
        bits = plus_minus(row.get("bits_per_dim"), row.get("standard_error"))
        cards.append(_card(f"Bits/dim{of}", bits, bits_in_words(result, row), color))
    quality = result.get("quality") or {}
    cards += [_distance(quality, key) for key in metrics(quality)[:1]]
    return f'<div class="headlines">{"".join(cards)}</div>'


def _distance(quality: Mapping[str, Any], key: str) -> str:
    mean, error = mean_and_std(compared(quality, key), key)
    if error is None and len(sets := quality.get("sets") or []) == 1:
        error = sets[0].get(f"{key}_se")
    baseline = quality.get("baseline") or {}
    real = plus_minus(baseline.get(key), baseline.get(f"{key}_se"))
    beside = "" if baseline.get(key) is None else f" <small>real-data baseline {real}</small>"
    title = METRICS[key][0].upper() + METRICS[key][1:]
    value = plus_minus(mean, error) + beside
    return _card(title, value, distance_in_words(quality, key), BASELINE_COLOR)


def _card(title: str, value: str, text: str, color: str) -> str:
    return f"""<section class="verdict" style="--kind: {color}">
<h2>{title}</h2>
<p class="big">{value}</p>
<p>{escape(text)}</p>
</section>"""


def _samples(png: bytes | None) -> str:
    if png is None:
        return ""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f"""<section>
<h2>Samples</h2>
<img class="samples" src="{source}" alt="Samples of the model">
</section>"""


def _settings(result: Mapping[str, Any], key: str, heading: str) -> str:
    if not (settings := result.get(key)):
        return ""
    return f"<section>\n<h2>{heading}</h2>\n{page_quality.settings_table(settings)}\n</section>"


def _numbers(result: Mapping[str, Any]) -> str:
    tables = [
        _number_table(row[key], title=f"{title}, {name}")
        for key, title in (("curve", "Loss"), ("elbo", "ELBO of noisy data"))
        for name, row, _ in colored(result["results"])
        if row.get(key)
    ]
    content = "".join([*tables, page_quality.sweep_table(result)])
    if not content:
        return ""
    return f"""<details><summary>The curves as a table</summary>
<div class="columns">{content}</div></details>"""


def _number_table(curve: Mapping[str, Any], *, title: str) -> str:
    levels, values = curve["logsnr"], curve["nats_per_dim"]
    errors = curve.get("standard_error") or [None] * len(levels)
    rows = [
        (f"{levels[i]:.2f}", [number(math.exp(-levels[i] / 2)), plus_minus(values[i], errors[i])])
        for i in np.unique(np.linspace(0, len(levels) - 1, _NUM_ROWS).round().astype(int)).tolist()
    ]
    head = ("log-SNR", "noise/signal", "nats/dim")
    caption = escape(title)
    return scrollable(table(rows, head=head, caption=caption, is_numeric=True), label=title)
