"""Sentences and tables that describe audits, for reports and JSON."""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any, NamedTuple

import torch

from elbos.audit import formulas
from elbos.audit.declare import from_recipe
from elbos.audit.names.matching import NEAR, SAME
from elbos.audit.names.resemblance import TARGETS, Resemblance
from elbos.audit.result import Audit
from elbos.base.codec import parse
from elbos.base.colors import COLORS
from elbos.base.numbers import NONE, fixed, number, percent
from elbos.base.tables import Column, Table
from elbos.theory.names import code
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Laplace, Normal, Schedule
from elbos.theory.weightings import Weighting

_FROM_NOTHING = 5.0  # log of a factor that is called "orders of magnitude"
_NUM_NEAREST = 5
_MAX_BESIDE = 3  # audits whose facts are side by side
_TARGET = re.compile(r".+(\.py:[\w.]+|\.json)")
_IN_BRIEF = ("time given", "nearest recipe", "expected loss")  # beside the summary
_OF_THE_WEIGHTING = ("predicts", "coefficient", "expected loss", "nearest")


def in_words(distance: float) -> str:
    """Format a difference of logarithms as a percentage, or a large one as a factor.

    Examples:
        >>> in_words(0.081), in_words(0.87)
        ('8.1%', 'a factor of 2.4')
    """
    if distance < 0.5:
        return percent(distance)
    is_large = distance > _FROM_NOTHING
    return "orders of magnitude" if is_large else f"a factor of {math.exp(distance):.1f}"


class Note(NamedTuple):
    """Summary line at the top of an audit report."""

    kind: str  # "error", "slip", "published", or a verdict: "yes", "no" or "maybe"
    mark: str  # symbol of the kind
    text: str


