r"""An audit in short: the words and numbers that the terminal and the page share."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from elbos.arrays import Array
from elbos.audit.names import SAME, distance, in_words
from elbos.audit.result import Audit
from elbos.audit.verdict import intervals, table_of_steps

NONE, _AS_GIVEN = "–", "as given"
MARKS = {"yes": "✓", "no": "✗", "open": "!"}
_NUM_NEAREST = 5
_TARGET = re.compile(r".+(\.py:[\w.]+|\.json)")
_CENTRAL = 0.99  # of the samples: beyond, curves may be orders of magnitude away


class Headline(NamedTuple):
    """The answer at a glance.

    Args:
        kind: Whether the loss is a likelihood objective: "yes", "no", or "open" if no weighting
            describes it.
        title: The answer.
        text: The same in a sentence, for somebody who does not know the theory.
    """

    kind: Literal["yes", "no", "open"]
    title: str
    text: str


def headline(audit: Audit) -> Headline:
    """Whether the loss is a likelihood objective."""
    if not audit.is_weighted_elbo:
        return Headline(
            "open",
            "No weighting describes this loss",
            "It is not a squared error in normal noise, so it is no mixture of likelihood bounds. "
            "The curves describe its squared-error part at small errors.",
        )
    if audit.is_monotone:
        return Headline(
            "yes",
            "Likelihood objective",
            "The weight never rises as the noise falls. So training maximizes a bound on a "
            "likelihood: that of the data with Gaussian noise added.",
        )
    return Headline(
        "no",
        "Not a likelihood objective",
        f"The weight rises as the noise falls on log-SNR {intervals(audit)}. There the likelihood "
        "bounds of noisy data are subtracted; elsewhere they are added.",
    )


def facts(audits: Sequence[Audit], *, is_alone: bool = True) -> list[tuple[str, list[str]]]:
    """What there is to know besides the curves: names, and for each a value per audit.

    Args:
        audits: One, or several to compare.
        is_alone: Whether one is not to be compared with others: the share that depends on the range
            of noise levels is for it alone.
    """
    columns = [_facts(audit) for audit in audits]
    rows = [(name, [column[name] for column in columns]) for name in columns[0]]
    hidden = () if is_alone and len(audits) == 1 else ("negative share",)
    return [
        (name, values)
        for name, values in rows
        if name not in hidden and not {NONE, _AS_GIVEN}.issuperset(values)
    ]


def _facts(audit: Audit) -> dict[str, str]:
    """By name; `NONE` and `_AS_GIVEN` are what goes without saying."""
    low, high = audit.logsnr[0].item(), audit.logsnr[-1].item()
    start, end = audit.effort
    is_measured = audit.source == "measured"
    return {
        "predicts": _prediction(audit),
        "coefficient": audit.coefficient_name or "none of the usual formulas",
        "process": audit.process or ("none of those known" if is_measured else NONE),
        "noise levels": _levels(audit),
        "log-SNR": f"{low:.2f} to {high:.2f}",
        "monotone": ("no" if audit.rising else "yes") if audit.is_weighted_elbo else NONE,
        "rises on": intervals(audit) or NONE,
        "negative share": _negative_share(audit),
        "half the effort": f"log-SNR {start:.1f} to {end:.1f}",
        "data": _data(audit),
        "pure noise": _share(audit.share_pure_noise),
        "no noise": _share(audit.share_clean),
        "oddities": ", ".join(oddity.kind for oddity in audit.oddities) or NONE,
        "source": f"{audit.num_samples:,} samples" if is_measured else "declared, exact",
    }


def _negative_share(audit: Audit) -> str:
    if audit.is_monotone or not audit.is_weighted_elbo:
        return NONE
    return f"{audit.negative_share:.1%} of the range seen"


def _share(share: float) -> str:
    return f"{share:.2%} of the samples" if share > 0 else NONE


def _prediction(audit: Audit) -> str:
    if audit.parameterization is None:
        return "a target of its own"
    factor = audit.parameterization_factor
    times = "" if factor == 1 else f"{factor:g} × "
    sigma_data = f", sigma_data {audit.sigma_data:g}" if audit.parameterization == "edm" else ""
    return f"{times}{audit.parameterization}{sigma_data}"


def _levels(audit: Audit) -> str:
    table = table_of_steps(audit)
    own = "" if table else "a distribution of its own"
    return ", ".join(part for part in (audit.schedule or own, table) if part)


def _data(audit: Audit) -> str:
    if audit.data_scale == 1 and audit.data_offset == 0:
        return _AS_GIVEN
    return f"plus {audit.data_offset:.4g}, times {audit.data_scale:.4g}"


def nearest(audit: Audit) -> list[tuple[str, str]]:
    """The nearest named weightings, and how far they are off, in words."""
    return [
        (name, f"the same ({in_words(d)})" if i == 0 and d < SAME else f"off by {in_words(d)}")
        for i, (name, d) in enumerate(audit.closest[:_NUM_NEAREST])
    ]


def nearest_to(audit: Audit) -> str:
    """What the nearest named weightings are near to, where that is not all of the loss."""
    return "" if audit.is_weighted_elbo else ", to its squared-error part"


def common_levels(audits: Sequence[Audit]) -> Float[Array, " g"]:
    """A grid on the noise levels that all audits saw; empty if there are none."""
    low = max(audit.logsnr[0].item() for audit in audits)
    high = min(audit.logsnr[-1].item() for audit in audits)
    return np.linspace(low, high, len(audits[0].logsnr)) if low < high else np.empty(0)


def difference(audit: Audit, other: Audit) -> str:
    """How far two weightings are apart, in words; the distance is that of `names`."""
    levels = common_levels([audit, other])
    if not len(levels):
        return "The two losses have no noise level in common."
    at = torch.from_numpy(levels)
    log_w, log_v = (a.weighting(at).log().numpy() for a in (audit, other))
    p = sum(np.interp(levels, a.logsnr.numpy(), a.density.numpy()) for a in (audit, other))
    d = distance(log_w, log_v, p / np.sum(p))
    alike = "weigh noise levels alike" if d < SAME else "do not weigh noise levels alike"
    return f"The two losses {alike}: their weightings differ by {in_words(d)}."


def shortened(audits: Sequence[Audit]) -> list[Audit]:
    """The same; titles that are paths are cut to what tells them apart, where there are several.

    Examples:
        >>> from elbos.audit.declare import of_recipe
        >>> titles = ("a/train.py:loss", "a/train.py:old", "a/edm.json", "b/edm.json", "sd3")
        >>> [a.title for a in shortened([replace(of_recipe("edm"), title=t) for t in titles])]
        ['loss', 'old', 'a/edm.json', 'b/edm.json', 'sd3']
    """
    titles = {audit.title for audit in audits}
    return [replace(audit, title=_short(audit.title, titles - {audit.title})) for audit in audits]


def _short(title: str, others: set[str]) -> str:
    """The least part of a path, from its end, that no other ends with."""
    if not (others and _TARGET.fullmatch(title)):
        return title
    parts = re.split(r"(?<=[/:])", title)
    for i in reversed(range(len(parts))):
        part = "".join(parts[i:])
        if not any(other == part or other.endswith((f"/{part}", f":{part}")) for other in others):
            return part
    return title


def central_weights(audit: Audit) -> Float[Array, " c"]:
    """The weights of the central noise levels, where nearly all of the samples are."""
    below = (audit.density.cumsum(0) / audit.density.sum()).numpy()
    tail = (1 - _CENTRAL) / 2
    return np.asarray(audit.weight.numpy()[(below > tail) & (below < 1 - tail)])
