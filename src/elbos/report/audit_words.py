"""An audit in words and as tables, alone or beside others: pure functions of the results."""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from jaxtyping import Float

from elbos.arrays import Array
from elbos.audit.matching import NEAR, SAME, distance
from elbos.audit.result import Audit
from elbos.report.colors import COLORS, Swatch
from elbos.report.html import render
from elbos.report.numbers import NONE, fixed, number, percent, signed
from elbos.report.tables import Column, Table, evenly

HEADLINES = {  # of a verdict: the kind of badge, a mark, words. Only "open" is a warning
    "monotone": ("yes", "✓", "Likelihood objective"),
    "not monotone": ("no", "±", "Not monotone"),  # bounds are added, and subtracted
    "undecided": ("maybe", "?", "Undecided"),
    "no weighting": ("open", "!", "No weighting describes this loss"),
}
_COORDINATES = {  # of a process: how scripts call their noise levels, and that of a log-SNR
    "rectified flow": ("t", lambda logsnr: 1 / (1 + math.exp(logsnr / 2))),
    "variance exploding": ("sigma", lambda logsnr: math.exp(-logsnr / 2)),
    "variance preserving": ("ᾱ", lambda logsnr: 1 / (1 + math.exp(-logsnr))),
}
_NUM_NEAREST = 5
_NUM_ROWS = 13  # of the table of the curves
_MAX_BESIDE = 3  # audits whose facts are side by side
_TARGET = re.compile(r".+(\.py:[\w.]+|\.json)")
_CENTRAL = 0.99  # of the samples: beyond, curves may be orders of magnitude away


def in_words(distance: float) -> str:
    """A distance as a percentage, or, if it is large, as the factor that it is the log of.

    Examples:
        >>> in_words(0.081), in_words(0.87)
        ('8.1%', 'a factor of 2.4')
    """
    if distance < 0.5:
        return percent(distance)
    return f"a factor of {math.exp(distance):.1f}" if distance < 5 else "orders of magnitude"


@dataclass(frozen=True)
class View:
    """An audit beside others.

    Attributes:
        audit: The audit.
        title: Its title, cut to what distinguishes it from the others.
        color: Of its curves.
    """

    audit: Audit
    title: str
    color: str

    @property
    def kind(self) -> str:
        """The kind of the verdict's badge."""
        return HEADLINES[self.audit.verdict][0]

    @property
    def mark(self) -> str:
        return HEADLINES[self.audit.verdict][1]

    @property
    def headline(self) -> str:
        """The verdict and its grade, in a line."""
        grade = {"no": self._grade_of_rise, "maybe": self._grade_of_doubt}.get(self.kind, "")
        return HEADLINES[self.audit.verdict][2] + (f": {grade}" if grade else "")

    @property
    def _grade_of_rise(self) -> str:
        return f"w rises where {percent(self.audit.rising_share)} of the samples are drawn"

    @property
    def _grade_of_doubt(self) -> str:
        largest = max((one.factor for one in self.audit.undecided), default=1.0)
        return f"a rise of w by up to {in_words(math.log(largest))} is not excluded"

    @property
    def rising(self) -> str:
        """Where the weighting rises."""
        return ", ".join(_interval(*ends) for ends in self.audit.rising)

    @property
    def rise(self) -> str:
        """By how much it rises at most, in one go."""
        ends = self.audit.weighting(torch.tensor(self.audit.rising, dtype=torch.float64)).log()
        return in_words((ends[:, 1] - ends[:, 0]).max().item())

    @property
    def undecided(self) -> str:
        """Where it may rise, and by how much."""
        return ", ".join(
            f"{_interval(one.start, one.end)} by up to {in_words(math.log(one.factor))}"
            for one in self.audit.undecided
        )

    @property
    def verdict(self) -> str:
        """What the audit means, in one paragraph."""
        return " ".join(render("audit_verdict.txt", audit=self.audit, view=self).split())

    @property
    def swatch(self) -> Swatch:
        return Swatch(self.color)

    @property
    def code(self) -> str:
        """The code of the factor to the nearest likelihood objective, in lines of less than 80
        columns; all that are broken are inside brackets.
        """
        wrapper = textwrap.TextWrapper(76, subsequent_indent=" " * 8, break_on_hyphens=False)
        return "\n".join(map(wrapper.fill, (self.audit.monotone_code or "").splitlines()))

    @property
    def nearest(self) -> list[tuple[str, str]]:
        """The nearest named weightings, and how far they are off."""
        return [
            (one.name, _nearness(one.distance, is_first=i == 0))
            for i, one in enumerate(self.audit.closest[:_NUM_NEAREST])
        ]

    @property
    def numbers(self) -> Table:
        """The curves at some noise levels."""
        audit, scale = self.audit, 1 + self.audit.negative_mass
        rows = []
        for i in evenly(len(audit.logsnr), _NUM_ROWS):
            level, error = audit.logsnr[i].item(), 2 * audit.weight_error[i].item()
            rows.append(
                [
                    fixed(level, 2),
                    number(math.exp(-level / 2), 3),
                    number(audit.weight[i].item(), 3) + (f" ± {percent(error)}" if error else ""),
                    number(audit.density[i].item(), 3),
                    signed(audit.mixture_density[i].item() / scale, 3),
                ]
            )
        heads = ("log-SNR", "noise/signal", "w", "p", "mixture")
        return Table(heads, rows, audit.title)

    @property
    def central_weights(self) -> Float[Array, " c"]:
        """The weights of the central noise levels, where nearly all of the samples are."""
        below = (self.audit.density.cumsum(0) / self.audit.density.sum()).numpy()
        tail = (1 - _CENTRAL) / 2
        return np.asarray(self.audit.weight.numpy()[(below > tail) & (below < 1 - tail)])


