"""The terminal shows what the audit found, fits its width, and draws what it says."""

import dataclasses
import json
import math
from types import UnionType

import pytest
import torch
from scipy.stats import norm

from elbos.audit import Audit, Diagnostic, from_recipe
from elbos.audit.diagnostics import KINDS, BatchMean, Clamped, NotFinite, NotSquared
from elbos.audit.report import as_text
from elbos.audit.words import as_dict, difference, facts_tables, views

HUBER = NotSquared(growth=0.5)


@pytest.fixture(scope="module")
def edm():
    """Not monotone, and with nothing near that has a name, so that its code is a table."""
    audit = from_recipe("edm")
    return dataclasses.replace(audit, closest=[audit.closest[-1]])


@pytest.fixture(scope="module")
def sigmoid():
    return from_recipe("sigmoid-2")


def flat(text):
    return " ".join(text.split())


def test_the_terminal_shows_what_the_audit_found(edm):
    text = flat(as_text([edm]))
    (view,) = views([edm])
    assert text.startswith(f"{edm.title}: {view.summary}")
    assert all(f"{note.mark} {flat(note.text)}" in text for note in view.notes)
    assert view.explanation in text
    assert all(said in view.prose for said in (view.summary, view.notes[0].text, view.explanation))
    assert str(edm) == as_text([edm])
    assert len(as_text([edm]).splitlines()) <= 24
    (table,) = facts_tables([view], 1)
    text = flat(as_text([edm], width=200, is_verbose=True))
    assert all(f"{name} {flat(value)}" in text for name, value in table.rows)
    assert all(f"{name} {off}" in text for name, off in view.nearest)
    assert flat(view.factor) in text


@pytest.mark.parametrize("found", [HUBER, BatchMean(), NotFinite()], ids=lambda one: one.kind)
def test_errors_come_before_a_verdict_and_leave_none(edm, sigmoid, found):
    for audit in (edm, sigmoid):
        broken = dataclasses.replace(audit, diagnostics=[found])
        assert [note.kind for note in views([broken])[0].notes] == ["error"]
        assert broken.is_monotone is None and broken.monotone_code is None
        assert broken.resembles == [] and broken.recipe is None
        text = as_text([broken])
        assert "rises" not in text.partition("weighting w")[2] and "╱" not in text
        assert views([broken])[0].facts["w rises on"] == "–"


def test_an_unusual_target_is_shown_by_its_coefficients(sigmoid):
    alpha, sigma = (sign * sigmoid.logsnr for sign in (1, -1))
    alpha, sigma = alpha.sigmoid().sqrt(), sigma.sigmoid().sqrt()

    def predicts(a, b):
        audit = dataclasses.replace(sigmoid, parameterization=None, a=a, b=b)
        return views([audit])[0].facts["predicts"]

    assert predicts(sigma, alpha) == "y = sigma x + alpha eps"
    assert predicts(-2 * alpha, 0.5 * alpha / sigma) == "y = -2 alpha x + 0.5 alpha/sigma eps"
    assert predicts(0 * alpha, -sigma) == "y = -sigma eps"
    in_numbers = predicts(torch.cos(sigmoid.logsnr), alpha)
    assert "1.00" in in_numbers and "0.71" in in_numbers  # in the middle, at log-SNR 0
    negative = dataclasses.replace(sigmoid, parameterization="flow", parameterization_factor=-1.0)
    assert views([negative])[0].facts["predicts"] == "-1 × flow: x - eps"


@pytest.mark.parametrize(("name", "std", "top"), [("edm", 2.4, -3.308), ("sd3", 2.0, -3.376)])
def test_a_verdict_is_graded_by_the_samples_where_the_weighting_rises(name, std, top):
    """Their share is a normal distribution's, of the levels that a recipe is shown for."""
    audit = from_recipe(name)
    mean = {"edm": 2.4, "sd3": 0.0}[name]
    share = (norm.cdf(top, mean, std) - 1e-5) / (1 - 2e-5)
    assert f"{share:.1%}" in views([audit])[0].notes[-1].text
    assert views([audit])[0].facts["samples there"] == f"{share:.1%}"


