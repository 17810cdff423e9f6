"""The gallery: what public diffusion losses weigh. Writes index.html beside this file.

python docs/gallery/make.py [--out PATH] [--only NAME...]

Recipes and trainers' settings are exact; the showcases are measured, from examples/audit.
"""

import argparse
from pathlib import Path

from elbos import audit
from elbos.recipes import RECIPES
from elbos.report.gallery import Card, page
from elbos.report.html import write_html

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
    parser.add_argument("--only", nargs="+", help="names of recipes, trainers and showcases")
    options = parser.parse_args()

    def is_wanted(name: str) -> bool:
        return not options.only or name in options.only

    cards = [recipe_card(name) for name in filter(is_wanted, RECIPES)]
    write_html(options.out, page(cards, [], command=COMMAND))
    size = options.out.stat().st_size
    print(f"{len(cards)} losses, {size / 1000:,.0f} kB: {options.out}")


if __name__ == "__main__":
    main()
