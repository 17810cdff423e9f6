"""The gallery: what public diffusion losses weigh. Writes index.html beside this file.

python docs/gallery/make.py [--out PATH] [--only NAME...]

Recipes are exact; the showcases are measured, from examples/audit.
"""

import argparse
from pathlib import Path

from page import Card, page
from showcases import SHOWCASES

from elbos import audit
from elbos.base.errors import suggestion
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


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "index.html")
    parser.add_argument("--only", nargs="+", help="names of recipes and showcases")
    options = parser.parse_args()

    known = [*RECIPES, *(one.name for one in SHOWCASES)]
    for name in options.only or ():
        if name not in known:
            parser.error(f"there is no {name!r}: {suggestion(name, known)}")

    def is_wanted(name: str) -> bool:
        return not options.only or name in options.only

    cards = [recipe_card(name) for name in filter(is_wanted, RECIPES)]
    showcases = [one.measured() for one in SHOWCASES if is_wanted(one.name)]
    page(cards, showcases, command=COMMAND).write_html(options.out)
    size = options.out.stat().st_size
    print(f"{len(cards)} losses, {len(showcases)} showcases, {size / 1000:,.0f} kB: {options.out}")


if __name__ == "__main__":
    main()