def views(audits: Sequence[Audit]) -> list[View]:
    """The audits beside each other, a colour for each.

    Examples:
        >>> from dataclasses import replace
        >>> from elbos.audit import from_recipe
        >>> titles = ("a/train.py:loss", "a/train.py:old", "a/edm.json", "b/edm.json", "sd3")
        >>> [v.title for v in views([replace(from_recipe("edm"), title=t) for t in titles])]
        ['loss', 'old', 'a/edm.json', 'b/edm.json', 'sd3']
    """
    titles = {audit.title for audit in audits}
    return [
        View(audit, _short(audit.title, titles - {audit.title}), color)
        for audit, color in zip(audits, cycle(COLORS), strict=False)
    ]


def _interval(start: float, end: float) -> str:
    return f"[{fixed(start, 2)}, {fixed(end, 2)}]"


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


def _nearness(distance: float, *, is_first: bool) -> str:
    """How far a named weighting is off; of the nearest, whether it is the same, or near at all."""
    off = in_words(distance)
    if is_first and distance < SAME:
        return f"the same ({off})"
    return f"off by {off}: none is near" if is_first and distance > NEAR else f"off by {off}"


# --- words ---------------------------------------------------------------------------------------


def verdict(audit: Audit) -> str:
    """What the audit means, in one paragraph."""
    return views([audit])[0].verdict


def difference(audit: Audit, other: Audit) -> str:
    """How much two weightings differ, in words."""
    d = weighting_distance(audit, other)
    is_same = d is not None and d < SAME
    return render("audit_difference.txt", distance=d, is_same=is_same, in_words=in_words).strip()


def weighting_distance(audit: Audit, other: Audit) -> float | None:
    """The distance of `matching` on the levels that both draw; None if there are none."""
    levels = common_levels([audit, other])
    if not len(levels):
        return None
    at = torch.from_numpy(levels)
    log_w, log_v = (one.weighting(at).log().numpy() for one in (audit, other))
    p = sum(np.interp(levels, a.logsnr.numpy(), a.density.numpy()) for a in (audit, other))
    return distance(log_w, log_v, p / np.sum(p))


def common_levels(audits: Sequence[Audit]) -> Float[Array, " g"]:
    """A grid on the noise levels that all audits have; empty if there are none."""
    low = max(audit.logsnr[0].item() for audit in audits)
    high = min(audit.logsnr[-1].item() for audit in audits)
    return np.linspace(low, high, len(audits[0].logsnr)) if low < high else np.empty(0)


