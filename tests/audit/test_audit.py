"""The audit: every recipe, written as people write it, is recovered; every mistake is told."""

import math
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
import torch.nn.functional as F
from audit_errors import central, relative_errors
from audited import X, audited, audited_oddity, first_writings
from mistaken_losses import (
    MISTAKES,
    ODDITIES,
    from_noise,
    input_perturbation,
    offset_noise,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from training_losses import CASES, cosine_with_offset

from elbos import analysis, audit, schedules, weightings
from elbos.audit.diagnostics import FATAL
from elbos.audit.matching import code
from elbos.audit.measure import measure
from elbos.audit.rng import Recorder, preserved_random_states
from elbos.recipes import RECIPES
from elbos.report.audit_terminal import as_text


def kinds(result):
    return [one.kind for one in result.diagnostics]


def within(intervals, low, high):
    """The parts of intervals between two ends."""
    cut = ((max(start, low), min(end, high)) for start, end in intervals)
    return [(start, end) for start, end in cut if start < end]


def other_writings_are_slow(cases):
    """One writing of each recipe in every run of the tests, the others in `make slow`."""
    firsts = first_writings()
    return [
        pytest.param(case, id=name, marks=[] if name in firsts else pytest.mark.slow)
        for case, name in ((case, case.loss.__name__) for case in cases)
    ]


def truth_of(case, result):
    """What a case weighs; its recipe's closed form, but for the offset that cosine steps have."""
    closed_form = RECIPES[case.recipe].closed_form
    if case.is_coarse or (result.density_kind, result.schedule) != ("table", "Cosine()"):
        return case.weighting or closed_form
    iddpm = weightings.IDDPM()
    return lambda logsnr: closed_form(logsnr) * cosine_with_offset(logsnr) / iddpm(logsnr)


@pytest.mark.parametrize("case", other_writings_are_slow(CASES))
def test_a_recipe_is_recovered(case):
    result = audited(case.loss)
    closed_form = RECIPES[case.recipe].closed_form
    for truth in (case.weighting or closed_form, truth_of(case, result)):
        errors = relative_errors(result, truth).abs()
        assert errors.median() < 0.03
        assert errors.quantile(0.95) < 0.08
    is_table = result.density_kind == "table"  # whose steps are not yet the limit of many
    assert errors.quantile(0.95) < (0.015 if is_table else 0.003)
    assert result.parameterization == case.parameterization
    assert result.closest[0].name == code(closed_form)
    if case.is_coarse:  # the closed form holds in the limit of many steps
        return
    kept = result.logsnr[central(result)]
    low, high = kept[0].item(), kept[-1].item()
    expected = within(analysis.rising_intervals(closed_form, -50, 50), low, high)
    found = within(result.rising, low, high)
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0)  # where the slope is 0


@pytest.mark.parametrize("case", other_writings_are_slow([c for c in CASES if not c.is_coarse]))
def test_the_verdict_on_monotonicity_is_right(case):
    result = audited(case.loss)
    low, high = result.logsnr[0].item(), result.logsnr[-1].item()
    assert result.is_monotone == analysis.is_monotone(RECIPES[case.recipe].closed_form, low, high)


def has(**values):
    """Whether attributes of an audit are these."""
    return lambda result: all(getattr(result, name) == value for name, value in values.items())


