"""The table of published recipes: the weighting that each implies, and where it rises."""

from dataclasses import asdict, dataclass
from typing import Any

from elbos.analysis import rising_intervals
from elbos.recipes import RECIPES, Recipe
from elbos.report.numbers import number
from elbos.report.tables import Column, Table


@dataclass(frozen=True, kw_only=True)
class ImpliedWeighting:
    """The weighting that a recipe implies.

    Attributes:
        name: The recipe's, as `elbos audit` takes it.
        title: What it is from, in words.
        schedule, parameterization, weighting: As Python.
        logsnr_min, logsnr_max: The ends of the schedule.
        is_monotone: Whether the weighting never rises with the log-SNR.
        rising: The intervals of log-SNR in which it rises.
        reference: Where it was published.
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
        """What a recipe implies, from its closed form."""
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
        """The fields, for JSON."""
        return asdict(self)


def implied_weightings() -> list[ImpliedWeighting]:
    """The weighting of every recipe in the library."""
    return [ImpliedWeighting.from_recipe(name, recipe) for name, recipe in RECIPES.items()]


def table(weightings: list[ImpliedWeighting]) -> Table:
    """A row for each recipe."""
    titles = ("recipe", "weighting", "monotone", "rises on", "reference")
    rows = [
        (
            one.name,
            one.weighting,
            "yes" if one.is_monotone else "no",
            ", ".join(f"[{number(start, 3)}, {number(end, 3)}]" for start, end in one.rising),
            one.reference.replace("https://arxiv.org/abs/", "arXiv:"),  # which no wrapping breaks
        )
        for one in weightings
    ]
    columns = [Column(title, is_numeric=False) for title in titles]
    return Table(columns, rows, caption="The weighting that each recipe implies")
