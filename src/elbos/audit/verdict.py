"""An audit in words, and the code of the nearest likelihood objective."""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elbos.audit.names import SAME, in_words, named_weighting
from elbos.extrema import rising_intervals
from elbos.weightings import Monotone

if TYPE_CHECKING:
    from elbos.audit.result import Audit

_PREDICTIONS = {
    "eps": "the noise (eps)",
    "x": "the data (x)",
    "v": "the velocity v = alpha eps - sigma x",
    "score": "the score -eps / sigma",
    "flow": "the flow's velocity u = eps - x",
    "edm": "EDM's preconditioned output F",
}
_PROCESSES = {
    "variance preserving": " on the variance-preserving process",
    "variance exploding": " on the variance-exploding process",
    "variance exploding, scaled by c_in": (
        " on the variance-exploding process, scaled by EDM's c_in"
    ),
    "rectified flow": " on the rectified-flow process",
    None: "",
}
_ALIKE = 0.05  # how much the factors of what is named and of what was found may differ anywhere
_LARGEST = 24.0  # of the log of the factor: more has to be lifted only from nothing
_LINE = 5e-4  # what the factor may be off between the points of its table


def verdict(audit: "Audit") -> str:
    """One paragraph."""
    warnings = [oddity.text for oddity in audit.oddities if oddity.is_fatal]
    notes = [oddity.text for oddity in audit.oddities if not oddity.is_fatal]
    sentences = [
        *warnings,
        _what_it_does(audit),
        _where(audit),
        _nearest(audit),
        _likelihood(audit),
        _effort(audit),
        *notes,
        _ends(audit),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def intervals(audit: "Audit") -> str:
    """Where the weighting rises, in short."""
    return ", ".join(f"[{start:.2f}, {end:.2f}]" for start, end in audit.rising)


def _what_it_does(audit: "Audit") -> str:
    prediction = _PREDICTIONS.get(audit.parameterization or "", "a target of its own")
    if audit.parameterization is None and not audit.is_weighted_elbo:
        prediction = "a target that cannot be read off"
    if audit.parameterization == "edm":
        prediction += f" with sigma_data {audit.sigma_data:g}"
    factor = audit.parameterization_factor
    if audit.parameterization and factor != 1:
        reversed_sign = "with its sign reversed" if factor == -1 else f"times {factor:g}"
        prediction += f" {reversed_sign}"
    if audit.coefficient_name == "1":
        coefficient = "the squared error has the same coefficient at every noise level"
    elif audit.coefficient_name:
        coefficient = f"its squared error is multiplied by {audit.coefficient_name}"
    else:
        coefficient = "its squared error is multiplied by a function of its own of the noise level"
    return f"The network predicts {prediction}{_PROCESSES[audit.process]}; {coefficient}."


def _where(audit: "Audit") -> str:
    low, high = audit.logsnr[0].item(), audit.logsnr[-1].item()
    steps = table_of_steps(audit)
    levels = audit.schedule or ("" if steps else "a distribution of its own")
    data = ""
    if audit.data_scale != 1 or audit.data_offset != 0:
        data = f" The data are changed to {_affine(audit)} first; log-SNR is that of the result."
    if audit.process is None and audit.source == "measured":
        data += " Signal and noise are scaled as in none of the usual processes."
    levels = ", ".join(part for part in (levels, steps) if part)
    return f"Noise levels are drawn from {levels}, log-SNR {low:.1f} to {high:.1f}.{data}"


def table_of_steps(audit: "Audit") -> str:
    """The size of the table of noise levels, as far as it was seen; empty if there is none."""
    if not audit.num_steps:
        return ""
    if audit.source == "declared":
        return f"a table of {audit.num_steps:,} steps"
    return f"a table, {audit.num_steps:,} different steps seen"


def _affine(audit: "Audit") -> str:
    shift = audit.data_scale * audit.data_offset
    text = "x" if audit.data_scale == 1 else f"{audit.data_scale:.4g} x"
    return text if shift == 0 else f"{text} {'-' if shift < 0 else '+'} {abs(shift):.3g}"


def _nearest(audit: "Audit") -> str:
    if not audit.is_weighted_elbo:
        return ""
    name, d = audit.closest[0]
    if d < SAME:
        return f"Together that weighs noise levels as {name} does (off by {in_words(d)})."
    return (
        f"Together that is none of the named weightings; the nearest is {name}, off by "
        f"{in_words(d)}."
    )


def _likelihood(audit: "Audit") -> str:
    if not audit.is_weighted_elbo:
        return "What follows describes its squared-error part at small errors."
    if not audit.rising:
        return (
            "The weighting never rises with log-SNR: the loss is a likelihood objective, the ELBO "
            "of the data with Gaussian noise added, of noise levels distributed as the weighting "
            "falls."
        )
    text = (
        f"The weighting rises with log-SNR on {intervals(audit)}: the loss is not a likelihood "
        "objective. It adds ELBOs of noisy data where the weighting falls and subtracts them where "
        "it rises."
    )
    if _log_factor(audit).max() > _LARGEST:
        return f"{text} No factor makes it one, since there are levels without any weight."
    return (
        f"{text} Multiplied by the factor below, which is 1 above "
        f"{_nearest_objective(audit).end:.2f}, it would be one (its Monotone): another objective, "
        "not a repair."
    )


def _effort(audit: "Audit") -> str:
    low, high = audit.effort
    return (
        f"On standard normal data, half of the loss that the best network has left comes from "
        f"log-SNR {low:.1f} to {high:.1f} (noise over signal {math.exp(-low / 2):.2g} to "
        f"{math.exp(-high / 2):.2g})."
    )


def _ends(audit: "Audit") -> str:
    parts = []
    if audit.share_pure_noise > 0:
        parts.append(
            f"{audit.share_pure_noise:.2%} of the samples are pure noise (log-SNR -inf), each with "
            f"{audit.weight_pure_noise:.2g} times the mean coefficient: there the network learns "
            "the mean of the data, which no ELBO's weight describes."
        )
    if audit.share_clean > 0:
        parts.append(
            f"{audit.share_clean:.2%} of the samples have no noise at all (log-SNR inf), and teach "
            "nothing."
        )
    return " ".join(parts)


class _Objective(NamedTuple):
    """The nearest likelihood objective.

    Args:
        name: The named weighting that the loss has, as code, or None.
        end: The log-SNR above which nothing is changed.
    """

    name: str | None
    end: float


def _nearest_objective(audit: "Audit") -> _Objective:
    """By name if the named weighting rises as the audit's does, and so needs the same factor."""
    name, d = audit.closest[0]
    end = audit.rising[-1][1]
    if d < SAME:
        w = named_weighting(name)
        rises = rising_intervals(w, audit.logsnr[0].item(), audit.logsnr[-1].item())
        log_factor = (Monotone(w)(audit.logsnr) / w(audit.logsnr)).log()
        off = (log_factor - _log_factor(audit)).abs()
        if rises and (off < _ALIKE + 3 * audit.weight_error).all():
            return _Objective(name, max(end, rises[-1][1]))
    return _Objective(None, end)


def _log_factor(audit: "Audit") -> torch.Tensor:
    return (audit.monotone_weight / audit.weight).log()


def monotone_code(audit: "Audit") -> str | None:
    """Code for `Monotone(w) / w`: by name where the weighting has one, else as a table."""
    if not audit.rising or not audit.is_weighted_elbo or _log_factor(audit).max() > _LARGEST:
        return None
    name, end = _nearest_objective(audit)
    if name is not None:
        classes = sorted({"Monotone", *re.findall(r"[A-Z]\w*", name)})
        return _NAMED.format(classes=", ".join(classes), name=name)
    is_needed = audit.logsnr < end
    at = np.append(audit.logsnr[is_needed].numpy(), end)
    log_factor = np.append(_log_factor(audit)[is_needed].numpy(), 0.0)
    kept = _corners(at, log_factor)
    return _TABLE.format(
        at=", ".join(f"{value:.3f}" for value in at[kept]),
        log_factor=", ".join(f"{value:.4f}" for value in log_factor[kept]),
    )


def _corners(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """The fewest points, about, between which straight lines are within `_LINE` of a curve."""
    first, last = 0, len(x) - 1
    distance = np.abs(y - np.interp(x, x[[first, last]], y[[first, last]]))
    middle = int(distance.argmax())
    if distance[middle] < _LINE:
        return [first, last]
    rest = _corners(x[middle:], y[middle:])
    return [*_corners(x[: middle + 1], y[: middle + 1])[:-1], *(middle + i for i in rest)]


_NAMED = """\
from elbos.weightings import {classes}

w = {name}
monotone = Monotone(w)

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    return monotone(logsnr) / w(logsnr)

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
_TABLE = """\
import torch

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    at = logsnr.new_tensor([{at}])
    log_factor = logsnr.new_tensor([{log_factor}])
    i = torch.searchsorted(at, logsnr.contiguous()).clamp(1, len(at) - 1)
    share = ((logsnr - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
    return torch.exp(log_factor[i - 1] + share * (log_factor[i] - log_factor[i - 1]))

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
