"""Network + parameterization = estimates; guidance is linear, and confined to its interval."""

from functools import partial

import pytest
import torch
from oracles import ByClass, bimodal, gaussian
from tables import PARAMETERIZATIONS

from elbos.base.conditions import cond_at, replace_conds
from elbos.theory.denoiser import Denoiser, Guided
from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import diffuse
from elbos.theory.schedules import Cosine

LOGSNR = torch.linspace(-8, 8, 40, dtype=torch.float64)
PAIR = ByClass([gaussian(0.3), gaussian(2.0), bimodal()])


def labels(z, logsnr, cond=None):
    """The exact denoiser of three classes; the third is what a negative label stands for."""
    return PAIR(z, logsnr, torch.full((len(z),), 2) if cond is None else cond % 3)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=repr)
def test_a_denoiser_undoes_its_parameterization(parameterization, randn):
    """A network that outputs what the parameterization makes of the exact estimates."""
    data = bimodal()

    class Network(torch.nn.Module):
        def forward(self, z, logsnr, cond):
            return parameterization.target(*data(z, logsnr, cond), logsnr)

    z = randn(40, 1)
    torch.testing.assert_close(
        Denoiser(Network(), parameterization)(z, LOGSNR), data(z, LOGSNR), rtol=0, atol=1e-9
    )


def test_a_network_may_change_its_input_in_place(randn):
    z = randn(40, 1)

    class Network(torch.nn.Module):
        def forward(self, z, logsnr, _):
            return z.mul_(2)

    torch.testing.assert_close(
        Denoiser(Network(), PARAMETERIZATIONS[0])(z.clone(), LOGSNR),
        PARAMETERIZATIONS[0].split(2 * z, z, LOGSNR),
        rtol=0,
        atol=0,
    )


def test_the_network_is_given_levels_like_its_data(randn):
    """As in training: levels are drawn in float64, networks often compute with both in float32."""
    layer = torch.nn.Linear(3, 2)
    z, schedule = randn(8, 2).float(), Cosine()

    def network(z, logsnr):
        return layer(torch.cat([z, logsnr[:, None]], dim=1))

    levels = schedule.sample(8)
    assert levels.dtype == torch.float64
    parameterization = PARAMETERIZATIONS[0]
    actual = Denoiser(network, parameterization).output(z, levels)
    assert torch.equal(actual, network(z, levels.float()))


def test_a_partially_applied_module_is_called_as_its_forward(randn):
    """The condition by keyword, as docs/validate.md recommends, is not passed a second time."""

    class Network(torch.nn.Module):
        def forward(self, z, logsnr, context=None):
            return z * context

    z, v = randn(4, 3), PARAMETERIZATIONS[2]
    modules = [Network(), torch.compile(Network(), backend="eager")]
    for network in [*modules, *(partial(module) for module in modules)]:
        output = Denoiser(partial(network, context=2.0), v).output(z, LOGSNR[:4])
        assert torch.equal(output, 2 * z)
        assert torch.equal(Denoiser(network, v).output(z, LOGSNR[:4], z), z * z)
    with pytest.raises(ValueError, match="no condition"):
        Denoiser(partial(Network(), context=2.0), v).output(z, LOGSNR[:4], z)


def test_one_level_stands_for_the_whole_batch_of_images(randn):
    """Batch size equal to the width; and the network is given a level for each image."""

    class Network(torch.nn.Module):
        def forward(self, z, logsnr, _):
            assert logsnr.shape == (4,)
            return (logsnr.reshape(-1, 1, 1, 1) * z).float()  # a network of lower precision

    denoiser = Denoiser(Network(), PARAMETERIZATIONS[2])
    z = randn(4, 3, 4, 4)
    estimates = denoiser(z, LOGSNR[7:8])
    for item, four in zip(estimates, denoiser(z, LOGSNR[7:8].expand(4)), strict=True):
        assert item.dtype == torch.float64
        assert torch.equal(item, four)
    torch.testing.assert_close(diffuse(*estimates, LOGSNR[7:8]), z, rtol=0, atol=1e-12)


@pytest.fixture
def batch(randn):
    return randn(40, 1), LOGSNR, torch.arange(40) % 2


def guided(scale, **interval):
    return Guided(labels, scale, **interval)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.3, 1.0, 7.5])
def test_guidance_extrapolates_linearly_and_keeps_z(batch, scale):
    z, logsnr, cond = batch
    estimates = guided(scale)(z, logsnr, cond)
    pairs = zip(estimates, labels(z, logsnr, cond), labels(z, logsnr), strict=True)
    for estimate, with_label, without in pairs:
        expected = scale * with_label + (1 - scale) * without
        torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(diffuse(*estimates, logsnr), z, rtol=0, atol=1e-10)


def test_outside_its_interval_guidance_is_the_conditional(batch):
    """And inside it the same as without an interval; both kinds of level in one batch."""
    z, logsnr, cond = batch
    estimates = guided(3.0, logsnr_min=-2.0, logsnr_max=4.0)(z, logsnr, cond)
    is_inside = (logsnr >= -2) & (logsnr <= 4)
    everywhere, plain = guided(3.0)(z, logsnr, cond), labels(z, logsnr, cond)
    for estimate, inside, outside in zip(estimates, everywhere, plain, strict=True):
        torch.testing.assert_close(estimate[is_inside], inside[is_inside], rtol=0, atol=1e-12)
        torch.testing.assert_close(estimate[~is_inside], outside[~is_inside], rtol=0, atol=1e-12)


