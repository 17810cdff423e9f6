"""The gallery: what public diffusion losses weigh. Writes index.html beside this file.

python docs/gallery/make.py [--out PATH] [--only NAME...]

Recipes and trainers' settings are exact; the showcases are measured, from examples/audit. Of every
trainer there are the default settings and those that other losses are translated into.
"""

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path

from page import Card, page
from showcases import SHOWCASES

from elbos import audit
from elbos.adapters.trainers import TRAINERS, Option, Settings
from elbos.base.errors import suggestion
from elbos.base.html import write_html
from elbos.theory.recipes import RECIPES

HERE = Path(__file__).parent
COMMAND = "python docs/gallery/make.py"


def recipe_card(name: str) -> Card:
    """A published recipe, exact."""
    recipe = RECIPES[name]
    return Card(
        name=name,
        group="recipe",
        title=recipe.title,
        audit=audit.from_recipe(name),
        source=recipe.reference,
        command=f"elbos audit {name}",
    )


def trainer_cards(name: str) -> list[Card]:
    """A trainer's default settings, and its options, each with a value to start from; exact."""
    cards = []
    with contextlib.suppress(ValueError):  # it needs to know the model
        cards.append(trainer_card(name, "", {}))
    given = {flags(option): values(option) for option in TRAINERS[name].options}
    return cards + [trainer_card(name, words, given[words]) for words in filter(None, given)]


def trainer_card(name: str, words: str, given: Mapping[str, str | float | bool]) -> Card:
    """Settings of a trainer, also as the words of a command."""
    trainer = TRAINERS[name]
    found = trainer.audit(Settings(given))
    return Card(
        name=name,
        group="trainer",
        title=found.title,
        audit=found,
        settings=words or "by default",
        source=trainer.version,
        command=f'elbos audit "{name}:{words}"' if words else "",
    )


def values(option: Option) -> dict[str, str | float | bool]:
    """Settings by name, the free ones where a translation starts."""
    return {**option.settings, **{name: start for name, (start, *_) in option.free.items()}}


def flags(option: Option) -> str:
    """Settings as words of a command."""
    given = values(option)
    script = f"{given.pop('script')}.py" if "script" in given else ""
    words = [f"--{name}{_value(value)}" for name, value in given.items()]
    return " ".join(filter(None, (script, *words)))


def _value(value: str | float | bool) -> str:
    if value is True:
        return ""
    return f" {value:g}" if isinstance(value, float) else f" {value}"


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "index.html")
    parser.add_argument("--only", nargs="+", help="names of recipes, trainers and showcases")
    options = parser.parse_args()

    known = [*RECIPES, *TRAINERS, *(one.name for one in SHOWCASES)]
    for name in options.only or ():
        if name not in known:
            parser.error(f"there is no {name!r}: {suggestion(name, known)}")

    def is_wanted(name: str) -> bool:
        return not options.only or name in options.only

    cards = [recipe_card(name) for name in filter(is_wanted, RECIPES)]
    cards += [card for name in filter(is_wanted, TRAINERS) for card in trainer_cards(name)]
    showcases = [one.measured() for one in SHOWCASES if is_wanted(one.name)]
    write_html(options.out, page(cards, showcases, command=COMMAND))
    size = options.out.stat().st_size
    print(f"{len(cards)} losses, {len(showcases)} showcases, {size / 1000:,.0f} kB: {options.out}")


if __name__ == "__main__":
    main()
