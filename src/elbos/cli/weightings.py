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
from elbos.theory.names import label
from elbos.theory.recipes import FAMILIES, RECIPES


@dataclass(frozen=True, kw_only=True)
class Weightings:
    """Print the weightings that published training recipes imply, and where they increase."""

    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> None:
        entries: dict[str, dict[str, Any]] = {}
        for name, recipe in RECIPES.items():
            low, high = recipe.schedule.logsnr_min, recipe.schedule.logsnr_max
            rising = rising_intervals(recipe.weighting, low, high)
            entries[name] = {
                "name": name,
                "title": recipe.title,
                "schedule": repr(recipe.schedule),
                "parameterization": repr(recipe.parameterization),
                "coefficient": recipe.coefficient if recipe.exact is None else None,
                "weighting": repr(recipe.weighting),
                "logsnr_min": low,
                "logsnr_max": high,
                "is_monotone": not rising,
                "rising": [(round(start, 6) + 0.0, round(end, 6) + 0.0) for start, end in rising],
                "reference": recipe.reference,
            }
        if self.json:
            print(json.dumps(list(entries.values()), indent=2))  # noqa: T201
            return
        titles = ("recipe", "schedule × prediction × coefficient", "rises on", "reference")
        columns = [Column(title, is_numeric=False) for title in titles]
        for family, names in FAMILIES.items():
            rows = []
            for name in (name for name in RECIPES if name in names):
                recipe, rising = RECIPES[name], entries[name]["rising"]
                papers = [
                    f"arXiv:{n}" for n in re.findall(r"arxiv.org/abs/([\d.]+)", recipe.reference)
                ]
                papers += ["(trainers)"] * ("trainers" in recipe.reference)
                intervals = [f"[{number(low, 3)}, {number(high, 3)}]" for low, high in rising]
                parts = label(recipe.schedule), label(recipe.parameterization), recipe.coefficient
                rises = ", ".join(intervals) or "never"
                product = " × ".join(parts).removesuffix(" × 1")
                product += f", exactly {label(recipe.exact)}" if recipe.exact else ""
                rows.append((name, product, rises, " ".join(papers)))
            caption = f"The weighting that each recipe implies: {family}"
            Console().print(Table(columns, rows, caption=caption).rich())


def command(words: list[str]) -> Weightings:
    return parse("weightings", Weightings, words)
