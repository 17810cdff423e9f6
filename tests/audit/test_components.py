"""The components of the network's input: the data, their layout, and the noise."""

import math

import numpy as np
import pytest
import torch
from audit_errors import central, relative_errors
from audited import X, cosine_v, flow_loss, kinds
from mistaken_losses import from_noise, input_perturbation, offset_noise

from elbos import audit
from elbos.theory import schedules, weightings
from elbos.theory.names import code


def test_the_scale_and_the_offset_of_the_data_are_found():
    images = (X + 1) / 2
    result = audit.probe(lambda network, x: cosine_v(network, 2 * x - 1), images, 1000)
    assert (result.data_scale, round(2 * result.data_offset, 6)) == (2.0, -1.0)
    expected = audit.probe(cosine_v, X, 1000)
    torch.testing.assert_close(result.logsnr, expected.logsnr, atol=2e-2, rtol=0)


def test_data_may_be_standardized_by_sample():
    def loss(network, x):
        axes = (1, 2, 3)
        return cosine_v(network, (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))

    result = audit.probe(loss, X[:64], 1000)
    assert result.parameterization == "v"
    assert relative_errors(result, weightings.Exponential()).abs().max() < 0.01


def test_the_scale_of_the_data_can_be_given():
    result = audit.probe(cosine_v, X, 1000, data_scale=2.0)
    expected = audit.probe(cosine_v, X, 1000)
    shift = 2 * torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(result.logsnr, expected.logsnr - shift, atol=1e-6, rtol=0)
    scaled = audit.probe(lambda network, x: cosine_v(network, 2 * x), X, 1000, data_scale=2.0)
    assert (scaled.process, scaled.schedule) == ("variance preserving", "Cosine()")
    with pytest.raises(ValueError, match="data_scale is 0"):
        audit.probe(cosine_v, X, 1000, data_scale=0.0)


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


