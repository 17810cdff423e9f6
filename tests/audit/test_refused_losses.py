"""Losses that cannot be measured, or that no weighting describes, are told the true reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audited import SEEDS, X, kinds
from mistaken_losses import COSINE, cosine_time, expand
from refused_losses import REFUSED, times, velocity_loss

from elbos import audit


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("refused", REFUSED, ids=[item.name for item in REFUSED])
def test_refusals_name_the_true_reason(refused, seed):
    with pytest.raises(ValueError, match="plus noise of one level per sample") as error:
        audit.probe(refused.loss, X[:64], 300, seed=seed)
    assert refused.reason in str(error.value)
    rest = {item.reason for item in REFUSED} - {refused.reason}
    assert not any(reason in str(error.value) for reason in rest)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_data_that_are_flipped_in_a_later_batch_are_refused():
    def flipped(x1, x0):
        return (x1.flip(-1) if torch.rand(()) < 0.05 else x1), x0, times(x1)

    with pytest.raises(ValueError, match="augmentation"):
        audit.probe(velocity_loss(flipped), X[:64], 2000)


def v_loss(target_of):
    """`target_of(v, x, eps, z)` makes the target of a v-loss."""

    def loss(network, x):
        t, alpha, sigma = cosine_time(x)
        eps = torch.randn_like(x)
        z = alpha * x + sigma * eps
        target = target_of(alpha * eps - sigma * x, alpha * x, sigma, z)
        return F.mse_loss(network(z, t), target)

    return loss


STRANGE = {
    "noise drawn anew": (lambda v, *_: torch.randn_like(v), "target-noise"),
    "z drawn anew": (lambda v, ax, s, z: ax + s * torch.randn_like(v), "target-noise"),
    "rolled": (lambda v, *_: v.roll(1, 0), "strange-target"),
    "rolled in one of ten": (
        lambda v, *_: torch.where(torch.rand(len(v), 1, 1, 1) < 0.1, v.roll(1, 0), v),
        "strange-target",
    ),
    "clamped": (lambda v, *_: v.clamp(-1, 1), "strange-target"),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", STRANGE)
def test_a_target_that_is_more_than_data_and_noise_has_no_weighting(name, seed):
    target_of, kind = STRANGE[name]
    result = audit.probe(v_loss(target_of), X[:64], 500, seed=seed)
    assert kinds(result)[:1] == [kind]
    assert not result.is_weighted_elbo
    assert not result.is_monotone


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_noise_that_is_added_to_the_target_adds_a_constant(strength, seed):
    loss = v_loss(lambda v, *_: v + strength * torch.randn_like(v))
    result = audit.probe(loss, X[:64], 500, seed=seed)
    (diagnostic,) = result.diagnostics
    assert (diagnostic.kind, result.parameterization) == ("independent-target", "v")
    power = X[:64].square().mean().item() / 2 + 0.5 + strength**2  # of half a turn's mean
    assert diagnostic.share == pytest.approx(strength**2 / power, rel=0.05)
    assert (result.recipe, result.is_monotone) == ("v-cosine", True)


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 3)])
def test_an_input_that_is_divided_by_its_own_deviation_is_refused(axes):
    def normalized(network, x):
        t, eps = expand(torch.rand(len(x)), x), torch.randn_like(x)
        z = (1 - t) * x + t * eps
        z = (z - z.mean(axes, keepdim=True)) / z.std(axes, keepdim=True)
        return F.mse_loss(network(z, t.flatten()), eps - x)

    with pytest.raises(ValueError, match="standard deviation"):
        audit.probe(normalized, X[:64], 500)


def test_a_loss_with_a_state_is_told_from_one_with_its_own_draws():
    mean, generator = torch.ones(()), np.random.default_rng(0)

    def over_the_mean(network, x):
        t, eps = expand(torch.rand(len(x)), x), torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
        mean.lerp_(error.mean().detach(), 0.1)
        return (error / mean).mean()

    def drawn_apart(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.from_numpy(generator.normal(size=x.shape))
        return F.mse_loss(network((1 - t) * x + t * eps, t), eps - x)

    for loss, reason in ((over_the_mean, "running mean"), (drawn_apart, "numpy Generator")):
        with pytest.raises(ValueError, match=reason):
            audit.probe(loss, X[:64], 500)


def variational_bound(network, x):
    """Improved DDPM's L_vlb: the KL divergence trains the mean and the variance."""
    before = torch.cat([torch.ones(1), COSINE[:-1]])
    betas = 1 - COSINE / before
    posterior = betas * (1 - before) / (1 - COSINE)
    log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log()
    t, noise = torch.randint(1, 1000, (len(x),)), torch.randn_like(x)

    def at(table):
        return expand(table[t], x)

    x_t = at(COSINE).sqrt() * x + (1 - at(COSINE)).sqrt() * noise
    eps, values = network(x_t, t).reshape(len(x), 2, *x.shape[1:]).unbind(1)
    share = (values + 1) / 2
    log_variance = share * at(betas).log() + (1 - share) * at(log_posterior)
    factor = at(betas) ** 2 / (1 - at(betas)) / (1 - at(COSINE))
    gap = factor * (eps - noise) ** 2
    difference = at(log_posterior) - log_variance
    kl = 0.5 * (-difference - 1 + difference.exp() + gap * (-log_variance).exp())
    return kl.mean()


