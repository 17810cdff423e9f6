r"""Published training recipes, and the weighting that each of them implies.

A recipe that samples log-SNR with density $p$, predicts $y$ and multiplies $\|\hat y - y\|^2$ by
$c(\lambda)$ implies the weighting

$$w(\lambda) \propto
  p(\lambda)\; c(\lambda)\; \frac{\|\hat y - y\|^2}{\|\hat\epsilon - \epsilon\|^2}.$$

A recipe is these three as data, and `Recipe.weighting` their product, which a test compares with
a closed form. A new method is one entry in the file of its family and a line in that test. Where
a reference says "as set by trainers", the setting is a choice or a default of public trainers, not
the word of a model's authors.

See docs/theory.md, sections 2 and 4.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

from elbos.theory.recipes.diffusion import DIFFUSION
from elbos.theory.recipes.edm import EDMS
from elbos.theory.recipes.flow import FLOW
from elbos.theory.recipes.recipe import Recipe
from elbos.theory.recipes.stable_diffusion import STABLE_DIFFUSION

FAMILIES: dict[str, dict[str, Recipe]] = {
    "diffusion": DIFFUSION,
    "Stable Diffusion": STABLE_DIFFUSION,
    "EDM": EDMS,
    "rectified flow": FLOW,
}
"""Recipes by family, then by name."""

RECIPES: dict[str, Recipe] = {
    name: recipe for family in FAMILIES.values() for name, recipe in family.items()
}
"""Every recipe by name."""

__all__ = ["FAMILIES", "RECIPES", "Recipe"]