# What the audit of the mistaken loss finds and that of the right one does not.
FOUND = {
    "max_for_min": has(coefficient_name="max(snr, 5)"),
    "snr_is_a_root": has(coefficient_name="min(sqrt(snr), 5)/sqrt(snr)"),
    "snr_inverted": has(coefficient_name="min(snr, 0.2)/(snr + 1)"),
    "eps_weight_on_v": has(coefficient_name="min(snr, 5)/snr"),
    "x_weight_on_eps": has(coefficient_name="min(snr, 5)"),
    "one_plus_min_snr": has(coefficient_name="min(snr, 5)/snr + 1"),
    "min_of_snr_plus_one": has(coefficient_name="min(snr + 1, 5)/(snr + 1)"),
    "one_at_zero_snr": lambda result: abs(result.weight_pure_noise - 3.93) < 0.05,
    "alphas_cumprod_off_by_one": has(coefficient_name=None),
    "normalized_by_the_batch": lambda result: kinds(result) == ["scattered"],
    "p2_exponent_sign": has(coefficient_name="snr + 1"),
    "sqrt_twice": has(process=None),
    "broadcast": lambda result: kinds(result) == ["batch-mean"],
    "mean_before_weight": lambda result: kinds(result) == ["batch-mean"],
    "weights_forgotten": has(coefficient_name="1"),
    "missing_derivative": lambda result: result.closest[0].name == "SoftMinSNR(gamma=7.389)",
    "p_mean_sign": has(schedule="Normal(mean=-2.4)"),
    "p_mean_p_std_swapped": has(schedule="Normal(mean=-3.2, std=1.6)"),
    "sigma_data_not_squared": has(coefficient_name="snr + 2"),
    "sum_for_product": has(coefficient_name=None),
    "shifted_twice": has(schedule="Flow(shift=9.0)"),
    "shift_inverted": has(schedule="Flow(shift=0.3333)"),
    "logit_normal_flipped": lambda result: result.closest[0].name.startswith(
        "LogitNormalFlow(mean=-0.4"
    ),
    "preconditioned": has(coefficient_name="t**2, t = 1/(1 + sqrt(snr))"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_found(mistake):
    is_found = FOUND[mistake.name]
    assert is_found(audited(mistake.wrong, 4000)), mistake.what
    assert not is_found(audited(mistake.right, 4000))


def test_what_the_guide_quotes_is_printed():
    guide = (Path(__file__).parents[2] / "docs/audit.md").read_text()
    texts = [as_text([audited(mistake.wrong, 4000)], width=400) for mistake in MISTAKES]
    texts = [" ".join(text.split()) for text in texts]
    quotes = re.findall("“(.*?)”", guide)
    assert len(quotes) > 20
    for quote in quotes:
        assert any(quote in text for text in texts), quote


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda oddity: oddity.name)
def test_what_a_weighting_does_not_show_is_diagnosed(oddity):
    result = audited_oddity(oddity)
    assert kinds(result) == ([] if oddity.kind is None else [oddity.kind])
    assert result.is_weighted_elbo == (oddity.kind not in FATAL)


@pytest.mark.parametrize("strength", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (16, 4, 16, 16)])
def test_the_strength_of_offset_noise_is_exact(strength, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    result = audit.probe(from_noise(offset_noise(strength)), x, 1000)
    [found] = result.diagnostics
    assert found.kind == "offset-noise"
    assert found.values["strength"] == pytest.approx(strength, rel=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centred_noise_is_not_taken_for_coloured(seed):
    """Molecules have no centre of mass, and so has their noise."""

    def centred(x):
        return x - x.mean(1, keepdim=True)

    x = centred(torch.randn(64, 12, 3, generator=torch.Generator().manual_seed(seed)))
    result = audit.probe(from_noise(lambda x: centred(torch.randn_like(x))), x, 1000, seed=seed)
    assert kinds(result) == ["noise-unseen"]


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_that_is_a_sum_of_draws_is_known(seed):
    """As z = t x + (1 - t) x0 + 0.1 eps: all levels are those of the sum, without an error."""

    def loss(network, x):
        t, x0, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x), torch.randn_like(x)
        noise = ((1 - t) * x0 + 0.1 * eps) / ((1 - t) ** 2 + 0.01).sqrt()
        z = t * x + (1 - t) * x0 + 0.1 * eps
        return (network(z, t) - noise).square().mean()

    result = audit.probe(loss, X, 5000, seed=seed)
    assert kinds(result) == ["summed-noise"]
    assert (result.parameterization, result.parameterization_factor) == ("eps", 1.0)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    logsnr = 2 * t.log() - ((1 - t) ** 2 + 0.01).log()
    (rate,) = torch.autograd.grad(logsnr.sum(), t)
    found = np.interp(logsnr.detach(), result.logsnr, result.weight.log())
    errors = torch.from_numpy(found) + rate.log()
    assert (errors - errors.median()).abs().median() < 0.03


def test_a_target_without_a_part_of_the_noise_is_told():
    result = audit.probe(input_perturbation, X, 5000)
    assert kinds(result) == ["summed-noise", "strange-target", "unknown-target"]
    assert result.diagnostics[1].values["share"] == pytest.approx(0.01, rel=0.1)
    assert result.coefficient_name == "1"


def cosine_v(network, x):
    t = torch.rand(len(x), 1, 1, 1)
    alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
    eps = torch.randn_like(x)
    return (network(alpha * x + sigma * eps, t) - (alpha * eps - sigma * x)).square().mean()


def test_the_scale_and_the_offset_of_the_data_are_found():
    images = (X + 1) / 2
    result = audit.probe(lambda network, x: cosine_v(network, 2 * x - 1), images, 3000)
    assert (result.data_scale, round(2 * result.data_offset, 6)) == (2.0, -1.0)
    expected = audit.probe(cosine_v, X, 3000)
    torch.testing.assert_close(result.logsnr, expected.logsnr, atol=2e-2, rtol=0)


def test_data_may_be_standardized_by_sample():
    def loss(network, x):
        axes = (1, 2, 3)
        return cosine_v(network, (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))

    result = audit.probe(loss, X[:64], 5000)
    assert result.parameterization == "v"
    assert relative_errors(result, weightings.Exponential()).abs().max() < 0.01


def test_the_scale_of_the_data_can_be_given():
    result = audit.probe(cosine_v, X, 3000, data_scale=2.0)
    expected = audit.probe(cosine_v, X, 3000)
    shift = 2 * torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(result.logsnr, expected.logsnr - shift, atol=1e-6, rtol=0)


def test_zero_terminal_snr_is_reported_and_no_number_is_lost():
    loss = next(oddity.loss for oddity in ODDITIES if oddity.name == "zero_terminal_snr")
    result = audit.probe(loss, X, 5000)
    assert abs(result.share_pure_noise - 0.001) < 4 * (0.001 / 5000) ** 0.5
    assert result.logsnr.isfinite().all()


SHAPES = [
    (300, 1),
    (300, 2),
    (300, 3),
    (300, 4),
    (64, 16),
    (128, 7, 5),
    (64, 1, 12, 12),
    (16, 2, 3, 6, 6),
    (5, 3, 16, 16),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_data_of_any_shape(shape, dtype):
    def flow(network, x):
        t = torch.rand(len(x), *(1,) * (x.ndim - 1), dtype=x.dtype)
        eps = torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

    x = torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(2)) - 0.3
    result = audit.probe(flow, x, 2000)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3
    assert result.diagnostics == []


@pytest.mark.parametrize("dimensions", [1, 2, 3, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_points_with_normal_levels_and_an_offset(dimensions, seed):
    """In few dimensions draws that are not the noise resemble it, and so does a constant."""

    def edm(network, x):
        x = x if dimensions == 1 else 2 * x - 1  # in one, a shift cannot be told from noise
        sigma = (1.2 * torch.randn(len(x), 1) - 1.2).exp()
        z = x + sigma * torch.randn_like(x)
        error = (network(z, sigma.flatten()) - x).square()
        return (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error

    x = torch.rand(256, dimensions, generator=torch.Generator().manual_seed(seed))
    result = audit.probe(edm, x, 3000, seed=seed)
    assert (result.parameterization, result.process) == ("x", "variance exploding")
    assert result.data_offset == pytest.approx(0 if dimensions == 1 else -0.5, abs=1e-3)
    scale = result.data_scale
    assert scale == pytest.approx(1 if dimensions == 1 else 2, abs=1e-3)
    logsnr = result.logsnr
    truth = weightings.EDM()(logsnr)
    errors = (result.weight.log() - truth.log())[central(result)]
    assert (errors - errors.median()).abs().max() < 1e-3
    assert result.diagnostics == []


def paired_with_noise(x, eps):
    """Optimal transport between the batch and its noise."""
    cost = torch.cdist(x.flatten(1), eps.flatten(1))
    i, j = scipy.optimize.linear_sum_assignment(cost)
    return x[i], eps[j], torch.rand(len(x), 1, 1, 1)


def paired_in_the_order_of_noise(x, eps):
    i, j = scipy.optimize.linear_sum_assignment(torch.cdist(eps.flatten(1), x.flatten(1)))
    return x[j], eps[i], torch.rand(len(x), 1, 1, 1)


def shuffled(x, eps):
    return x[torch.randperm(len(x))], eps, torch.rand(len(x), 1, 1, 1)


def flipped_at_times(x, eps):
    return (x.flip(-1) if torch.rand(()) < 0.3 else x), eps, torch.rand(len(x), 1, 1, 1)


def with_levels_by_row(x, eps):
    return x, eps, torch.rand(len(x), 1, x.shape[2], 1)


MIXES = [
    paired_with_noise,
    paired_in_the_order_of_noise,
    shuffled,
    flipped_at_times,
    with_levels_by_row,
]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_not_data_plus_noise_of_one_level_is_refused(mix, seed):
    def flow(network, x):
        x, eps, t = mix(x, torch.randn_like(x))
        return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

    with pytest.raises(ValueError, match=r"plus noise of one level per sample") as error:
        audit.probe(flow, X[:64], 2000, seed=seed)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_that_are_not_a_number_at_some_levels_are_left_out(seed):
    """A weight of 0/0 at one of 1000 levels spoils its whole batch."""

    def loss(network, x):
        i, eps = torch.randint(1000, (len(x),)), torch.randn_like(x)
        t = (i[:, None, None, None] + 0.5) / 1000
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
        return (error * (i / i)).mean()

    result = audit.probe(loss, X[:64], 5000, seed=seed)
    assert set(kinds(result)) <= {"not-finite"}
    assert (result.parameterization, result.density_kind) == ("flow", "table")


def test_a_shift_of_single_numbers_is_refused():
    with pytest.raises(ValueError, match="one number, so its noise cannot be told from a shift"):
        audit.probe(lambda network, x: flow_of_points(network, 2 * x - 1), torch.rand(256, 1))


def flow_of_points(network, x, join=lambda z, t: [z, t]):
    """Times beside the points in one input, as in torchcfm."""
    t, eps = torch.rand(len(x), 1), torch.randn_like(x)
    out = network(torch.cat(join((1 - t) * x + t * eps, t), dim=-1))
    return (out - (eps - x)).square().mean()


@pytest.mark.parametrize("join", [lambda z, t: [z, t], lambda z, t: [torch.randn_like(t), z, t]])
@pytest.mark.parametrize("dimensions", [2, 3, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_times_beside_the_data_are_not_taken_for_data(join, dimensions, seed):
    x = 0.3 * torch.randn(256, dimensions, generator=torch.Generator().manual_seed(seed))
    result = audit.probe(
        lambda network, x: flow_of_points(network, x, join), x.cumsum(1), 2000, seed=seed
    )
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert result.diagnostics == []


@pytest.mark.parametrize("beside", [lambda z, x: [x, z], lambda z, x: [x.roll(1, 0), z, x]])
def test_clean_images_beside_the_noisy_ones_are_not_taken_for_them(beside):
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        out = network(torch.cat(beside((1 - t) * x + t * eps, x), dim=1))
        return (out - (eps - x)).square().mean()

    assert audit.probe(loss, X[:64], 2000).schedule == "Flow()"


def packed(x):
    """2 x 2 patches as tokens, as Flux's trainers pack latents."""
    b, c, h, w = x.shape
    patches = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h * w // 4, 4 * c)


def unpacked(tokens):
    b, num, width = tokens.shape
    h = w = 2 * int(num**0.5)
    patches = tokens.reshape(b, h // 2, w // 2, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, width // 4, h, w)


def channels_last(x):
    return x.movedim(1, -1)


LAYOUTS = {
    "packed": (packed, unpacked),
    "bfloat16": (lambda x: packed(x).bfloat16(), lambda tokens: unpacked(tokens.float())),
    "channels last": (channels_last, lambda x: x.movedim(-1, 1)),
    "transposed": (lambda x: x.flatten(2).mT, lambda x: x.mT.reshape(-1, 3, 8, 8)),
    "channels as samples": (
        lambda x: x.flip(1).flatten(0, 1),
        lambda x: x.view(-1, 3, 8, 8).flip(1),
    ),
    "with a prompt": (packed, unpacked),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_may_see_the_data_in_another_layout(name, seed):
    there, back = LAYOUTS[name]

    def flow(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        prompt = torch.ones(len(x), 77, 768) if name == "with a prompt" else None
        out = network(prompt, there((1 - t) * x + t * eps), t)
        return (back(out) - (eps - x)).square().mean()

    result = audit.probe(flow, X[:64], 2000, seed=seed)
    assert (result.parameterization, result.process) == ("flow", "rectified flow")
    if name != "bfloat16":  # in which log-SNR is rounded
        assert result.schedule == "Flow()"
        assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3
    assert result.diagnostics == []


def test_data_and_noise_may_be_moved_before_they_are_mixed():
    def flow(network, x):
        x = packed(x)
        t, eps = torch.rand(len(x), 1, 1), torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

    result = audit.probe(flow, X[:64], 2000)
    assert (result.parameterization, result.schedule, result.diagnostics) == ("flow", "Flow()", [])


ARGUMENTS = {
    "dict": lambda z: {"x": z, "labels": torch.ones(len(z), 999)},
    "list of samples": list,
    "nested": lambda z: [None, ({"prompt": torch.ones(len(z), 999)}, z)],
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_noisy_data_inside_of_an_argument_are_found(name):
    def flow(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        out = network(ARGUMENTS[name]((1 - t) * x + t * eps), t)
        return (torch.stack(list(out)) - (eps - x)).square().mean()

    assert audit.probe(flow, X[:64], 2000).schedule == "Flow()"


def test_one_sample_as_a_batch():
    result = audit.probe(cosine_v, X[:1], 500)
    assert (result.parameterization, result.schedule) == ("v", "Cosine()")


def test_half_precision_inputs():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)
        alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
        eps = torch.randn_like(x)
        z = (alpha * x + sigma * eps).bfloat16()
        return F.mse_loss(network(z, t).float(), eps)

    result = audit.probe(loss, X, 5000)
    assert result.parameterization == "eps"
    kept = central(result, 0.9)  # beyond, bfloat16 does not hold the signal, or the noise
    difference = (result.weight / weightings.IDDPM()(result.logsnr)).log()[kept]
    assert difference.std() < 0.05


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
    ],
    ids=["elements", "sample", "tuple", "index, dict"],
)
def test_any_output_and_any_reduction(how):
    result = audit.probe(reduced(how), X, 2000)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


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

    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1, generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        return F.mse_loss(network((1 - t) * x + t * eps, t), eps - x)

    assert audit.probe(loss, X, 2000).schedule == "Flow()"


def test_the_random_states_are_left_as_they_were():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    with preserved_random_states():
        Recorder().reset(1, 4)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1][1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_seed_decides():
    first = audit.probe(cosine_v, X, 600, seed=1)
    assert torch.equal(audit.probe(cosine_v, X, 600, seed=1).weight, first.weight)
    assert not torch.equal(audit.probe(cosine_v, X, 600, seed=2).logsnr, first.logsnr)


def eps_loss(levels_of, log_density, weighting, factor=torch.ones, noise=torch.randn_like):
    """An eps-loss that trains exactly a weighting, whatever its levels are drawn from."""

    def loss(network, x):
        logsnr = levels_of(len(x)).double()
        alpha, sigma = (
            torch.sigmoid(sign * logsnr).sqrt().float()[:, None, None, None] for sign in (1, -1)
        )
        eps = noise(x)
        error = (network(alpha * x + sigma * eps, logsnr) - eps).square().flatten(1).mean(1)
        weight = weighting(logsnr) * torch.exp(-log_density(logsnr))
        return error * weight * factor(len(x))

    return loss


MIXTURE = [(0.6, -2.0, 1.5), (0.4, 3.0, 1.0)]


def mixed_levels(num):
    """Log-SNR from a mixture of normals, which no named schedule is and no single draw decides."""
    which = torch.multinomial(torch.tensor([m[0] for m in MIXTURE]), num, replacement=True)
    mean, std = torch.tensor([m[1] for m in MIXTURE]), torch.tensor([m[2] for m in MIXTURE])
    return mean[which] + std[which] * torch.randn(num)


def log_mixture(logsnr):
    parts = [math.log(m[0]) + log_normal(m[1], m[2])(logsnr) for m in MIXTURE]
    return torch.logsumexp(torch.stack(parts), 0)


def log_normal(mean, std):
    return lambda v: -(((v - mean) / std) ** 2) / 2 - math.log(std)


def normal_levels(mean, std):
    return lambda num: mean + std * torch.randn(num)


MIXED = (mixed_levels, log_mixture)
SMOOTH_SEEDS = range(4)


@pytest.mark.parametrize("weighting", [weightings.Sigmoid(), weightings.IDDPM()], ids=repr)
def test_a_distribution_without_a_name_is_estimated(weighting):
    """Over several seeds: the mean of the errors, and each of them in its own standard errors."""
    results = [audit.probe(eps_loss(*MIXED, weighting), X, seed=seed) for seed in SMOOTH_SEEDS]
    errors = [relative_errors(result, weighting).abs() for result in results]
    assert all(result.density_kind == "smooth" for result in results)
    assert np.mean([e.median().item() for e in errors]) < 0.03
    assert np.mean([e.quantile(0.95).item() for e in errors]) < 0.08
    for result, error in zip(results, errors, strict=True):
        assert (error / result.weight_error[central(result)]).max() < 5
        assert result.closest[0].name == code(weighting)
        assert result.is_monotone == (weighting == weightings.Sigmoid())


@pytest.mark.parametrize("mean, std", [(2.0, 2.8), (1.0, 3.0)])
@pytest.mark.parametrize(
    "weighting", [weightings.Sigmoid(), weightings.ELBO(), weightings.EDM()], ids=repr
)
def test_parameters_of_the_users_own_are_as_exact_as_published_ones(mean, std, weighting):
    loss = eps_loss(normal_levels(mean, std), log_normal(mean, std), weighting)
    result = audit.probe(loss, X)
    assert result.schedule == code(schedules.Normal(mean=mean, std=std))
    assert relative_errors(result, weighting).abs().max() < 1e-3
    low, high = result.logsnr[0].item(), result.logsnr[-1].item()
    expected = within(analysis.rising_intervals(weighting, -50, 50), low, high)
    found = [(max(start, low), end) for start, end in result.rising]
    assert len(found) == len(expected)
    assert result.is_monotone == (expected == [])
    for (_, end), (_, true_end) in zip(found, expected, strict=True):
        assert abs(end - true_end) < 0.15


def low_discrepancy(num):
    return torch.remainder(torch.rand(1) + torch.arange(num) / num, 1.0)


def stratified(num):
    return (torch.arange(num) + torch.rand(num)) / num


def antithetic(num):
    u = torch.rand(num // 2)
    return torch.cat([u, 1 - u])


def shared_by_two(num):
    return torch.rand(num // 2).repeat(2)


def shared_by_four_neighbours(num):
    return torch.rand(num // 4).repeat_interleave(4)


def numpy_uniform(num):
    return torch.from_numpy(np.random.uniform(0, 1, num))  # noqa: NPY002


def in_place(num):
    return torch.empty(num).uniform_(0, 1)


@pytest.mark.parametrize(
    "times",
    [
        low_discrepancy,
        stratified,
        antithetic,
        shared_by_two,
        shared_by_four_neighbours,
        numpy_uniform,
        in_place,
    ],
)
def test_levels_are_exact_however_their_times_are_drawn(times):
    """Uniform times in a schedule without a name: log-SNR rises like 10 + 3 ln u - 2 (1 - u)."""

    def levels_of(num):
        u = times(num).double().clamp(1e-7, 1)
        return 10 + 3 * u.log() - 2 * (1 - u)

    def log_density(logsnr):  # by Newton's method for the u of each level
        log_u = (logsnr - 8) / 5
        for _ in range(60):
            u = log_u.exp()
            log_u = log_u - (10 + 3 * log_u - 2 * (1 - u) - logsnr) / (3 + 2 * u)
        return -torch.log(3 / u + 2)

    weighting = weightings.ELBO()
    result = audit.probe(eps_loss(levels_of, log_density, weighting), X)
    assert result.density_kind == "function"
    assert result.is_monotone
    assert relative_errors(result, weighting).abs().max() < 2e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_normal_numbers_of_low_precision(dtype):
    """Log-SNR from Normal(1, 2), to 8 or 11 bits."""

    def levels_of(num):
        return 1 + 2 * torch.randn(num, dtype=dtype).double()

    weighting = weightings.Sigmoid()
    result = audit.probe(eps_loss(levels_of, log_normal(1.0, 2.0), weighting), X)
    errors = relative_errors(result, weighting).abs()
    assert errors.median() < 0.03
    assert errors.quantile(0.95) < 0.08
    assert result.is_monotone


def of_scipy(x):
    return torch.from_numpy(scipy.stats.norm.rvs(size=tuple(x.shape))).to(x)


SCATTERED = {
    "log-normal": {"factor": lambda num: torch.exp(0.3 * torch.randn(num))},
    "a tenth left out": {"factor": lambda num: (torch.rand(num) > 0.1).float()},
    "noise of scipy": {"noise": of_scipy},
}


@pytest.mark.parametrize("scatter", SCATTERED)
@pytest.mark.parametrize(
    "weighting", [weightings.Sigmoid(), weightings.ELBO(), weightings.MinSNR()], ids=repr
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_coefficient_that_scatters_is_averaged(scatter, weighting, seed):
    """And its mean is no rise where it falls by orders of magnitude."""

    def levels_of(num):
        return -2 * torch.log(torch.tan(torch.pi / 2 * torch.rand(num).double()))

    def log_density(logsnr):
        return -torch.log(torch.cosh(logsnr / 2))

    loss = eps_loss(levels_of, log_density, weighting, **SCATTERED[scatter])
    result = audit.probe(loss, X, seed=seed)
    errors = relative_errors(result, weighting).abs()
    assert errors.median() < 0.03
    assert errors.quantile(0.95) < 0.08
    assert result.closest[0].name == code(weighting)
    if weighting == weightings.MinSNR():
        [(_, end)] = result.rising
        assert abs(end) < 0.5
    else:
        assert result.rising == []


def bump(num):
    return 1 + 3 * torch.sin(torch.pi * torch.linspace(0, 1, num, dtype=torch.float64))


def heavy_end(num):
    return torch.where(torch.arange(num) < 4, 10.0, 1.0).double()


@pytest.mark.parametrize(
    "probability, num, samples",
    [(bump, 16, 20_000), (bump, 20, 20_000), (heavy_end, 1000, 20_000), (bump, 30, 400)],
)
def test_unequal_probabilities_of_few_steps_are_not_taken_for_equal_ones(probability, num, samples):
    """Steps even in log-SNR, from 8 to -8: w is the probability of a step."""
    p = probability(num) / probability(num).sum()
    table = torch.linspace(8, -8, num, dtype=torch.float64)

    def loss(network, x):
        logsnr = table[torch.multinomial(p, len(x), replacement=True)]
        alpha, sigma = (
            torch.sigmoid(sign * logsnr).sqrt().float()[:, None, None, None] for sign in (1, -1)
        )
        eps = torch.randn_like(x)
        return (network(alpha * x + sigma * eps, logsnr) - eps).square().flatten(1).mean(1)

    result = audit.probe(loss, X[:64], samples)
    assert not result.is_monotone
    at = table[2:-2] if num < 100 else table[[0, 1, 100, 500, 900]]
    true = p[2:-2] if num < 100 else p[[0, 1, 100, 500, 900]]
    ratio = (result.weighting(at) / true).log()
    assert (ratio - ratio.median()).abs().max() < 0.05


def test_no_factor_lifts_levels_that_have_no_weight():
    def loss(network, x):
        t, eps = torch.rand(len(x)), torch.randn_like(x)
        u = t[:, None, None, None]
        error = (network((1 - u) * x + u * eps, t) - (eps - x)).square().flatten(1).mean(1)
        return error * (t < 0.9)

    result = audit.probe(loss, X, 5000)
    assert result.closest[0].name == "Exponential()"  # of the levels that count
    assert result.coefficient_name == "1"
    [(_, end)] = result.rising
    assert abs(end - 2 * math.log(0.1 / 0.9)) < 0.2
    assert result.monotone_code is None
    with pytest.raises(ValueError, match="factor"):
        result.monotone_factor(result.logsnr)


def test_rare_coefficients_of_another_size_are_told():
    def loss(network, x):
        return edm_per_sample(network, x) * (1 + 9 * (torch.rand(len(x)) < 0.03))

    result = audit.probe(loss, X)
    assert kinds(result) == ["scattered"]
    assert abs(result.closest[0].distance) < 0.1


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_noise_of_another_size_moves_the_levels(std):
    def loss(network, x):
        sigma = torch.exp(1.2 * torch.randn(len(x), 1, 1, 1) - 1.2)
        z = x + sigma * torch.empty_like(x).normal_(std=std)
        return (network(z, sigma) - x).square().flatten(1).mean(1) / sigma.flatten() ** 2

    result = audit.probe(loss, X)
    mean = 2.4 - 2 * math.log(std)
    assert result.schedule == code(schedules.Normal(mean=mean, std=2.4))


def test_probes_in_threads_do_not_meet():
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda seed: audit.probe(cosine_v, X, 600, seed), (1, 1, 2)))
    assert torch.equal(results[0].weight, results[1].weight)
    assert all(result.schedule == "Cosine()" for result in results)


def test_numpy_is_left_as_it_was_found(monkeypatch):
    def mine(*shape):
        return np.full(shape, 0.5)

    monkeypatch.setattr("numpy.random.rand", mine)
    audit.probe(cosine_v, X, 300)
    with pytest.raises(ValueError, match="The loss raised"):
        audit.probe(lambda network, x: 1 / 0, X, 300)
    assert np.random.rand is mine


def test_seeds_have_no_level_in_common():
    drawn = [set(measure(cosine_v, X, 1000, seed).logsnr.tolist()) for seed in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 1000
    assert not drawn[0] & drawn[1]


def run(python):
    names: dict[str, object] = {}
    exec(python, names)
    return names["monotone_factor"]


def weighted(loss_per_sample, factor, logsnr_of):
    """A loss whose samples are multiplied by a factor, as the verdict advises."""

    def loss(network, x):
        levels = []

        def spy(z, t):
            levels.append(logsnr_of(t))
            return network(z, t)

        error = loss_per_sample(spy, x)
        return error * factor(levels[0])

    return loss


def edm_per_sample(network, x):
    sigma = torch.exp(1.2 * torch.randn(len(x)) - 1.2)
    z = x + sigma[:, None, None, None] * torch.randn_like(x)
    error = (network(z, sigma) - x).square().flatten(1).mean(1)
    return error * (sigma**2 + 0.25) / (0.5 * sigma) ** 2


def bumpy_per_sample(network, x):
    """No named weighting: rises twice."""
    sigma = torch.exp(1.5 * torch.randn(len(x)))
    z = x + sigma[:, None, None, None] * torch.randn_like(x)
    error = (network(z, sigma) - x).square().flatten(1).mean(1)
    return error / sigma**2 * (1.5 + torch.sin(2 * torch.log(sigma)))


@pytest.mark.parametrize("loss", [edm_per_sample, bumpy_per_sample])
def test_the_code_of_the_verdict_makes_it_a_likelihood_objective(loss):
    before = audit.probe(loss, X, 5000)
    assert not before.is_monotone
    mended = weighted(loss, run(before.monotone_code), lambda sigma: -2 * sigma.log())
    after = audit.probe(mended, X, 5000)
    assert after.is_monotone
    assert after.monotone_code is None
    kept = central(after)
    ratio = (after.weight / before.monotone_weight).log()[kept]
    assert (ratio - ratio.median()).abs().max() < 0.02
    assert (after.monotone_weight >= after.weight).all()


def choose_by_numpy(p, num):
    return torch.from_numpy(np.random.choice(len(p), num, p=p.numpy()))  # noqa: NPY002


def choose_values_by_numpy(p, num):
    values = np.random.choice(np.arange(len(p)), size=(num,), replace=True, p=p.numpy())  # noqa: NPY002
    return torch.from_numpy(values)


def choose_by_torch(p, num):
    return torch.multinomial(p, num, replacement=True)


def choose_by_distributions(p, num):
    return torch.distributions.Categorical(probs=p).sample((num,))


@pytest.mark.parametrize(
    "choose", [choose_by_numpy, choose_values_by_numpy, choose_by_torch, choose_by_distributions]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_steps_drawn_with_given_probabilities_are_exact(choose, seed):
    """The weighting of uniform steps: what is drawn with p is divided by it."""
    steps = torch.arange(500, dtype=torch.float64)
    alpha_bar = torch.cos((steps + 4) / 508 * torch.pi / 2) ** 2
    p = (0.02 + alpha_bar**2) / (0.02 + alpha_bar**2).sum()

    def loss(network, x):
        t = choose(p, len(x))
        scale, eps = alpha_bar[t].float()[:, None, None, None], torch.randn_like(x)
        error = (network(scale.sqrt() * x + (1 - scale).sqrt() * eps, t) - eps) ** 2
        return error.flatten(1).mean(1) / p[t]

    result = audit.probe(loss, X, seed=seed)
    truth = relative_errors(result, weightings.IDDPM())
    assert result.density_kind == "function"
    assert truth.abs().median() < 1e-3
    assert truth.abs().quantile(0.95) < 1e-2


def test_a_constant_factor_changes_nothing():
    first = audit.probe(edm_per_sample, X, 1000)
    second = audit.probe(lambda network, x: 7 * edm_per_sample(network, x).sum(), X, 1000)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-5, atol=0)


def test_the_masses_are_those_of_the_theory():
    # theory: for EDM's weight from log-SNR -2 ln 80 on, the negative mass is 92 % of the positive
    result = audit.from_recipe("edm")
    mixture = analysis.elbo_mixture(
        weightings.EDM(), result.logsnr[0].item(), result.logsnr[-1].item()
    )
    assert abs(result.negative_mass / mixture.negative_mass - 1) < 1e-3
    assert abs(result.mass_at_max - mixture.mass_at_max) < 1e-9
    density = result.mixture_density
    torch.testing.assert_close(
        density, mixture.density(result.logsnr), atol=2e-3 * density.abs().max().item(), rtol=0
    )
    total = torch.trapezoid(density, result.logsnr) + result.mass_at_max
    assert abs(total.item() - 1) < 1e-3


@pytest.mark.parametrize("name", RECIPES)
def test_a_declared_recipe_is_exact(name):
    result = audit.from_recipe(name)
    recipe = RECIPES[name]
    assert relative_errors(result, recipe.closed_form).abs().max() < 1e-9
    low, high = result.logsnr[0].item(), result.logsnr[-1].item()
    expected = analysis.rising_intervals(recipe.closed_form, low, high)
    torch.testing.assert_close(result.rising, expected, atol=1e-5, rtol=0)
    assert result.closest[0] == (code(recipe.closed_form), pytest.approx(0, abs=1e-9))


def test_a_data_dependent_target_is_told():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)
        eps = torch.randn_like(x)
        return F.mse_loss(network((1 - t) * x + t * eps, t), eps - x + 0.3 * x**2)

    assert "strange-target" in kinds(audit.probe(loss, X, 1000))


def test_clamped_levels_are_told_and_left_out():
    def loss(network, x):
        t = torch.rand(len(x)).clamp(0.02, 0.98)[:, None, None, None]
        eps = torch.randn_like(x)
        return F.mse_loss(network((1 - t) * x + t * eps, t), eps - x)

    result = audit.probe(loss, X, 5000)
    assert kinds(result) == ["clamped"]
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_samples_without_weight_do_not_hide_the_prediction(share):
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
        return error * (torch.rand(len(x)) >= share)

    result = audit.probe(loss, X, 5000)
    assert result.parameterization == "flow"
    gap = (result.b - 1).abs().max() + (result.a + 1).abs().max()
    assert gap < 1e-3
    assert {"unused", "scattered"} == set(kinds(result))


def test_a_strange_target_is_told_where_most_samples_have_no_weight():
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x + 0.3 * x**2)).square()
        return error * (torch.rand(len(x), 1, 1, 1) < 0.3)

    assert {"strange-target", "unknown-target"} <= set(kinds(audit.probe(loss, X, 3000)))


def test_a_negative_coefficient_is_told():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)
        eps = torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square()
        return (error * (0.7 - t)).mean()

    result = audit.probe(loss, X, 2000)
    assert "negative" in kinds(result)
    assert not result.is_weighted_elbo


def test_a_pair_of_outputs_is_audited_by_the_first():
    edm2 = next(oddity.loss for oddity in ODDITIES if oddity.name == "learned_loss_weight")
    result = audit.probe(edm2, X, 5000)
    assert (result.parameterization, result.schedule) == ("x", "Normal(mean=0.8, std=2.0)")
    assert relative_errors(result, RECIPES["edm2"].closed_form).abs().median() < 1e-3


def with_an_attribute(network, z):
    return network(z).prediction


def in_vjp(network, z):
    return torch.func.vjp(network, z)[0]


def in_vmap(network, z):
    return torch.vmap(lambda one: network(one[None])[0])(z)


def in_a_checkpoint(network, z):
    return checkpoint(network, z.requires_grad_(), use_reentrant=True)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (with_an_attribute, r"no attribute 'prediction'.* the stand-in answers with a tensor"),
        (in_vjp, r"torch\.func"),
        (in_vmap, r"torch\.func"),
        (in_a_checkpoint, r"use_reentrant=False"),
    ],
)
def test_a_call_that_cannot_be_watched_is_told_why(call, reason):
    def loss(network, x):
        eps, t = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
        return (call(network, (1 - t) * x + t * eps) - eps).square().mean()

    with pytest.raises(ValueError, match=reason) as error:
        audit.probe(loss, X)
    assert "\n" not in str(error.value)


def test_json_holds_only_plain_numbers():
    import json

    result = audit.probe(edm_per_sample, X, 1000)
    content = json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert content["parameterization"] == "x"
    assert content["is_monotone"] is False
    assert len(content["logsnr"]) == len(content["weight"]) == len(content["density"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_data_on_a_gpu():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1, device=x.device)
        eps = torch.randn_like(x)
        return F.mse_loss(network((1 - t) * x + t * eps, t), eps - x)

    result = audit.probe(loss, X.cuda(), 5000)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")


def test_type_of_the_network_is_a_module():
    def loss(network, x):
        assert isinstance(network, torch.nn.Module)
        network.train()
        assert isinstance(network.device, torch.device)
        return edm_per_sample(network, x)

    assert isinstance(audit.probe(loss, X, 500).weight, Tensor)