def control_variate(network, x):
    """Denoising score matching, less its first-order noise: E[eps * s(x)] = 0."""
    sigma, eps = (6 * torch.rand(len(x), 1, 1, 1) - 4).exp(), torch.randn_like(x)
    squared = sigma**2 * (network(x + sigma * eps, sigma) + eps / sigma) ** 2
    return (squared - 2 * sigma * eps * network(x, sigma)).sum((1, 2, 3)).mean()


def control_variate_at_low_noise(network, x):
    """As sbi's default: the input is scaled by level, and little noise has a control variate."""
    sigma, eps = (6 * torch.rand(len(x), 1, 1, 1) - 4).exp(), torch.randn_like(x)

    def scaled(z):
        return network(z / (1 + sigma**2).sqrt(), sigma)

    squared = sigma**2 * (scaled(x + sigma * eps) + eps / sigma) ** 2
    return (squared - (sigma < 0.3) * 2 * sigma * eps * scaled(x)).sum((1, 2, 3)).mean()


def linear_regularizer(network, x):
    """The same with a term that does not average out."""
    sigma, eps = (6 * torch.rand(len(x), 1, 1, 1) - 4).exp(), torch.randn_like(x)
    squared = sigma**2 * (network(x + sigma * eps, sigma) + eps / sigma) ** 2
    return (squared + 0.1 * x * network(x, sigma)).sum((1, 2, 3)).mean()


def mean_flow(network, x):
    """MeanFlow: the target holds the derivative of the network along the path."""
    t, r = torch.rand(2, len(x)).sort(0, descending=True).values
    t_, eps = expand(t, x), torch.randn_like(x)
    tangents = (eps - x, torch.ones_like(t), torch.zeros_like(r))
    inputs = ((1 - t_) * x + t_ * eps, t, r)
    u, du_dt = torch.autograd.functional.jvp(network, inputs, tangents, create_graph=True)
    target = (eps - x - expand(t - r, x) * du_dt).detach()
    return F.mse_loss(u, target)


def pyramid(network, x, discount=0.4):
    """Multi-resolution noise as trainers draw it: coarser and coarser grids, until one is 1 x 1."""
    noise, (h, w) = torch.randn_like(x), x.shape[2:]
    for i in range(1, 6):
        r = 2 * torch.rand(()).item() + 2
        h, w = max(1, int(h / r**i)), max(1, int(w / r**i))
        coarse = torch.randn(*x.shape[:2], h, w)
        noise = noise + F.interpolate(coarse, x.shape[2:], mode="bilinear") * discount**i
        if 1 in (h, w):
            break
    t, alpha, sigma = cosine_time(x)
    noise = noise / noise.std()
    return F.mse_loss(network(alpha * x + sigma * noise, t), noise)


def trimmed(network, x):
    """The largest errors of the batch are left out."""
    t, eps = times(x), torch.randn_like(x)
    error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
    is_counted = (error.detach() < 1.5 * error.detach().median()).float()
    return (error * is_counted).sum() / is_counted.sum()


def floored(network, x):
    """Samples that are near their target are not trained."""
    t, eps = times(x), torch.randn_like(x)
    error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
    return error.clamp(min=0.01).mean()


def floored_elements(network, x):
    t, eps = times(x), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().clamp(min=1e-3).mean()


def perceptual(network, x):
    """A term of features of the predicted data, 2 % of the gradient."""
    t, eps = times(x), torch.randn_like(x)
    z = (1 - t) * x + t * eps
    v = network(z, t)
    kernel = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 3
    features, of_data = (F.relu(F.conv2d(data, kernel)) for data in (z - t * v, x))
    return F.mse_loss(v, eps - x) + 0.02 * F.mse_loss(features, of_data)


