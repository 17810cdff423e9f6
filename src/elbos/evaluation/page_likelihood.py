r"""The part of an evaluation's page that is about likelihood: curves, terms, ODE, the theorem."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from elbos.evaluation.figures import colored, curves_figure
from elbos.evaluation.words import MAX_Z, fact, is_agreed, number, plus_minus
from elbos.report.parts import NONE, legend, plot, record_table, swatch

_NOTES = {
    "curve": "<b>Loss</b>: half the squared error of the predicted noise. Its area is the "
    "diffusion term of the bound, so a nat saved at any noise level is a nat of the bound.",
    "elbo": "<b>ELBO of noisy data</b>: the bound for data with noise added, up to a constant; "
    "the loss added up from the left, where there is only noise. Every weighted loss is a mixture "
    "of these.",
}


def curves(result: Mapping[str, Any]) -> str:
    """The loss and the ELBO at every noise level."""
    results = result["results"]
    if (fig := curves_figure(results)) is None:
        return ""
    colors = {name: color for name, _, color in colored(results)}
    return plot(
        fig,
        heading="By noise level",
        label="Loss and ELBO over log-SNR; numbers are in the table below.",
        saved_as="elbos-curves",
        notes=[n for key, n in _NOTES.items() if any(row.get(key) for row in results.values())],
        key=legend(colors) if len(colors) > 1 else "",
    )


def _named_conditions(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, row, color in colored(result["results"]):
        yield f"{swatch(color)} {escape(name)}", row


def terms(result: Mapping[str, Any]) -> str:
    """What the bound is made of."""
    records = [
        (
            name,
            {
                "total": plus_minus(row.get("bits_per_dim"), row.get("standard_error")),
                "decoder": number(row.get("decoder_bpd")),
                "diffusion": number(row.get("diffusion_bpd")),
                "prior": number(row.get("prior_bpd")),
                "true density": number(row.get("exact_bits_per_dim")),
                "± of noise alone": number(row.get("measurement_error")),
            },
        )
        for name, row in _named_conditions(result)
    ]
    if not records:
        return ""
    return f"""<section class="measured">
<h2>The bound, term by term</h2>
<p>Bits per dimension. ± is the standard error over images and noise; that of noise alone is how far
another measurement on the same images would differ.</p>
{record_table(records, label="Terms of the bound")}
</section>"""


def ode(result: Mapping[str, Any]) -> str:
    """The likelihood of the flow beside the bound."""
    found = [(name, row["ode"]) for name, row in _named_conditions(result) if row.get("ode")]
    if not found:
        return ""
    records = [(name, _ode_cells(one)) for name, one in found]
    one, names = found[0][1], ("dequantization", "trace", "rtol", "precision")
    known = (f"{name}: {fact(one[name])}" for name in names if one.get(name) is not None)
    return f"""<section class="measured">
<h2>Bound and ODE</h2>
<p>The probability-flow ODE of the same network is another model of the data, close to the first if
the network is good. The likelihood of continuous data is known for it; of discrete data, which are
dequantized, there is a bound, too. Below zero, the flow has the better number. Bits per
dimension.</p>
{record_table(records, label="Bound and ODE")}
<p class="notes">{escape("; ".join(known))}</p>
</section>"""


def _ode_cells(ode: Mapping[str, Any]) -> dict[str, str]:
    bits, bound = ode.get("bits_per_dim"), ode.get("bound_bits_per_dim")
    difference = None if bits is None or bound is None else bits - bound
    return {
        "ODE": plus_minus(bits, ode.get("standard_error")),
        "bound, same images": number(bound),
        "ODE − bound": plus_minus(difference, ode.get("difference_se")),
        "images": fact(ode.get("num_images")),
        "evaluations per image": fact(ode.get("num_evaluations")),
    }


def theorem(result: Mapping[str, Any]) -> str:
    """Both sides of the theorem, for each weighting."""
    tables: list[str] = []
    agreed: list[bool | None] = []
    for name, row in _named_conditions(result):
        if rows := row.get("weightings"):
            agreed += [is_agreed(weighting) for weighting in rows]
            records = [(f"<code>{escape(w['name'])}</code>", _theorem_cells(w)) for w in rows]
            caption = name if len(result["results"]) > 1 else ""
            tables.append(record_table(records, caption=caption, label="The theorem"))
    if not tables:
        return ""
    return f"""<section class="measured">
<h2>The theorem, measured</h2>
<p>A weighted loss is a mixture of the ELBOs above: <i>L<sub>w</sub></i> = ∫ <i>w′L</i> d<i>t</i> +
terms of the ends. Both sides were measured; <i>z</i> is their difference in standard errors.
<b>{agreed.count(True)} of {len(agreed)}</b> agree (✓: within ±{MAX_Z:.0f}).</p>
{"".join(tables)}
</section>"""


def _theorem_cells(row: Mapping[str, Any]) -> dict[str, str]:
    loss, mixture = row.get("loss"), row.get("mixture")
    difference = None if loss is None or mixture is None else loss - mixture
    mark = {None: "", True: "✓", False: "✗"}[is_agreed(row)]
    return {
        "<i>z</i>": NONE if row.get("z") is None else f"{mark} {row['z']:+.2f}",
        "weighted loss": plus_minus(loss, row.get("loss_se")),
        "mixture of ELBOs": plus_minus(mixture, row.get("mixture_se")),
        "difference": plus_minus(difference, row.get("difference_se")),
        "monotone": fact(row.get("is_monotone")),
    }