def facts(audit: Audit) -> dict[str, str]:
    """What there is to know besides the curves, by name; `NONE` is what goes without saying."""
    (view,) = views([audit])
    is_measured, (start, end) = audit.source == "measured", audit.central_half
    shares = (audit.share_pure_noise, audit.share_clean)
    pure, clean = (f"{percent(s, 2)} of the samples" if s > 0 else NONE for s in shares)
    prediction = audit.parameterization or "none of the usual targets"
    if audit.parameterization == "edm":
        prediction += f", sigma_data {audit.sigma_data:g}"
    if audit.parameterization_factor != 1:
        prediction = f"{audit.parameterization_factor:g} × {prediction}"
    steps = f"a table of {audit.num_steps:,} steps" if audit.num_steps else ""
    unknown = "" if steps else "none of the named schedules"
    rises = audit.verdict == "not monotone"
    monotone = {"monotone": "yes", "not monotone": "no", "undecided": "undecided"}
    return {
        "predicts": prediction,
        "coefficient": audit.coefficient_name or "none of the usual formulas",
        "process": audit.process or ("none of those known" if is_measured else NONE),
        "noise levels": ", ".join(filter(None, (audit.schedule or unknown, steps))),
        "log-SNR": f"{fixed(audit.logsnr[0].item(), 2)} to {fixed(audit.logsnr[-1].item(), 2)}",
        "monotone": monotone.get(audit.verdict, NONE),
        "rises on": view.rising or NONE,
        "samples there": percent(audit.rising_share) if rises else NONE,
        "negative share": percent(audit.negative_share) if rises else NONE,
        "undecided on": view.undecided or NONE,
        "expected loss": f"central 50% at log-SNR {fixed(start, 1)} to {fixed(end, 1)}"
        + _in_coordinate(audit),
        "data": _affine(audit),
        "pure noise": pure,
        "no noise": clean,
        "diagnostics": ", ".join(one.kind for one in audit.diagnostics) or NONE,
        "source": f"{audit.num_samples:,} samples" if is_measured else "declared, exact",
        "nearest": ", ".join(view.nearest[0]) if audit.is_weighted_elbo else NONE,
    }


def _in_coordinate(audit: Audit) -> str:
    """The central half of the expected loss in the coordinate of scripts of this process."""
    process = (audit.process or "").partition(",")[0]
    if audit.source == "declared":  # whose process is that in which such a network is trained
        usual = {"flow": "rectified flow", "edm": "variance exploding"}
        process = usual.get(audit.parameterization or "", "variance preserving")
        process = "rectified flow" if (audit.schedule or "").startswith("Flow(") else process
    if process not in _COORDINATES:
        return ""
    name, coordinate = _COORDINATES[process]
    low, high = sorted(map(coordinate, audit.central_half))
    return f", {name} {number(low, 2)} to {number(high, 2)}"


def _affine(audit: Audit) -> str:
    """What the loss makes of its data first."""
    shift = audit.data_scale * audit.data_offset
    if audit.data_scale == 1 and shift == 0:
        return NONE
    return f"{audit.data_scale:.4g} x" + (f" {signed(shift, 3)}" if shift else "")


def facts_table(shown: Sequence[View], heads: Sequence[str] = ()) -> Table:
    """The facts of one audit, or of several side by side.

    Args:
        shown: The audits.
        heads: Titles of the columns. Default: none, of one that is shown alone, which has a table
            of nearest weightings besides.
    """
    columns = [facts(view.audit) for view in shown]
    rows = [
        (name, *(column[name] for column in columns))
        for name in columns[0]
        if any(column[name] != NONE for column in columns) and (heads or name != "nearest")
    ]
    titles = ("", *(heads or [""]))
    return Table([Column(title, is_numeric=False) for title in titles], rows)


def facts_tables(shown: Sequence[View], heads: Sequence[str], num: int) -> list[Table]:
    """The facts of `num` audits side by side, and of three at most."""
    num = num if num <= _MAX_BESIDE else 1
    starts = range(0, len(shown), num)
    return [facts_table(shown[i : i + num], heads[i : i + num]) for i in starts]