@pytest.mark.parametrize("shape", [(300, 1), (300, 3), (128, 7, 5), (16, 2, 3, 6, 6)], ids=str)
def test_data_of_any_shape(shape):
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(2)) - 0.3
    result = audit.probe(flow_loss(), x, 1000)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3
    assert result.diagnostics == []


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_points_with_normal_levels_and_an_offset(dimensions, seed):
    """In few dimensions draws that are not the noise resemble it, and so does a constant."""

    def edm(network, x):
        x = x if dimensions == 1 else 2 * x - 1  # in one, a shift cannot be told from noise
        sigma = (1.2 * torch.randn(len(x), 1) - 1.2).exp()
        z = x + sigma * torch.randn_like(x)
        error = (network(z, sigma.flatten()) - x).square()
        return (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error

    x = torch.rand(256, dimensions, generator=torch.Generator().manual_seed(seed))
    result = audit.probe(edm, x, 1000, seed=seed)
    assert (result.parameterization, result.process) == ("x", "variance exploding")
    assert result.data_offset == pytest.approx(0 if dimensions == 1 else -0.5, abs=1e-3)
    scale = result.data_scale
    assert scale == pytest.approx(1 if dimensions == 1 else 2, abs=1e-3)
    logsnr = result.logsnr
    truth = weightings.EDM()(logsnr)
    errors = (result.weight.log() - truth.log())[central(result)]
    assert (errors - errors.median()).abs().max() < 1e-3
    assert result.diagnostics == []


def test_a_shift_of_single_numbers_is_refused():
    with pytest.raises(ValueError, match=r"one number.*noise.*shift"):
        audit.probe(lambda network, x: flow_of_points(network, 2 * x - 1), torch.rand(256, 1))


def flow_of_points(network, x, join=lambda z, t: [z, t]):
    """Times beside the points in one input, as in torchcfm."""
    t, eps = torch.rand(len(x), 1), torch.randn_like(x)
    out = network(torch.cat(join((1 - t) * x + t * eps, t), dim=-1))
    return (out - (eps - x)).square().mean()


@pytest.mark.parametrize(
    ("dimensions", "join"),
    [(2, lambda z, t: [z, t]), (3, lambda z, t: [torch.randn_like(t), z, t])],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_times_beside_the_data_are_not_taken_for_data(join, dimensions, seed):
    x = 0.3 * torch.randn(256, dimensions, generator=torch.Generator().manual_seed(seed))
    result = audit.probe(
        lambda network, x: flow_of_points(network, x, join), x.cumsum(1), 1000, seed=seed
    )
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")
    assert result.diagnostics == []


@pytest.mark.parametrize("beside", [lambda z, x: [x, z], lambda z, x: [x.roll(1, 0), z, x]])
def test_clean_images_beside_the_noisy_ones_are_not_taken_for_them(beside):
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        out = network(torch.cat(beside((1 - t) * x + t * eps, x), dim=1))
        return (out - (eps - x)).square().mean()

    assert audit.probe(loss, X[:64], 500).schedule == "Flow()"


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


LAYOUTS = {
    "packed": (packed, unpacked),
    "bfloat16": (lambda x: packed(x).bfloat16(), lambda tokens: unpacked(tokens.float())),
    "transposed": (lambda x: x.flatten(2).mT, lambda x: x.mT.reshape(-1, 3, 8, 8)),
    "channels as samples": (
        lambda x: x.flip(1).flatten(0, 1),
        lambda x: x.view(-1, 3, 8, 8).flip(1),
    ),
    "with a prompt": (packed, unpacked),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_may_see_the_data_in_another_layout(name, seed):
    there, back = LAYOUTS[name]

    def flow(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        prompt = torch.ones(len(x), 77, 768) if name == "with a prompt" else None
        out = network(prompt, there((1 - t) * x + t * eps), t)
        return (back(out) - (eps - x)).square().mean()

    result = audit.probe(flow, X[:64], 500, seed=seed)
    assert (result.parameterization, result.process) == ("flow", "rectified flow")
    if name != "bfloat16":  # in which log-SNR is rounded
        assert result.schedule == "Flow()"
        assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3
    assert result.diagnostics == []


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

    assert audit.probe(flow, X[:64], 500).schedule == "Flow()"


def test_a_batch_of_one_sample_is_audited():
    result = audit.probe(cosine_v, X[:1], 500)
    assert (result.parameterization, result.schedule) == ("v", "Cosine()")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_data_on_a_gpu():
    loss = flow_loss(lambda num: torch.rand(num, device="cuda"))
    result = audit.probe(loss, X.cuda(), 5000)
    assert (result.parameterization, result.schedule) == ("flow", "Flow()")


def test_the_strength_of_offset_noise_is_exact():
    result = audit.probe(from_noise(offset_noise(0.02)), X[:64], 1000)
    [actual] = result.diagnostics
    assert actual.kind == "offset-noise"
    assert actual.values["strength"] == pytest.approx(0.02, rel=0.02)


def test_input_perturbation_is_told_with_its_strength():
    """The network sees the noise eps + 0.1 eps', and what the target lacks is independent of it."""
    result = audit.probe(input_perturbation, X, 2000)
    [actual] = result.diagnostics
    assert (actual.kind, result.parameterization) == ("input-perturbation", "eps")
    assert actual.values["gamma"] == pytest.approx(0.1, rel=1e-5)
    assert result.parameterization_factor == pytest.approx(1 / 1.01**0.5, abs=5e-4)
    assert (result.process, result.coefficient_name) == ("variance preserving", "1")
    shifted = schedules.Cosine(shift=-math.log(1.01) / 2)  # of the noise that the network sees
    density = shifted.density(result.logsnr)
    errors = (result.weight / density).log()[central(result)]
    assert (errors - errors.median()).abs().max() < 1e-3


def test_noise_of_another_size_moves_the_levels(std=2.0):
    def loss(network, x):
        sigma = torch.exp(1.2 * torch.randn(len(x), 1, 1, 1) - 1.2)
        z = x + sigma * torch.empty_like(x).normal_(std=std)
        return (network(z, sigma) - x).square().flatten(1).mean(1) / sigma.flatten() ** 2

    result = audit.probe(loss, X, 1000)
    mean = 2.4 - 2 * math.log(std)
    assert result.schedule == code(schedules.Normal(mean=mean, std=2.4))


def summed(network, x, std=0.1):
    """As torchcfm's flow matching with a width of its path: the target holds one of two draws."""
    t, first = torch.rand(len(x), 1), torch.randn_like(x)
    z = t * x + (1 - t) * first + std * torch.randn_like(x)
    return (network(z, t) - (x - first)).square().mean()


@pytest.mark.parametrize("dim", [4, 6])
def test_a_sum_of_draws_is_recognized_in_few_dimensions(dim, std=0.1):
    x = 2 * torch.rand(64, dim, generator=torch.Generator().manual_seed(0)) - 1
    result = audit.probe(summed, x, 4000)
    assert kinds(result) == ["summed-noise", "independent-target", "unknown-target"]
    t = torch.linspace(0.01, 0.99, 5000, dtype=torch.float64)
    variance = (1 - t) ** 2 + std**2
    logsnr = (t**2 / variance).log()
    p = 1 / (2 / t + 2 * (1 - t) / variance)
    log_w = p.log() + 2 * ((1 - t) / variance.sqrt() + variance.sqrt() / t).log()
    at = (result.logsnr > logsnr[50]) & (result.logsnr < logsnr[-50])
    levels, weight = result.logsnr[at].numpy(), result.weight[at].numpy()
    error = np.log(weight) - np.interp(levels, logsnr.numpy(), log_w.numpy())
    assert np.abs(error - np.median(error)).max() < 0.05
    assert result.is_monotone


def test_two_draws_in_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"A sample is 2 numbers.*at least 4 numbers"):
        audit.probe(summed, torch.rand(64, 2), 1000)
