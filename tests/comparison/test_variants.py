"""Objectives of a comparison: they differ in nothing else, and users write their own."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from comparing import Here
from tiny import DIGITS

from elbos.base.errors import explained
from elbos.base.philox import key_of
from elbos.comparison.compare import run_experiment
from elbos.comparison.experiment import Experiment
from elbos.comparison.result import loss_key
from elbos.comparison.variants import DEFAULT_VARIANTS, VARIANTS, Variant, loss_scale
from elbos.theory import weightings
from elbos.theory.elbo import is_monotone
from elbos.theory.weightings import Tabulated
from elbos.training import randomness
from elbos.training.data.batches import Batches
from elbos.training.loop import Loss, train


@pytest.mark.parametrize("name", VARIANTS)
def test_names_tell_what_is_monotone(name):
    """The published ones as the table of the theory says; what is called monotonic is."""
    rises = {"iddpm", "edm", "edm-adaptive", "sd3", "sd3-adaptive", "p2"}
    rises |= {"min-snr", "min-snr-adaptive"}
    assert is_monotone(VARIANTS[name].weighting, -10.0, 13.3) == (name not in rises)


def test_the_default_objectives_have_pairs_of_monotone_and_not():
    """That differ in the weighting only."""
    variants = [VARIANTS[name] for name in DEFAULT_VARIANTS]
    actual = {
        (yes.name, no.name)
        for yes, no in itertools.permutations(variants, 2)
        if is_monotone(yes.weighting, -10.0, 13.3) > is_monotone(no.weighting, -10.0, 13.3)
        if (yes.parameterization, yes.schedule) == (no.parameterization, no.schedule)
    }
    assert actual == {
        ("eps-cosine-sigmoid-2", "iddpm"),
        ("edm-adaptive-sigmoid-2", "edm-adaptive"),
        ("edm-adaptive-monotonic", "edm-adaptive"),
        ("sd3-adaptive-monotonic", "sd3-adaptive"),
        ("min-snr-adaptive-monotonic", "min-snr-adaptive"),
    }


def test_only_the_objective_differs():
    config = VARIANTS["edm"].config(DIGITS)
    ends = {"logsnr_min": DIGITS.schedule.logsnr_min, "logsnr_max": DIGITS.schedule.logsnr_max}
    variant = VARIANTS["edm"]
    assert config == replace(
        DIGITS,
        parameterization=variant.parameterization,
        schedule=replace(variant.schedule, **ends),
        weighting=variant.weighting,
        optimizer=replace(DIGITS.optimizer, max_grad_norm=config.optimizer.max_grad_norm),
    )


def test_the_scale_of_a_weighting_is_a_loss_known_in_closed_form():
    """Of w = 1, half the integral of the sigmoid: the information of normal data, in nats."""
    expected = 0.5 * (torch.nn.functional.softplus(torch.tensor([9.0, -7.0])).diff().abs()).item()
    assert loss_scale(weightings.ELBO(), -7.0, 9.0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("max_grad_norm", [1.0, 3.0])
def test_a_constant_factor_of_the_weighting_scales_what_the_optimizer_sees(
    folder, monkeypatch, max_grad_norm
):
    """Four times the weighting, four times the gradient after clipping, above the norm at which it
    is clipped and below: optimizers do not mind. With the same norm for both it is not so.
    """
    optimizer = replace(DIGITS.optimizer, max_grad_norm=max_grad_norm)
    base = replace(DIGITS, precision="fp32", optimizer=optimizer)
    once, four = (
        replace(VARIANTS["v-cosine"], weighting=weighting).config(base)
        for weighting in (
            weightings.Exponential(),
            weightings.Shifted(weightings.Exponential(), math.log(4)),  # exp(s) exp(-l / 2)
        )
    )

    def clipped(config):
        gradients = []

        def step(self):
            gradients.extend(p.grad.flatten() for g in self.param_groups for p in g["params"])

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
        path = folder / f"run-{len([*folder.iterdir()])}"
        train(replace(config, num_images=config.batch_size), path)
        return torch.cat(gradients)

    torch.testing.assert_close(clipped(four), 4 * clipped(once), rtol=1e-4, atol=1e-6)
    alike = clipped(replace(four, optimizer=once.optimizer))
    assert alike.norm() < 0.9 * clipped(four).norm()


@pytest.mark.parametrize("words", ["mine.py:ramp", "'mine.py:ramp'", "Shifted(my own.py:ramp, 0)"])
def test_a_weighting_in_a_file_is_its_numbers(folder, words):
    (folder / "my own.py").write_bytes((folder / "mine.py").read_bytes())
    weighting = Variant.parse(f"mine=V(),Adaptive(),{words}").weighting
    logsnr = torch.tensor([-99.0, -4.0, 1.003, 7.0])
    torch.testing.assert_close(weighting(logsnr), torch.tensor([9.0, 9.0, 4.997, 0.0]))


def test_a_function_is_trained_and_scored_from_its_numbers(small, folder):
    """Of the same objective, written as a function: the same scores, to the error of the table."""
    function = Tabulated.from_function(lambda logsnr: torch.sigmoid(2 - logsnr), "mine")
    objectives = (
        VARIANTS["v-adaptive-sigmoid-2"],
        replace(VARIANTS["v-adaptive-sigmoid-2"], name="mine", weighting=function),
    )
    actual = run_experiment(replace(small, objectives=objectives), Path("c"), Here())
    for metric, by_seed in actual.values["mine"].items():
        same = actual.values["v-adaptive-sigmoid-2"][metric]
        assert by_seed[0] == pytest.approx(same[0], rel=1e-3), metric
    losses = [actual.values["mine"][loss_key(repr(o.weighting))][0] for o in objectives]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    jaxtyping.config.update("jaxtyping_disable", True)  # as for users, whose types nobody checks
    with pytest.raises(ValueError, match=r"exp.*Tabulated\.from_function"):
        replace(objectives[0], weighting=torch.exp)


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("a=V(),Adaptive(),nope.py:f", "nope.py"),
        ("a=V(),Adaptive(),mine.py:fails", "mine.py:fails fails: IndexError (line 6)"),
        ("a=V(),Adaptive(),Sigmoid(k=-1e30)", "objective a "),
        ("a=V()", "'a'"),
        ("a=V(),Adaptive(),Sigmoid(q=3)", "q"),
        ("../a=V(),Adaptive(),ELBO()", "'../a'"),
    ],
)
def test_an_objective_that_makes_no_sense_is_one_line(folder, words, needed):
    with pytest.raises((ValueError, OSError)) as error:
        Experiment(config=DIGITS, objectives=(Variant.parse(words),))
    assert needed in explained(error.value)
    assert "\n" not in explained(error.value)


@pytest.mark.parametrize("step", [0, 5])
def test_objectives_of_a_seed_share_everything_random(small, folder, step):
    """Initial weights, order of the data, noise, uniform times, dropped labels: bit for bit."""

    def drawn(objective, seed):
        config = small.run_config(objective, seed)
        data, samples = config.data.load(), torch.arange(config.batch_size)
        batches = Batches(data.train, config.batch_size, config.seed, slice(None))
        stored, cond, rows, epochs = batches[step]
        x = data.augmented(stored, key_of(config.seed), rows, epochs)
        network = config.build_network(data.spec)
        loss = Loss(
            network,
            config.objective,
            data.null_cond,
            seed=config.seed,
            label_dropout=config.label_dropout,
        )
        noise, hidden = loss.drawn(x, cond, torch.tensor(step), samples)
        weights = torch.cat([p.flatten() for p in network.parameters()])
        times = randomness.times(config.seed, step, config.batch_size)
        return [x, cond, times, noise, hidden, weights]

    first, *rest = (drawn(item, 1) for item in small.objectives)
    for other in rest:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, other, strict=True))
    another = drawn(small.objectives[0], 2)
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(first, another, strict=True))
