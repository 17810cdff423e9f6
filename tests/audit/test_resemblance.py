"""A loss is told from a published one that it is but for a slip; a published one is itself."""

import dataclasses
import re

import pytest
import torch
from audited import X, audited
from mistaken_losses import MISTAKES

from elbos import audit
from elbos.audit.names.matching import fit_formula
from elbos.audit.names.resemblance import COEFFICIENTS, EDITS
from elbos.audit.words import views
from elbos.theory import parameterizations
from elbos.theory.recipes import RECIPES

LEVELS = torch.linspace(-8, 8, 161, dtype=torch.float64)
SHARES = torch.full((161,), 1 / 161, dtype=torch.float64).numpy()
PREDICTIONS = {"eps": parameterizations.Eps(), "x": parameterizations.X(),
               "v": parameterizations.V(), "flow": parameterizations.Flow()}  # fmt: skip
OF_RECIPES = {"Min-SNR": "min-snr-5", "P2": "p2-1", "debiased estimation": "debiased",
              "EDM": "edm", "truncated SNR": "truncated-snr", "soft Min-SNR": "soft-min-snr-4",
              "the plain eps-loss": "iddpm", "the plain v-loss": "v-cosine",
              "the plain x-loss": "indi"}  # fmt: skip


def slips(result):
    return [(one.part, one.change) for one in result.resembles if one.change]


def kinds_of_notes(result):
    return [note.kind for note in views([result])[0].notes]


WRONG = {  # of the mistaken losses, the part that resembles something published; None: an error
    "max_for_min": "coefficient",
    "one_plus_min_snr": "coefficient",
    "shifted_twice": "noise levels",
    "sqrt_twice": "process",
    "broadcast": None,
}


@pytest.mark.parametrize(("name", "part"), WRONG.items(), ids=WRONG)
def test_a_bug_is_told_before_the_verdict(name, part):
    result = audited(next(m.wrong for m in MISTAKES if m.name == name), 4000)
    notes = kinds_of_notes(result)
    if part is None:
        assert notes == ["error"] and result.verdict == "code error"
    else:
        assert [where for where, _ in slips(result)] == [part]
        assert notes[0] == "slip" and notes[1:] in (["yes"], ["no"], ["maybe"])
        (view,) = views([result])
        (slip,) = view.slips
        assert view.explanation.startswith("As written")
        assert view.explanation.endswith(f" {slip.change}?") and "DDPM" not in view.explanation
    assert result.recipe is None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_itself_and_like_no_other(name):
    result, recipe = audit.from_recipe(name), RECIPES[name]
    assert slips(result) == []
    found = RECIPES[result.recipe]
    assert (found.closed_form, found.schedule) == (recipe.closed_form, recipe.schedule)


@pytest.mark.parametrize("one", COEFFICIENTS, ids=lambda one: f"{one.name}, {one.prediction}")
def test_a_published_coefficient_is_its_recipes(one):
    """That of the recipe's weighting over its density, for this prediction type."""
    recipe = RECIPES[OF_RECIPES[one.name]]
    log_k = recipe.closed_form(LEVELS).log() - recipe.schedule.log_density(LEVELS)
    log_c = log_k + PREDICTIONS[one.prediction].eps_error_per_error(LEVELS).log()
    d, g = fit_formula(one.formula, LEVELS.numpy(), log_c.numpy(), SHARES)
    assert d < 1e-3
    assert g == pytest.approx({"Min-SNR": 5.0, "soft Min-SNR": 4.0}.get(one.name, 1.0), rel=1e-2)


@pytest.mark.parametrize(("change", "pattern", "replacement"), EDITS, ids=lambda part: str(part))
def test_every_edit_changes_a_published_formula(change, pattern, replacement):
    edited = {re.sub(pattern, replacement, one.formula) for one in COEFFICIENTS}
    assert edited - {one.formula for one in COEFFICIENTS}


def toward(time):
    """Flow matching with the target x - eps, for a network that is given some time."""

    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        return (network((1 - t) * x + t * eps, time(t.flatten())) - (x - eps)).square().mean()

    return loss


@pytest.mark.parametrize(
    ("time", "sign", "kind"),
    [(lambda t: 1 - t, 1, "published"), (lambda t: 1000 * t, -1, "slip")],
    ids=["noise to data", "data to noise"],
)
def test_the_sign_of_a_flow_is_that_of_its_time(time, sign, kind):
    result = audit.probe(toward(time), X[:64], 500)
    assert (result.parameterization_factor, result.time_sign) == (-1, sign)
    assert slips(result) == [("target", "the other sign")]
    assert kinds_of_notes(result) == [kind, *(["published"] if sign > 0 else []), "yes"]


def test_a_fatal_finding_leaves_nothing_to_be_compared():
    coupled = audit.diagnostics.Coupled(share=0.5)
    result = dataclasses.replace(audit.from_recipe("flow"), diagnostics=[coupled])
    assert result.resembles == [] and result.recipe is None
