"""`elbos weightings`: the weighting that each published recipe implies."""

import json
from dataclasses import dataclass

from rich.console import Console

from elbos.cli.parse import parse
from elbos.cli.weightings_table import implied_weightings, tables


@dataclass(frozen=True, kw_only=True)
class Weightings:
    """Print what published recipes weigh: monotone or not, and where the weighting rises."""

    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> None:
        weightings = implied_weightings()
        if self.json:
            print(json.dumps([one.to_dict() for one in weightings], indent=2))  # noqa: T201
        else:
            Console().print(*(table.rich() for table in tables(weightings)), sep="\n")


def command(words: list[str]) -> Weightings:
    """The command that the words stand for."""
    return parse("weightings", Weightings, words)
