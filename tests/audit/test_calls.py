"""The calls of a loss: arguments, outputs, random numbers, and what cannot be measured."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_errors import relative_errors
from audited import X, cosine_v, flow_loss, kinds
from mistaken_losses import ODDITIES

from elbos import audit
from elbos.theory import weightings
from elbos.theory.recipes import RECIPES


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_that_are_not_a_number_at_some_levels_are_left_out(seed):
    """A weight of 0/0 at one of 1000 levels spoils its whole batch."""

    def loss(network, x):
        i, eps = torch.randint(1000, (len(x),)), torch.randn_like(x)
        t = (i[:, None, None, None] + 0.5) / 1000
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
        return (error * (i / i)).mean()

    result = audit.probe(loss, X[:64], 2000, seed=seed)
    assert set(kinds(result)) <= {"not-finite"}
    assert (result.parameterization, result.density_kind) == ("flow", "table")


def test_an_audit_leaves_no_tensors_behind():
    def num_tensors():
        gc.collect()
        return sum(isinstance(item, torch.Tensor) for item in gc.get_objects())

    counts = []
    for seed in range(3):
        audit.probe(flow_loss(), X[:64], 500, seed=seed)
        counts.append(num_tensors())
    assert counts[0] == counts[1] == counts[2]


def reduced(how):
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)
        eps = torch.randn_like(x)
        out = network((1 - t) * x + t * eps, t)
        error = (how["output"](out) - (eps - x)).square()
        return how["loss"](error)

    return loss


@pytest.mark.parametrize(
    "how",
    [
        {"output": lambda out: out, "loss": lambda error: error},
        {"output": lambda out: out.sample, "loss": lambda error: error.flatten(1).mean(1)},
        {"output": lambda out: out, "loss": lambda error: (error.sum(), {"log": 0.0})},
        {"output": lambda out: out[0], "loss": lambda error: {"loss": error.mean(), "mse": 1}},
        {"output": lambda out: out.mul_(1), "loss": lambda error: error},
        {"output": lambda out: out.sample.mul_(1), "loss": lambda error: error},
    ],
    ids=["elements", "sample", "tuple", "index, dict", "in place", "sample in place"],
)
def test_any_output_and_any_reduction(how):
    result = audit.probe(reduced(how), X, 500)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


def test_a_loss_in_bfloat16_has_the_weighting_of_one_in_float32():
    how = {"output": lambda out: out.bfloat16(), "loss": lambda error: error}
    result = audit.probe(reduced(how), X, 500)
    assert (kinds(result), result.recipe) == ([], "flow")


def test_arguments_are_passed_and_asked_for():
    def loss(network, x):
        label = torch.randint(10, (len(x),))
        device = next(network.parameters()).device
        t = torch.rand(len(x), device=device)
        z = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * (eps := torch.randn_like(x))
        out = network(hidden_states=z, timestep=t, class_labels=label, return_dict=False)[0]
        return F.mse_loss(out, eps - x)

    assert audit.probe(loss, X, 1000).parameterization == "flow"


def test_a_generator_of_the_loss_is_reset_too():
    generator = torch.Generator().manual_seed(3)
    loss = flow_loss(lambda num: torch.rand(num, generator=generator))
    assert audit.probe(loss, X, 500).schedule == "Flow()"


def test_probes_in_threads_do_not_change_each_other():
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda seed: audit.probe(cosine_v, X, 600, seed), (1, 1, 2)))
    assert torch.equal(results[0].weight, results[1].weight)
    assert all(result.schedule == "Cosine()" for result in results)


def test_probe_restores_numpys_random_functions(monkeypatch):
    def mine(*shape):
        return np.full(shape, 0.5)

    monkeypatch.setattr("numpy.random.rand", mine)
    audit.probe(cosine_v, X, 300)
    with pytest.raises(ValueError, match="The loss raised"):
        audit.probe(lambda network, x: 1 / 0, X, 300)
    assert np.random.rand is mine


def test_a_pair_of_outputs_is_audited_by_the_first():
    edm2 = next(oddity.loss for oddity in ODDITIES if oddity.name == "learned_loss_weight")
    result = audit.probe(edm2, X, 1000)
    assert (result.parameterization, result.schedule) == ("x", "Normal(mean=0.8, std=2.0)")
    assert relative_errors(result, RECIPES["edm2"].weighting).abs().median() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        ((X, cosine_v), {}, "loss_fn is .*Tensor"),
        ((cosine_v, X.numpy()), {}, "x is .*ndarray.*Tensor"),
        ((cosine_v, X.int()), {}, "int32"),
        ((cosine_v, X * torch.nan), {}, "not finite"),
        ((lambda network, x: 0 * cosine_v(network, x), X), {"num_samples": 100}, "zero"),
        ((cosine_v, X), {"num_samples": 99}, "num_samples is 99"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(arguments, options, named, unchecked):
    with pytest.raises(ValueError, match=named):
        audit.probe(*arguments, **options)


def test_neither_a_mode_of_gradients_nor_those_of_the_data_change_anything():
    expected = audit.probe(cosine_v, X[:64], 400)
    with torch.inference_mode():
        result = audit.probe(cosine_v, X[:64].clone().requires_grad_(), 400)
    assert torch.equal(result.weight, expected.weight)
