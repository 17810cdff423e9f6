"""`elbos weightings`: the weighting that each published recipe implies, and where it increases."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from elbos.base.numbers import number
from elbos.base.tables import Column, Table
from elbos.cli.parse import parse
from elbos.theory.elbo import rising_intervals
from elbos.theory.names import code
from elbos.theory.recipes import FAMILIES, RECIPES, Recipe


@dataclass(frozen=True, kw_only=True)
class ImpliedWeighting:
    r"""The weighting function $w(\lambda)$ implied by a published recipe, and where it increases.

    Attributes:
        name: The recipe's name, as in `elbos audit`.
        title: The recipe's source in words.
        schedule, parameterization, weighting: Their Python representations.
        logsnr_min, logsnr_max: The range of log-SNR of the schedule.
        is_monotone: Whether the weighting never increases with log-SNR.
        rising: The intervals of log-SNR in which the weighting increases.
        reference: The publication of the recipe.
    """

    name: str
    title: str
    schedule: str
    parameterization: str
    weighting: str
    logsnr_min: float
    logsnr_max: float
    is_monotone: bool
    rising: tuple[tuple[float, float], ...]
    reference: str

    @classmethod
    def from_recipe(cls, name: str, recipe: Recipe) -> "ImpliedWeighting":
        """Compute the weighting of a recipe from its closed form."""
        low, high = recipe.schedule.logsnr_min, recipe.schedule.logsnr_max
        found = rising_intervals(recipe.closed_form, low, high)
        return cls(
            name=name,
            title=recipe.title,
            schedule=repr(recipe.schedule),
            parameterization=repr(recipe.parameterization),
            weighting=repr(recipe.closed_form),
            logsnr_min=low,
            logsnr_max=high,
            is_monotone=not found,
            rising=tuple((round(start, 6) + 0.0, round(end, 6) + 0.0) for start, end in found),
            reference=recipe.reference,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-compatible dict."""
        return asdict(self)


def implied_weightings() -> list[ImpliedWeighting]:
    """Return the implied weighting of every recipe in the library."""
    return [ImpliedWeighting.from_recipe(name, recipe) for name, recipe in RECIPES.items()]


def tables(weightings: list[ImpliedWeighting]) -> list[Table]:
    """Return one table of implied weightings per family of recipes."""
    return [
        _table(f"The weighting that each recipe implies: {family}", members)
        for family, names in FAMILIES.items()
        if (members := [one for one in weightings if one.name in names])
    ]


def _table(caption: str, weightings: list[ImpliedWeighting]) -> Table:
    """Return a table of implied weightings, one recipe per row."""
    titles = ("recipe", "weighting", "rises on", "reference")
    rows = [
        (
            one.name,
            code(RECIPES[one.name].closed_form, has_defaults=True),
            ", ".join(f"[{number(start, 3)}, {number(end, 3)}]" for start, end in one.rising)
            or "never",
            _short(one.reference),
        )
        for one in weightings
    ]
    columns = [Column(title, is_numeric=False) for title in titles]
    return Table(columns, rows, caption=caption)


def _short(reference: str) -> str:
    """Shorten a reference to its arXiv numbers, marked "(trainers)" if trainer code is a source."""
    numbers = re.findall(r"arxiv.org/abs/([\d.]+)", reference)
    by_trainers = ["(trainers)"] if "trainers" in reference else []
    return " ".join([*(f"arXiv:{number}" for number in numbers), *by_trainers])


@dataclass(frozen=True, kw_only=True)
class Weightings:
    """Print the weighting that each published recipe implies: monotone, or where it increases."""

    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> None:
        weightings = implied_weightings()
        if self.json:
            print(json.dumps([one.to_dict() for one in weightings], indent=2))  # noqa: T201
        else:
            Console().print(*(table.rich() for table in tables(weightings)), sep="\n")


def command(words: list[str]) -> Weightings:
    """Parse the words after `elbos weightings` into a command."""
    return parse("weightings", Weightings, words)