def adversarial(network, x, where=0.3):
    """A discriminator's term at low noise levels, 0.1 % of the gradient there."""
    t, eps = times(x), torch.randn_like(x)
    z = (1 - t) * x + t * eps
    v = network(z, t)
    kernel = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 8
    score = F.silu(F.conv2d(z - t * v, kernel)).mean((1, 2, 3))
    return F.mse_loss(v, eps - x) + 0.05 * (F.softplus(-score) * (t < where).flatten()).mean()


FATAL = [
    (adversarial, "not-quadratic"),
    (trimmed, "error-dependent"),
    (floored, "error-dependent"),
    (floored_elements, "error-dependent"),
    (perceptual, "not-quadratic"),
    (variational_bound, "learned-coefficient"),
    (linear_regularizer, "linear-term"),
    (mean_flow, "derivative-target"),
    (pyramid, "coloured-noise"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("loss", "kind"), FATAL, ids=[loss.__name__ for loss, _ in FATAL])
def test_a_loss_without_a_weighting_is_told_why(loss, kind, seed):
    result = audit.probe(loss, X[:64], 500, seed=seed)
    assert [d.kind for d in result.diagnostics if d.is_fatal][:1] == [kind]
    assert not result.is_weighted_elbo
    assert (result.recipe, result.resembles) == (None, [])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("end", [1.0, 3.0])
def test_clipped_inputs_are_refused(end, seed):
    def loss(network, x):
        t, eps = times(x), torch.randn_like(x)
        return F.mse_loss(network(((1 - t) * x + t * eps).clamp(-end, end), t), eps - x)

    with pytest.raises(ValueError, match="clipped"):
        audit.probe(loss, X, 300, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_calls_on_the_same_noisy_data_have_the_weighting_of_one(seed):
    def loss(network, x):
        t, eps = times(x), torch.randn_like(x)
        z = (1 - t) * x + t * eps
        return (F.mse_loss(network(z, t), eps - x) + F.mse_loss(network(z, t), eps - x)) / 2

    result = audit.probe(loss, X, 300, seed=seed)
    assert kinds(result) == ["several-calls"]
    assert (result.parameterization, result.closest[0].name) == ("flow", "Exponential()")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [control_variate, control_variate_at_low_noise])
def test_a_control_variate_changes_nothing(loss, seed):
    result = audit.probe(loss, X[:64], 1000, seed=seed)
    assert kinds(result) == ["control-variate"]
    assert (result.parameterization, result.closest[0].name) == ("score", "ELBO()")
    assert result.is_monotone


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_that_a_penalty_shrinks_is_no_published_one(seed):
    def penalized(network, x):
        t, eps = times(x), torch.randn_like(x)
        y = network((1 - t) * x + t * eps, t)
        return F.mse_loss(y, eps - x) + 0.2 * y.square().mean()

    result = audit.probe(penalized, X[:64], 1000, seed=seed)
    assert kinds(result) == ["scaled-target"]
    assert result.diagnostics[0].values["factor"] == pytest.approx(1 / 1.2, rel=1e-3)
    assert (result.parameterization, result.recipe, result.resembles) == ("flow", None, [])


def flow(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()


def flow_of_one(network, x):
    t, eps = torch.rand(()), torch.randn_like(x)
    return F.mse_loss(network(((1 - t) * x + t * eps)[None], t)[0], eps - x)


def flow_of_clean_data(network, x):
    return F.mse_loss(network(x, torch.rand(len(x))), torch.randn_like(x) - x)


WRONG_DATA = [
    (flow, X[:64].flatten(1), r"shape \[64, 1, 64, 192\] for data of shape \[64, 192\]"),
    (flow_of_one, X[0], r"\[3, 8, 8\], for one sample"),
    (flow_of_clean_data, X[:64], r"given the clean data"),
]


@pytest.mark.parametrize(("loss", "x", "reason"), WRONG_DATA)
def test_data_of_a_wrong_shape_are_told_so(loss, x, reason):
    with pytest.raises(ValueError, match=rf"\A.*({reason}).*\Z"):
        audit.probe(loss, x, 300)


def test_nothing_is_said_of_the_scale_of_a_target_without_a_weighting():
    def doubled(v, *_):
        return 2 * torch.where(torch.rand(len(v), 1, 1, 1) < 0.05, v.roll(1, 0), v)

    result = audit.probe(v_loss(doubled), X[:64], 500)
    assert not result.is_weighted_elbo
    assert "scaled-target" not in kinds(result)


def test_an_energy_whose_derivative_is_trained_is_told_so():
    def loss(network, x):
        z = (x + 0.1 * torch.randn_like(x)).requires_grad_()
        (score,) = torch.autograd.grad(network(z).sum(), z, create_graph=True)
        return (score + (z - x) / 0.01).square().mean()

    with pytest.raises(ValueError, match="energy"):
        audit.probe(loss, X[:64], 300)
