r"""Formulas for the target, data and noise levels of a loss, in the notation of papers."""

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.names.matching import TIME
from elbos.audit.names.resemblance import TARGETS
from elbos.audit.result import Audit
from elbos.base.numbers import NONE, fixed, number, signed
from elbos.theory.schedules import Normal

_COORDINATES = {  # process -> name of the noise level, and its value at a log-SNR
    "rectified flow": ("t", lambda logsnr: 1 / (1 + math.exp(logsnr / 2))),
    "variance exploding": ("sigma", lambda logsnr: math.exp(-logsnr / 2)),
    "variance preserving": ("ᾱ", lambda logsnr: 1 / (1 + math.exp(-logsnr))),
}
_NORMAL = {  # process -> distribution of the noise level if log-SNR is normal
    "rectified flow": "logit-normal({:.4g}, {:.4g}) of t",
    "variance exploding": "N({:.4g}, {:.4g}²) of ln sigma",
}


def prediction_formula(audit: Audit) -> str:
    """Format the prediction type as text, with a formula where the sign is ambiguous."""
    name, factor = audit.parameterization, audit.parameterization_factor
    if name is None:
        return f"y = {target_formula(audit)}"
    text = f"{name}, sigma_data {audit.sigma_data:g}" if name == "edm" else name
    text = text if factor == 1 else f"{factor:g} × {text}"
    # Both signs of a flow are common, so that its formula is always shown.
    has_formula = abs(factor) == 1 and (name == "flow" or factor < 0)
    formula = TARGETS[name]
    if factor < 0:  # terms of a difference are exchanged
        formula, num = re.subn(r"(\w+(?: \w+)?) - (\w+(?: \w+)?)", r"\2 - \1", formula)
        formula = formula if num else f"-{formula}".removeprefix("--")
    return f"{text}: {formula}" if has_formula else text


def coefficient_formula(audit: Audit) -> str:
    resembled = (item.formula for item in audit.resembles if item.part == "coefficient")
    formula = audit.coefficient_name or next(resembled, "")
    return in_its_time(audit, formula) or "none of the usual formulas"


def in_its_time(audit: Audit, formula: str) -> str:
    """Return a formula without the definition of t, which on the path of flow is the time."""
    return formula.removesuffix(TIME if _coordinate_process(audit) == "rectified flow" else "")


def target_formula(audit: Audit) -> str:
    r"""Format $y = a x + b\epsilon$ as text, in $\alpha$ and $\sigma$ if both coefficients are
    simple, else in numbers.
    """
    alpha, sigma = audit.logsnr.sigmoid().sqrt(), (-audit.logsnr).sigmoid().sqrt()
    if audit.process == "variance exploding":
        alpha, sigma = torch.ones_like(alpha), sigma / alpha
    if audit.process == "rectified flow":
        alpha, sigma = alpha / (alpha + sigma), sigma / (alpha + sigma)
    scales = {"": alpha**0, "alpha": alpha, "sigma": sigma, "alpha**2": alpha**2}
    scales |= {"sigma**2": sigma**2, "alpha/sigma": alpha / sigma, "sigma/alpha": sigma / alpha}
    scales |= {"1/alpha": 1 / alpha, "1/sigma": 1 / sigma}
    size = torch.hypot(audit.a, audit.b)

    def term(values: Float[Tensor, " g"], of: str) -> str | None:
        if (values.abs() < 5e-3 * size).all():
            return ""
        for name, scale in scales.items():
            factor = (values / scale).median().item()
            if ((values - factor * scale).abs() < 1e-2 * size).double().mean() > 0.95:
                number = "" if abs(abs(factor) - 1) < 5e-3 else f"{abs(factor):.3g} "
                return ("- " if factor < 0 else "+ ") + " ".join(f"{number}{name} {of}".split())
        return None

    terms = [term(audit.a, "x"), term(audit.b, "eps")]
    if None not in terms and any(terms):
        text = " ".join(filter(None, terms))
        return text.removeprefix("+ ") if text[0] == "+" else f"-{text[2:]}"
    below = audit.density.cumsum(0) / audit.density.sum()
    i = torch.searchsorted(below, torch.tensor([0.25, 0.5, 0.75], dtype=below.dtype))
    a, b, at = (
        ", ".join(fixed(value, 2) for value in curve[i].tolist())
        for curve in (audit.a, audit.b, audit.logsnr)
    )
    return f"a x + b eps with a = {a} and b = {b} at log-SNR {at}"


def _coordinate_process(audit: Audit) -> str:
    if audit.source == "measured":
        return (audit.process or "").partition(",")[0]
    usual = {"flow": "rectified flow", "edm": "variance exploding"}
    process = usual.get(audit.parameterization or "", "variance preserving")
    return "rectified flow" if (audit.schedule or "").startswith("Flow(") else process


def central_half(audit: Audit, like: Audit) -> str:
    """Format the noise levels with half of the expected loss, as log-SNR and in the coordinate of
    the process of another audit, if that is known.
    """
    text = f"log-SNR {' to '.join(fixed(end, 1) for end in audit.central_half)}"
    process = _coordinate_process(like)
    if process not in _COORDINATES:
        return text
    name, coordinate = _COORDINATES[process]
    low, high = sorted(map(coordinate, audit.central_half))
    return f"{text}, {name} {number(low, 2)} to {number(high, 2)}"


def data_formula(audit: Audit) -> str:
    """Format the scale and offset that the loss applies to the data."""
    shift = audit.data_scale * audit.data_offset
    if audit.data_scale == 1 and shift == 0:
        return NONE
    return f"{audit.data_scale:.4g} x" + (f" {signed(shift, 3)}" if shift else "")


def normal_levels(audit: Audit, schedule: Normal) -> str:
    """Format the parameters of a normal distribution of log-SNR in training-script notation."""
    in_scripts = _NORMAL.get(_coordinate_process(audit), "")
    return in_scripts.format(0.0 - schedule.mean / 2, schedule.std / 2)
