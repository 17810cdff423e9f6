"""`elbos weightings`: the weighting that each published training recipe implies."""

import json
import re
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from elbos.base.numbers import number
from elbos.base.tables import Column, Table
from elbos.cli.parse import parse
from elbos.theory.elbo import rising_intervals
from elbos.theory.names import code
from elbos.theory.recipes import FAMILIES, RECIPES


@dataclass(frozen=True, kw_only=True)
class Weightings:
    """Print the weightings that published training recipes imply.

    For each, the output tells where it increases.
    """

    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> None:
        rising = {}
        for name, recipe in RECIPES.items():
            ends = recipe.schedule.logsnr_min, recipe.schedule.logsnr_max
            intervals = rising_intervals(recipe.closed_form, *ends)
            rising[name] = [(round(low, 6) + 0.0, round(high, 6) + 0.0) for low, high in intervals]
        if self.json:
            print(json.dumps([_entry(name, rising[name]) for name in RECIPES], indent=2))  # noqa: T201
            return
        columns = [
            Column(title, is_numeric=False)
            for title in ("recipe", "weighting", "rises on", "reference")
        ]
        for family, names in FAMILIES.items():
            rows = [_row(name, rising[name]) for name in RECIPES if name in names]
            caption = f"The weighting that each recipe implies: {family}"
            Console().print(Table(columns, rows, caption=caption).rich())


def _entry(name: str, rising: list[tuple[float, float]]) -> dict[str, Any]:
    recipe = RECIPES[name]
    return {
        "name": name,
        "title": recipe.title,
        "schedule": repr(recipe.schedule),
        "parameterization": repr(recipe.parameterization),
        "weighting": repr(recipe.closed_form),
        "logsnr_min": recipe.schedule.logsnr_min,
        "logsnr_max": recipe.schedule.logsnr_max,
        "is_monotone": not rising,
        "rising": rising,
        "reference": recipe.reference,
    }


def _row(name: str, rising: list[tuple[float, float]]) -> tuple[str, str, str, str]:
    recipe = RECIPES[name]
    papers = [f"arXiv:{n}" for n in re.findall(r"arxiv.org/abs/([\d.]+)", recipe.reference)]
    papers += ["(trainers)"] * ("trainers" in recipe.reference)
    intervals = [f"[{number(low, 3)}, {number(high, 3)}]" for low, high in rising]
    weighting = code(recipe.closed_form, has_defaults=True)
    return name, weighting, ", ".join(intervals) or "never", " ".join(papers)


def command(words: list[str]) -> Weightings:
    return parse("weightings", Weightings, words)