@pytest.mark.parametrize("name", ["edm", "min-snr-5", "flow", "sd3"])
def test_the_nearest_objective_changes_nothing_above_the_last_rise(name):
    """Whether it is given by name or as a table, and whatever the sampling error."""
    exact = from_recipe(name)
    noise = 0.01 * torch.randn(len(exact.logsnr), generator=torch.Generator().manual_seed(0))
    noisy = dataclasses.replace(exact, weight=exact.weight * noise.exp())
    unnamed = dataclasses.replace(noisy, closest=[exact.closest[0]._replace(distance=0.5)])
    for audit in (exact, noisy, unnamed):
        lifted = audit.monotone_weight
        if not audit.rising:
            assert torch.equal(lifted, audit.weight) and audit.monotone_code is None
            assert (audit.monotone_factor(audit.logsnr) == 1).all()
            continue
        above = audit.logsnr > audit.factor.end
        assert torch.equal(lifted[above], audit.weight[above])
        assert (lifted >= audit.weight).all()
        fall = lifted.log()[:-1] - lifted.log()[1:]
        assert fall.min() > (-0.08 if audit is not exact else -1e-12)
        scope = {}
        exec(audit.monotone_code, scope)
        factor = scope["monotone_factor"](audit.logsnr)
        torch.testing.assert_close(factor, audit.monotone_factor(audit.logsnr), rtol=1e-3, atol=0)
        torch.testing.assert_close(factor[above], torch.ones_like(factor[above]))
        torch.testing.assert_close(factor, lifted / audit.weight, rtol=0.1, atol=0)


def test_a_name_is_given_to_the_nearest_objective_only_where_it_rises_too():
    """A bump of 10 % in EDM's fall: the named weighting would leave it."""
    exact = from_recipe("edm")
    assert exact.factor.name == "EDM()"
    bump = 0.1 * torch.exp(-(((exact.logsnr - 1) / 0.5) ** 2))
    bumpy = dataclasses.replace(exact, weight=exact.weight * (1 + bump), rising=[(0.5, 1.0)])
    assert bumpy.factor.name is None


EXAMPLES = {float: 0.25, int: 3, str: "name", list[float]: [4.0, 1.0]}  # by annotation


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_has_all_values_of_its_kind(kind):
    named = {field.name: field.type for field in dataclasses.fields(KINDS[kind])}
    optional = {name: type_ for name, type_ in named.items() if isinstance(type_, UnionType)}
    needed = {name: EXAMPLES[named[name]] for name in named.keys() - optional.keys()}
    cases = [needed, *(needed | {name: EXAMPLES[t.__args__[0]]} for name, t in optional.items())]
    for values in cases[1:] if kind == "coloured-noise" else cases:  # which has one of four
        if kind == "coloured-noise" and "strength" in values:
            values |= {"shape": EXAMPLES[list[float]]}
        actual = Diagnostic.from_values(kind, values)
        assert (actual.kind, actual.values) == (kind, values)
        assert not set("{}") & set(actual.text)


def test_a_diagnostic_of_no_kind_is_refused():
    with pytest.raises(ValueError, match="offset-noise"):
        Diagnostic.from_values("ofset-noise", {})


def test_an_audit_is_read_back_from_json(edm):
    far = edm.closest[-1]._replace(distance=math.inf)
    clamped = Clamped(share=0.1, logsnr=[-1.0, 2.0])
    audit = dataclasses.replace(edm, closest=[far], diagnostics=[clamped])
    content = json.loads(audit.to_json(), parse_constant=pytest.fail)
    assert Audit.from_dict(content).to_json() == audit.to_json()
    assert content["closest"] == [{"name": far.name, "distance": "inf"}]
    assert content["diagnostics"] == [
        {"kind": "clamped", "values": {"share": 0.1, "logsnr": [-1.0, 2.0]}, "is_fatal": False}
    ]
    assert as_dict(audit)["in_words"] == views([audit])[0].prose


def test_json_has_no_numbers_that_json_does_not_have(edm):
    weight = edm.weight.clone()
    weight[0] = 5e-324  # as where it underflows
    audit = dataclasses.replace(edm, weight=weight, rising=[])
    content = json.loads(audit.to_json(), parse_constant=pytest.fail)
    assert content["mass_at_max"] == "inf"
    assert content["weight"][1:] == audit.weight[1:].tolist()


def test_the_difference_is_that_of_the_weightings(edm, sigmoid):
    assert "0.0%" in difference(edm, edm)
    scaled = dataclasses.replace(edm, weight=3 * edm.weight)  # a constant does not count
    assert difference(edm, scaled) == difference(edm, edm)
    tilted = dataclasses.replace(edm, weight=edm.weight * torch.exp(0.1 * edm.logsnr))
    p = edm.density / edm.density.sum()
    mean = (p * edm.logsnr).sum()
    spread = 0.1 * math.sqrt((p * (edm.logsnr - mean) ** 2).sum())  # of 0.1 logsnr, in closed form
    assert f"{spread:.1%}" in difference(edm, tilted)
    assert difference(edm, tilted) in flat(as_text([edm, tilted]))
    far = dataclasses.replace(sigmoid, logsnr=sigmoid.logsnr + 100)
    assert "%" not in difference(edm, far)