def test_guidance_takes_one_level_for_the_batch(batch):
    z, _, cond = batch
    item = guided(3.0)(z, LOGSNR[5:6], cond)
    torch.testing.assert_close(item, guided(3.0)(z, LOGSNR[5:6].expand(40), cond), rtol=0, atol=0)


def test_without_labels_there_is_nothing_to_guide(batch):
    z, logsnr, _ = batch
    torch.testing.assert_close(guided(3.0)(z, logsnr), labels(z, logsnr), rtol=0, atol=0)


def named(z, logsnr, cond):
    """The same denoiser, conditioned on a dict: a class as one-hot floats, and a word."""
    assert cond["style"] == "plain"
    return labels(z, logsnr, cond["class"].argmax(1))


@pytest.mark.parametrize("num_nulls", [1, 40])
def test_a_null_condition_takes_the_place_of_the_negative_label(batch, num_nulls):
    z, logsnr, cond = batch
    one_hot = torch.eye(3)
    null = {"class": one_hot[2:].expand(num_nulls, 3), "style": "plain"}
    actual = Guided(named, 3.0, null_cond=null)(
        z, logsnr, {"class": one_hot[cond], "style": "plain"}
    )
    torch.testing.assert_close(actual, guided(3.0)(z, logsnr, cond), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32], ids=str)
def test_the_null_label_is_no_class_whatever_the_dtype_of_labels(batch, dtype):
    z, logsnr, cond = batch
    estimates = guided(3.0)(z, logsnr, cond.to(dtype))
    torch.testing.assert_close(estimates, guided(3.0)(z, logsnr, cond), rtol=0, atol=0)
    replaced = replace_conds(cond.to(dtype), torch.tensor([-1]), cond == 0)
    assert torch.equal(replaced, torch.where(cond == 0, -1, cond))


@pytest.mark.parametrize("cond", [{"class": torch.ones(40, 3)}, torch.ones(40, 3)], ids=type)
def test_only_class_labels_have_a_null_of_their_own(batch, cond):
    z, logsnr, _ = batch
    with pytest.raises(ValueError, match="null_cond"):
        guided(3.0)(z, logsnr, cond)


@pytest.mark.parametrize("wrap", [tuple, list, lambda parts: {"style": str(parts)}])
def test_guidance_refuses_conditions_that_one_call_of_twice_the_batch_cannot_hold(batch, wrap):
    z, logsnr, cond = (part[:1] for part in batch)
    denoiser = Guided(lambda z, logsnr, cond: labels(z, logsnr), 3.0, null_cond=wrap([cond + 1]))
    with pytest.raises(ValueError, match="cond"):
        denoiser(z, logsnr, wrap([cond]))


def test_a_condition_is_indexed_along_the_batch():
    cond = {"text": torch.arange(6).reshape(3, 2), "more": {"label": torch.arange(3)}, "scale": 2.0}
    for index, expected in ((slice(1, 3), [1, 2]), (torch.tensor([2, 0]), [2, 0])):
        part = cond_at(cond, index)
        assert part["more"]["label"].tolist() == expected
        assert part["text"].tolist() == [[2 * i, 2 * i + 1] for i in expected]
        assert part["scale"] == 2.0
    assert cond_at(None, slice(2)) is None


def test_a_conditional_oracle_knows_its_component(randn):
    """Given its component, the mixture's denoiser is that Gaussian's."""
    data, z = bimodal(), randn(40, 1)
    alone = GaussianMixture(torch.ones(1).double(), data.means[1:], data.stds[1:])
    torch.testing.assert_close(
        data(z, LOGSNR, torch.ones(40, dtype=torch.long)), alone(z, LOGSNR), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        data(z, LOGSNR, torch.full((40,), -1)), data(z, LOGSNR), rtol=0, atol=0
    )


@pytest.mark.parametrize("data", [gaussian(0.5, 3), bimodal()], ids=["gaussian", "bimodal"])
def test_oracles_obey_tweedies_formula(data, randn):
    """eps_hat = -sigma grad ln q(z), and alpha x_hat + sigma eps_hat = z."""
    for logsnr in (-4.0, 0.0, 5.0):
        level = torch.tensor([logsnr], dtype=torch.float64)
        z = randn(20, data.means.shape[1]).requires_grad_()
        (score,) = torch.autograd.grad(data.log_prob(z, logsnr).sum(), z)
        x_hat, eps_hat = data(z, level)
        torch.testing.assert_close(
            eps_hat, -torch.sigmoid(-level).sqrt() * score, rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(diffuse(x_hat, eps_hat, level), z, rtol=0, atol=1e-12)


def test_oracle_samples_have_the_oracles_moments(generator):
    """Mean and second moment of the mixture, z < 4, n = 20,000."""
    data = bimodal()
    x, component = data.sample(20_000, generator)
    moments = {1: (0.3 * -0.8 + 0.7 * 0.5), 2: 0.3 * (0.64 + 0.04) + 0.7 * (0.25 + 0.09)}
    for power, expected in moments.items():
        samples = x[:, 0] ** power
        assert abs(samples.mean() - expected) < 4 * samples.std() / 20_000**0.5
    assert abs(component.double().mean() - 0.7) < 4 * (0.21 / 20_000) ** 0.5