@dataclass(frozen=True)
class View:
    audit: Audit
    title: str  # the shortest ending that no other title has
    color: str  # color of its curves

    @property
    def summary(self) -> str:
        """One-line summary of the loss."""
        values = self.facts
        names = ("predicts", "coefficient", "noise levels")
        return " · ".join(f"{name} {values[name]}" for name in names if values[name] != NONE)

    @cached_property
    def facts(self) -> dict[str, str]:
        """Properties of the loss by name; a dash stands for the default."""
        audit, (nearest, recipe) = self.audit, _nearest_recipe(self)
        is_measured = audit.source == "measured"
        beside = f"; of {recipe.title} at {formulas.central_half(recipe, audit)}" if recipe else ""
        shares = (audit.share_pure_noise, audit.share_clean)
        pure, clean = (f"{percent(s, 2)} of the samples" if s > 0 else NONE for s in shares)
        steps = f"a table of {audit.num_steps:,} steps" if audit.num_steps else ""
        schedule = self.noise_levels(audit.schedule) if audit.schedule else ""
        unknown = "" if steps else "none of the named schedules"
        rises = audit.verdict == "not monotone"
        values = {
            "predicts": formulas.prediction_formula(audit),
            "coefficient": formulas.coefficient_formula(audit),
            "process": audit.process or ("none of those known" if is_measured else NONE),
            "noise levels": ", ".join(filter(None, (schedule or unknown, steps))),
            "time given": audit.time_name or NONE,
            "nearest recipe": nearest,
            "log-SNR": f"{fixed(audit.logsnr[0].item(), 2)} to {fixed(audit.logsnr[-1].item(), 2)}",
            "w rises on": self.rising if rises else "never" if audit.is_monotone else NONE,
            "samples there": percent(audit.rising_share) if rises else NONE,
            "negative share": percent(audit.negative_share) if rises else NONE,
            "undecided on": self.undecided or NONE,
            "expected loss": f"half of it at {formulas.central_half(audit, audit)}{beside} "
            "(ideal network, N(0, 1) data)",
            "data": formulas.data_formula(audit),
            "pure noise": pure,
            "no noise": clean,
            "diagnostics": ", ".join(item.kind for item in audit.diagnostics) or NONE,
            "source": f"measured on {audit.num_samples:,} samples"
            if is_measured
            else "declared, exact",
            "nearest": ", ".join(self.nearest[0]),
        }
        return values if audit.is_weighted_elbo else values | dict.fromkeys(_OF_THE_WEIGHTING, NONE)

    @cached_property
    def notes(self) -> list[Note]:
        """Lines about errors in the code, similar published losses, and increases of w."""
        audit, slips, notes = self.audit, self.slips, list[Note]()
        for finding in audit.diagnostics:
            if finding.is_fatal:
                text = f"No weighting describes this loss. {finding.text}"
                notes.append(Note("error", "!", text))
        for finding in audit.diagnostics:
            if finding.is_error:
                text = (
                    "Error: the code hardly computes the intended loss, so there is no verdict on "
                    f"its weighting. {finding.text}"
                )
                notes.append(Note("error", "!", text))
        notes += [Note("slip", "≈", self._slip(slip)) for slip in slips]
        if sum(1 for loss in audit.resembles if loss.change) > len(slips):
            target = formulas.target_formula(audit)
            text = f"The network's time runs from noise to data, so {target} is the velocity."
            notes.append(Note("published", "=", text))
        for loss in audit.resembles:
            if not (loss.change or audit.recipe or slips):
                notes.append(Note("published", "=", f"The coefficient is that of {loss.name}."))
        if audit.recipe and not slips:
            text = (
                "The same objective and noise levels as the published recipe "
                f"{audit.recipe}: {RECIPES[audit.recipe].title}."
            )
            notes.append(Note("published", "=", text))
        if audit.verdict == "monotone":
            text = "w never rises with log-SNR."
            if audit.hidden_share:
                share = percent(audit.hidden_share)
                text += f" A further term of less than {share} of the gradient would not show."
            notes.append(Note("yes", "↓", text))
        elif audit.verdict == "not monotone":
            share = percent(audit.rising_share)
            text = f"w rises with log-SNR where {share} of the samples are drawn."
            notes.append(Note("no", "↕", text))
        elif audit.verdict == "undecided":
            largest = max((interval.factor for interval in audit.undecided), default=1.0)
            text = (
                f"It is undecided whether w rises with log-SNR: a rise {_up_to(largest)} cannot be "
                "excluded."
            )
            notes.append(Note("maybe", "?", text))
        return notes

    def _slip(self, slip: Resemblance) -> str:
        audit, part = self.audit, slip.part
        if part == "process":
            text = f"noisy data have {slip.change}; those of {slip.name} have {slip.published}."
        elif part == "noise levels":
            levels, published = map(self.noise_levels, (slip.formula, slip.published))
            text = (
                f"noise levels are {levels}; those of the recipe {slip.name} are {published}: "
                f"your loss has {slip.change}."
            )
        else:
            formula = slip.formula or formulas.target_formula(audit)
            text = (
                f"{part} is {formula}; that of {slip.name} is {slip.published}: your loss has "
                f"{slip.change}."
            )
        if slip.change == "the other sign" and slip.name == "flow":
            ways = {-1: "from data to noise", 1: "from noise to data"}
            text += (
                f" The network's time runs {ways[audit.time_sign]}, so {slip.published} is the "
                "velocity."
                if audit.time_sign
                else " x - eps is the velocity where the network's time runs from noise to data; "
                "the direction of your time is unknown."
            )
        if audit.recipe:
            text += f" But for that, it is the published recipe {audit.recipe}."
        return f"Check: your {text}"

    @property
    def slips(self) -> list[Resemblance]:
        """Published losses from which the loss differs by a mistake; times that run from noise to
        data explain the sign of a velocity.
        """
        slips = [slip for slip in self.audit.resembles if slip.change]
        velocities = [("target", n, TARGETS[n], "the other sign", "") for n in ("flow", "v")]
        return [s for s in slips if not (self.audit.time_sign > 0 and s in velocities)]

    def noise_levels(self, name: str) -> str:
        schedule, text = parse(Schedule, name), _spelled(Schedule, name)
        if isinstance(schedule, Normal | Laplace):
            text += " of log-SNR"
        if isinstance(schedule, Normal):
            text = ", ".join(filter(None, (text, formulas.normal_levels(self.audit, schedule))))
        return text

    @property
    def rising(self) -> str:
        return ", ".join(_interval(*ends) for ends in self.audit.rising)

    @property
    def rise(self) -> str:
        ends = self.audit.weighting(torch.tensor(self.audit.rising, dtype=torch.float64)).log()
        largest = (ends[:, 1] - ends[:, 0]).max().item()
        if largest > _FROM_NOTHING:
            return "from almost 0"
        return f"by {in_words(largest)}" + (" at most" if len(ends) > 1 else "")

    @property
    def undecided(self) -> str:
        if not (intervals := self.audit.undecided):
            return ""
        start, end, factor = max(intervals, key=lambda interval: interval.factor)
        less = f", and on {len(intervals) - 1} other intervals by less"
        return f"{_interval(start, end)} {_up_to(factor)}" + less * (len(intervals) > 1)

    @cached_property
    def explanation(self) -> str:
        """One-paragraph explanation of what the audit means."""
        audit, slips = self.audit, self.slips
        texts, loss = list[str](), "As written, the" if slips else "The"
        if not audit.is_weighted_elbo:
            texts.append(
                "The loss is no mixture of ELBOs; curves on a page are those of its squared-error "
                "part at small errors."
            )
        elif audit.verdict == "code error":
            texts.append("The further statements refer to the loss as it is written.")
        elif audit.verdict == "monotone":
            texts.append(
                f"{loss} loss is a likelihood objective: up to a constant, the negative ELBO of "
                "the data with Gaussian noise added, averaged over noise levels. A lower loss is a "
                "higher bound on the likelihood."
            )
        elif audit.verdict == "undecided":
            texts.append(
                f"{loss} weighting shows no significant rise, but a rise within the sampling error "
                f"cannot be excluded on log-SNR {self.undecided}. Without a rise, the loss is a "
                "likelihood objective; more samples decide."
            )
        else:
            texts.append(
                f"{loss} weighting rises with log-SNR on {self.rising}, {self.rise}. The ELBOs of "
                "data with noise of these levels count negatively: a lower loss can mean a lower "
                "likelihood."
            )
            if audit.recipe and not slips:
                texts.append(
                    "This is a property of a loss, not a fault: DDPM, EDM, Min-SNR and Stable "
                    "Diffusion 3 have it."
                )
            if not audit.factor:
                texts.append(
                    "No factor makes it a likelihood objective, because some noise levels have no "
                    "weight."
                )
        texts += [d.text for d in audit.diagnostics if not (d.is_fatal or d.is_error)]
        if audit.share_pure_noise > 0:
            texts.append(
                f"{percent(audit.share_pure_noise, 2)} of the samples are pure noise (log-SNR −∞), "
                f"each with {number(audit.weight_pure_noise, 2)} times the mean coefficient: there "
                "the network learns the mean of the data, which the weighting does not describe."
            )
        if audit.share_clean > 0:
            texts.append(
                f"{percent(audit.share_clean, 2)} of the samples have no noise (log-SNR ∞) and "
                "teach the network nothing."
            )
        if slips:
            changes = ", and ".join(slip.change for slip in slips)
            texts.append(f"Is it intended to have {changes}?")
        return " ".join(" ".join(texts).split())

    @property
    def prose(self) -> str:
        """One-paragraph description of the audit."""
        return " ".join([f"{self.summary}.", *(note.text for note in self.notes), self.explanation])

    @property
    def factor(self) -> str:
        end = self.audit.factor.end if self.audit.factor else -math.inf
        return (
            "The least factor on the loss of each sample for which w never rises; above log-SNR "
            f"{fixed(end, 2)} it is 1. That is another objective, not a repair of a bug."
        )

    @property
    def code(self) -> str:
        wrapper = textwrap.TextWrapper(76, subsequent_indent=" " * 8, break_on_hyphens=False)
        return "\n".join(map(wrapper.fill, (self.audit.monotone_code or "").splitlines()))

    @property
    def nearest(self) -> list[tuple[str, str]]:
        rows = list[tuple[str, str]]()
        for name, distance in self.audit.closest[:_NUM_NEAREST]:
            off = f"off by {in_words(distance)}"
            if not rows and distance < SAME:
                off = f"same curve ({in_words(distance)}, below {percent(SAME, 0)})"
            elif not rows and distance > NEAR:
                off += ": none is near"
            rows.append((_spelled(Weighting, name), off))
        return rows


