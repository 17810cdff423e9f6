"""Wrong arguments of public functions end in one line of ours that names the argument."""

import copy
import importlib
import math
import sys

import pytest
import torch
from elbos.export import export
from elbos.oracles import GaussianMixture

import elbos
from elbos import analysis, audit, process, schedules, weightings
from elbos.adapters.caches import validate
from elbos.audit import Audit
from elbos.base.codec import WrongTypeError
from elbos.base.extras import MissingExtra
from elbos.comparison.result import Comparison
from elbos.evaluation import evaluate
from elbos.validation import Validation

ONE = torch.ones(1)
ORACLE = GaussianMixture(ONE, torch.zeros(1, 4), ONE)
VALIDATOR = elbos.Validator(ORACLE.sample(16, torch.Generator().manual_seed(0))[0])
RESULT = VALIDATOR(ORACLE)
RUN = elbos.Run.__new__(elbos.Run)
LOGSNR, LOSS = torch.linspace(-5, 5, 9), torch.ones(9)

CALLS = {
    "before": lambda bad: VALIDATOR.compare(bad, RESULT),
    "after": lambda bad: VALIDATOR.compare(RESULT, bad),
    "denoiser": lambda bad: VALIDATOR(bad),
    "other": lambda bad: RESULT.difference(bad),
    "weighting": lambda bad: RESULT.weighted(bad),
    "step": lambda bad: elbos.ValidationHistory(VALIDATOR).update(bad, ORACLE),
    "name": lambda bad: audit.from_recipe(bad),
    "table": lambda bad: audit.from_table(bad),
    "content": lambda bad: Audit.from_dict(bad),
    "data of a comparison": lambda bad: Comparison.from_dict(bad),
    "data": lambda bad: Validation.from_dict(bad),
    "data of a run": lambda bad: RUN.with_data(bad),
    "run": lambda bad: export(bad, "folder"),
    "model": lambda bad: evaluate(bad),
    "f": lambda bad: analysis.rising_intervals(bad, -5.0, 5.0),
    "low": lambda bad: analysis.rising_intervals(torch.exp, bad, 5.0),
    "logsnr_min": lambda bad: analysis.elbo_mixture(weightings.ELBO(), bad, 5.0),
    "loss": lambda bad: analysis.theorem_sides(weightings.ELBO(), LOGSNR, bad),
    "cache": lambda bad: validate(ORACLE, bad),
}


@pytest.mark.parametrize("bad", [5j, None, [], object()], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_type_is_named(name, bad):
    with pytest.raises((ValueError, TypeError), match=rf"{name.split()[0]}|not a validation") as e:
        CALLS[name](bad)
    line = e.traceback[-1]
    assert "elbos" in str(line.path) and "raise" in str(line.statement)
    assert "\n" not in str(e.value)


X, LEVELS = torch.randn(4, 3, 4, 4), torch.linspace(-4, 4, 4)
V, SIGMOID, COSINE = elbos.parameterizations.V(), weightings.Sigmoid(), schedules.Cosine()
OBJECTIVE = elbos.Objective(weighting=SIGMOID, schedule=COSINE, parameterization=V)
EVERY_STEP = {
    "x": [
        lambda bad: process.diffuse(bad, X, LEVELS),
        lambda bad: V.target(bad, X, LEVELS),
        lambda bad: elbos.likelihood.eps_loss(ORACLE, bad, LEVELS),
        lambda bad: elbos.likelihood.prior_loss(bad, -10.0),
        lambda bad: ORACLE.log_prob(bad, LEVELS),
    ],
    "eps": [
        lambda bad: process.diffuse(X, bad, LEVELS),
        lambda bad: OBJECTIVE(lambda z, logsnr, cond: z, X, bad, LEVELS),
    ],
    "logsnr": [
        lambda bad: process.alpha_sigma(bad),
        lambda bad: V.split(X, X, bad),
        lambda bad: SIGMOID(bad),
        lambda bad: ORACLE(X.flatten(1)[:, :4], bad),
        lambda bad: audit.from_recipe("flow").weighting(bad),
        lambda bad: elbos.LossByLevel([-5.0, 5.0]).update(bad, LEVELS),
    ],
    "generator": [
        lambda bad: COSINE.sample(4, bad or "a"),
        lambda bad: ORACLE.sample(4, bad or "a"),
    ],
    "weighting": [lambda bad: analysis.Mixture(bad, -5.0, 5.0)],
    "folder": [lambda bad: elbos.adapters.diffusers.load(bad)],
    "loss": [lambda bad: audit.from_loss(bad)],
    "p_mean": [lambda bad: schedules.Normal.edm(p_mean=bad)],
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [None, "a", [1, "a"], object()], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("name", EVERY_STEP)
def test_an_argument_of_a_call_that_failed_is_named(name, bad):
    if (name, bad) == ("folder", "a"):
        return
    for call in EVERY_STEP[name]:
        with pytest.raises(WrongTypeError, match=f"^{name} is ") as error:
            call(bad)
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_a_shape_that_does_not_fit_the_other_arguments_is_named_with_theirs():
    with pytest.raises(WrongTypeError, match=r"^eps .*\(2, 5, 7\).* x .*\(4, 3, 4, 4\)"):
        process.diffuse(X, torch.ones(2, 5, 7), LEVELS)
    with pytest.raises(WrongTypeError, match=r"^logsnr .*int64"):
        V.split(X, X, LEVELS.long())


@pytest.mark.usefixtures("unchecked")
def test_errors_of_user_code_are_theirs_and_what_works_is_admitted():
    def network(z, logsnr, cond):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        OBJECTIVE.loss(network, X)
    assert process.align(LEVELS.long(), X).shape == (4, 1, 1, 1)
    alpha, _ = torch.compile(process.alpha_sigma, fullgraph=True, backend="eager")(LEVELS)
    assert torch.equal(alpha, process.alpha_sigma(LEVELS)[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: weightings.Sigmoid(k=bad),
        lambda bad: weightings.EDM(mean=bad),
        lambda bad: weightings.NormalMixtureFlow(means=(bad,), stds=(1.0,), shares=(1.0,)),
        lambda bad: weightings.P2(gamma=bad),
        lambda bad: schedules.Laplace(scale=bad),
        lambda bad: schedules.Normal(mean=bad),
        lambda bad: schedules.Cosine(shift=bad),
    ],
)
def test_settings_of_weightings_and_schedules_are_finite(make, bad):
    with pytest.raises(ValueError, match=str(bad)):
        make(bad)


def test_an_infinite_end_selects_the_schedules_own():
    assert schedules.EDMSampling(logsnr_max=math.inf).logsnr_max < math.inf


@pytest.mark.parametrize("bad", [None, 5, "x", [], {}, [[0.0, 1.0]]], ids=repr)
def test_an_audit_read_from_values_can_be_shown(bad, tmp_path):
    """Each entry replaced by another value: refused at once, or shown."""
    content = audit.from_recipe("flow").to_dict()
    for name in content:
        try:
            read = Audit.from_dict({**copy.deepcopy(content), name: bad})
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            if name != "schedule":
                read.to_html(tmp_path / "audit.html")


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_an_adapter_of_a_missing_package_names_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"elbos.adapters.{name}", raising=False)
    with pytest.raises(MissingExtra, match=f"pip install {name}"):
        importlib.import_module(f"elbos.adapters.{name}")