def views(audits: Sequence[Audit]) -> list[View]:
    """Assign titles and colours to audits that share a report.

    Examples:
        >>> from dataclasses import replace
        >>> from elbos.audit import from_recipe
        >>> titles = ("a/train.py:loss", "a/train.py:old", "a/edm.json", "b/edm.json", "sd3")
        >>> [v.title for v in views([replace(from_recipe("edm"), title=t) for t in titles])]
        ['loss', 'old', 'a/edm.json', 'b/edm.json', 'sd3']
    """
    titles, shown = {audit.title for audit in audits}, []
    for audit, color in zip(audits, cycle(COLORS), strict=False):
        title, ends = audit.title, [audit.title]
        if len(titles) > 1 and _TARGET.fullmatch(title):
            parts = re.split(r"(?<=[/:])", title)
            ends = ["".join(parts[i:]) for i in reversed(range(len(parts)))]
        rest = [re.split(r"(?<=[/:])", other) for other in titles - {title}]
        endings = {"".join(parts[i:]) for parts in rest for i in range(len(parts))}
        shown.append(View(audit, next((end for end in ends if end not in endings), title), color))
    return shown


def _interval(start: float, end: float) -> str:
    return f"[{fixed(start, 2)}, {fixed(end, 2)}]"


def _up_to(factor: float) -> str:
    text = in_words(math.log(factor))
    return f"by {text}" if math.log(factor) > _FROM_NOTHING else f"by up to {text}"


def as_dict(audit: Audit) -> dict[str, Any]:
    (view,) = views([audit])
    return {**audit.to_dict(), "in_words": view.prose}


def difference(audit: Audit, other: Audit) -> str:
    """Return a sentence that states how much the weightings of two audits differ."""
    distance = audit.distance(other)
    if distance is None:
        return "The two losses have no noise level in common."
    d = distance.value
    weight = "weight" if d < SAME else "do not weight"
    return f"The two losses {weight} noise levels alike: their weightings differ by {in_words(d)}."


def _nearest_recipe(view: View) -> tuple[str, Audit | None]:
    """Describe where the loss differs from the nearest recipe, and return the recipe's audit."""
    audit, nearest = view.audit, view.audit.nearest_recipe
    if not audit.is_judged or audit.recipe or any(slip.part == "process" for slip in view.slips):
        return NONE, None
    for slip in view.slips:
        if slip.name in RECIPES:  # the line of the slip has the difference
            return NONE, from_recipe(slip.name)
    if not nearest.is_alike:
        return NONE, None
    recipe, differences = RECIPES[nearest.name], []
    if not nearest.has_coefficient:
        formula, scale = nearest.coefficient, nearest.sigma_data
        shown = formulas.in_its_time(view.audit, formula or "")
        text = f"coefficient {shown}" if formula else "another coefficient"
        differences.append(f"sigma_data {scale:g}" if scale else text)
    if not nearest.has_levels:
        differences.append(f"noise levels {view.noise_levels(code(recipe.schedule))}")
    which = f", which has {' and '.join(differences)}" if differences else ""
    return f"{nearest.name}: {recipe.title}{which}", from_recipe(nearest.name)


def _spelled(kind: type, text: str) -> str:
    return code(parse(kind, text), has_defaults=True)


def facts_tables(shown: Sequence[View], num: int, *, is_verbose: bool = True) -> list[Table]:
    """Return tables of the properties of audits, `num` of at most 3 side by side."""
    num, tables = (num if num <= _MAX_BESIDE else 1), []
    for i in range(0, len(shown), num):
        columns = [view.facts for view in shown[i : i + num]]
        rows = [
            (name, *(column[name] for column in columns))
            for name in columns[0]
            if any(column[name] != NONE for column in columns)
            and (len(shown) > 1 or name != "nearest")
            and (is_verbose or name in _IN_BRIEF)
        ]
        names = [view.title if len(shown) > 1 else "" for view in shown[i : i + num]]
        tables.append(Table([Column(name, is_numeric=False) for name in ("", *names)], rows))
    return tables
