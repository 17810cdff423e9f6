r"""The denoiser that an audit finds, beside the exact denoiser of a Gaussian mixture.

The network of each convention is exact, too: it computes $\mathbb E[y \mid z', t]$ from the mixture
in the terms of the convention. Then the denoiser has to be the mixture's own, at every noise level.
"""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch

from elbos import audit
from elbos.theory.objective import Objective
from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import alpha_sigma
from elbos.theory.schedules import Linear
from elbos.theory.weightings import Sigmoid

DATA = GaussianMixture(
    weights=torch.tensor([0.3, 0.7]),
    means=torch.tensor([[0.3, -0.3] * 8, [-0.2, 0.1] * 8]),
    stds=torch.tensor([0.15, 0.1]),
)
X = DATA.sample(64, torch.Generator().manual_seed(0))[0]
probe = partial(audit.probe, num_samples=1000)
ALPHA_BAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
FLOW = (lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like)


def uniform(num):
    return torch.rand(num, dtype=torch.float64)


def step(num):
    return torch.randint(0, 1000, (num,))


def bar(k):
    position = k.double()
    low = position.floor().long().clamp(max=998)
    share = position - low
    ends = (ALPHA_BAR / (1 - ALPHA_BAR)).log()
    return torch.sigmoid(ends[low] * (1 - share) + ends[low + 1] * share)  # linear in log-SNR


def sigmas(num):
    return (1.2 * torch.randn(num, dtype=torch.float64) - 1.2).exp()


def ones(t):
    return torch.ones_like(t, dtype=torch.float64)


CONVENTIONS = {  # time of a sample, alpha', sigma', a, b of it, and the network's time input
    "flow": (uniform, *FLOW, lambda t: t),
    "reversed": (
        *(uniform, lambda t: t, lambda t: 1 - t, ones, lambda t: -ones(t), lambda t: 1000 * t),
    ),
    "table": (
        *(step, lambda k: bar(k).sqrt(), lambda k: (1 - bar(k)).sqrt(), lambda k: 0 * ones(k)),
        *(ones, lambda k: k),
    ),
    "ve": (sigmas, ones, lambda s: s, ones, lambda s: 0 * s, lambda s: s),
    "edm": (
        *(sigmas, lambda s: (s**2 + 0.25) ** -0.5, lambda s: s * (s**2 + 0.25) ** -0.5),
        *(lambda s: s / (0.5 * (s**2 + 0.25) ** 0.5), lambda s: -0.5 / (s**2 + 0.25) ** 0.5),
        lambda s: s.log() / 4,
    ),
    "unnamed": (
        *(uniform, lambda t: 1 - t**2, lambda t: (t + t**3) / 2, lambda t: 1 + t, lambda t: t - 2),
        lambda t: (1 - t) ** 3,
    ),
    "scaled": (
        uniform,
        lambda t: 3 * (1 - t),
        lambda t: t,
        lambda t: -3 * ones(t),
        ones,
        lambda t: t,
    ),
}


class Exact:
    """The exact network of a convention, with the order and names of the arguments to choose."""

    def __init__(self, name, given_first=False):
        self.draw, *self.functions, self.time = CONVENTIONS[name]
        self.is_first = given_first

    def coefficients(self, t):
        return [f(t).double().reshape(-1, 1) for f in self.functions]

    def loss(self, network, x):
        t, eps = self.draw(len(x)), torch.randn_like(x)
        alpha, sigma, a, b = self.coefficients(t)
        z, time = (alpha * x + sigma * eps).float(), self.time(t)
        time = time if time.dtype == torch.int64 else time.float()
        y_hat = network(time, z) if self.is_first else network(z, time)
        return (y_hat - (a * x + b * eps)).square().mean()

    def __call__(self, first, second):
        z, time = (second, first) if self.is_first else (first, second)
        t = self.inverse(time.double())
        alpha, sigma, a, b = self.coefficients(t)
        logsnr = 2 * (alpha / sigma).log()
        vp, _ = alpha_sigma(logsnr)
        x_hat, eps_hat = double(DATA)(z.double() * vp / alpha, logsnr[:, 0])
        return (a * x_hat + b * eps_hat).float()

    def inverse(self, time):
        """Find the time of a sample from the network's input, which is monotone in it."""
        low, high = torch.full_like(time, 1e-9), torch.full_like(time, 1 - 1e-9)
        if self.draw is step:
            return time
        if self.draw is sigmas:
            low, high = low * 1e-3, high * 1e6
        is_rising = self.time(high) > self.time(low)
        for _ in range(80):
            middle = (low * high).sqrt() if self.draw is sigmas else (low + high) / 2
            is_above = (self.time(middle) > time) == is_rising
            low, high = torch.where(is_above, low, middle), torch.where(is_above, middle, high)
        return middle


@cache
def found_of(name):
    """The audit of a convention."""
    return probe(Exact(name, name == "unnamed").loss, X, num_samples=4000)


def double(mixture):
    return GaussianMixture(mixture.weights.double(), mixture.means.double(), mixture.stds.double())


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_denoiser_of_an_exact_network_is_exact(name):
    exact = Exact(name, name == "unnamed")
    actual = found_of(name).denoiser(exact)
    low, high = max(actual.logsnr_min, -8.0), min(actual.logsnr_max, 8.0)
    logsnr = torch.linspace(low + 1e-3, high - 1e-3, 40)
    x = X[:40]
    alpha, sigma = alpha_sigma(logsnr[:, None])
    z = alpha * x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    for value, expected in zip(
        actual(z, logsnr), double(DATA)(z.double(), logsnr.double()), strict=True
    ):
        assert (value - expected).abs().max() < 5e-3
        assert (value - expected).square().mean().sqrt() < 5e-4
    is_named = name != "unnamed"
    assert (actual.convention.error == 0) == is_named
    assert actual.convention.error < 1e-3


TIMES = {"flow": "t", "reversed": "1000 (1 - t)", "ve": "sigma", "edm": "ln(sigma)/4",
         "table": "steps 0 to 999 of a table, data to noise"}  # fmt: skip


@pytest.mark.parametrize("name", TIMES)
def test_the_time_that_the_network_is_given_is_named(name):
    actual = found_of(name)
    assert actual.time_name == TIMES[name]
    assert len(repr(actual.denoiser(Exact(name)).convention)) < 120


COSINE, END = "u, where alpha = cos(pi u/2)", 0.99


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (lambda u: u, COSINE),
        (lambda u: 1 - u, f"1 - {COSINE}"),
        (lambda u: -(torch.tan(u * END * torch.pi / 2)), "-sigma"),
        (lambda u: 2 * u, " at log-SNR "),
        (lambda u: 1 / torch.tan(u * END * torch.pi / 2), " at log-SNR "),
    ],
)
def test_a_time_is_named_only_in_a_usual_unit(time, text):
    def loss(network, x):
        u, eps = 1e-3 + 0.998 * torch.rand(len(x), 1), torch.randn_like(x)
        alpha, sigma = (u * END * torch.pi / 2).cos(), (u * END * torch.pi / 2).sin()
        return (network(alpha * x + sigma * eps, time(u)) - eps).square().mean()

    name = probe(loss, X, num_samples=500).time_name
    assert text in name and (name == text or "at" in text)


@pytest.mark.parametrize(
    ("shift", "text"), [(5, "5u/(1 + 4u)"), (2, "2u/(1 + u)"), (0.5, "0.5u/(1 - 0.5u)")]
)
def test_a_time_before_its_shift_is_named(shift, text):
    def loss(network, x):
        u, eps = torch.rand(len(x), 1), torch.randn_like(x)
        t = shift * u / (1 + (shift - 1) * u)
        return (network((1 - t) * x + t * eps, 1000 * u) - (eps - x)).square().mean()

    assert probe(loss, X).time_name == f"1000 u, where t = {text}"


def test_the_time_of_a_path_that_ends_with_little_noise_is_no_shifted_time():
    def loss(network, x):
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        z = t * x + (1 - (1 - 1e-4) * t) * eps
        return (network(z, t) - (x - (1 - 1e-4) * eps)).square().mean()

    assert probe(loss, X).time_name == "1 - t"


def test_conditions_are_given_as_the_loss_gives_them():
    labels = torch.arange(64) % 10

    def loss(network, x):
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        rows = labels.repeat(len(x) // 64)
        y_hat = network((1 - t) * x + t * eps, t.flatten(), y=rows, guidance=3.5, mask=None)
        return (y_hat - (eps - x)).square().mean()

    calls = []

    def network(z, t, y, guidance, mask):
        calls.append((t, y, guidance, mask))
        return torch.zeros_like(z)

    actual = probe(loss, X).denoiser(network)
    cond = torch.tensor([3, 4])
    actual(torch.zeros(2, 16), torch.tensor([0.0, 2.0]), cond)
    actual(torch.zeros(2, 16), torch.tensor([0.0, 2.0]), {"y": cond})
    for t, y, guidance, mask in calls:
        assert t.numpy() == pytest.approx(1 / (1 + np.exp([0.0, 1.0])), abs=1e-6)
        assert torch.equal(y, cond)
        assert (guidance, mask) == (3.5, None)
    with pytest.raises(ValueError, match="y: give it as cond"):
        actual(torch.zeros(2, 16), torch.tensor([0.0]))


def test_a_learned_variance_is_left_out():
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        y_hat = network((1 - t) * x + t * eps, t.flatten())[:, :3]
        return (y_hat - (eps - x)).square().mean()

    x = torch.rand(16, 3, 4, 4) * 2 - 1
    actual = probe(loss, x).denoiser(lambda z, t: torch.cat([z, torch.full_like(z, 9)], 1))
    x_hat, _ = actual(x, torch.zeros(1))
    z = x / 2**0.5  # the input of rectified flow at t = 1/2
    assert x_hat.numpy() == pytest.approx((z - 0.5 * z).numpy(), abs=1e-5)


def huber(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    y_hat = network((1 - t) * x + t * eps, t)
    return torch.nn.functional.huber_loss(y_hat, eps - x, delta=0.1)


def unknown_noise(network, x):
    """Normal noise that is computed from uniform draws, and so not known to the audit."""
    t, eps = (
        torch.rand(len(x), 1, 1, 1),
        torch.special.ndtri(torch.rand_like(x).clamp(1e-6, 1 - 1e-6)),
    )
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()


def test_a_declared_audit_has_no_denoiser():
    with pytest.raises(ValueError, match="probe"):
        audit.from_recipe("edm").denoiser(lambda z, t: z)


def test_levels_beyond_those_of_the_loss_are_refused():
    actual = found_of("table").denoiser(Exact("table"))
    ends = [2 * (ALPHA_BAR[i].sqrt() / (1 - ALPHA_BAR[i]).sqrt()).log() for i in (-1, 0)]
    assert [actual.logsnr_min, actual.logsnr_max] == pytest.approx(
        [float(e) for e in ends], abs=1e-3
    )
    with pytest.raises(ValueError, match="log-SNR 20"):
        actual(X, torch.tensor([20.0]))


class Joined(torch.nn.Linear):
    def forward(self, z, t):
        return super().forward(torch.cat([z, t], 1))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_recorded_steps_determine_the_denoiser(dtype, error):
    """The recorded network's own denoiser, by hand and from the steps of its training."""
    torch.manual_seed(0)
    network = Joined(17, 16)
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with audit.record(network) as recorded, autocast:
        for _ in range(60):
            t, eps = torch.rand(64, 1), torch.randn_like(X)
            (network(t * X + (1 - t) * eps, t) - (X - eps)).square().mean().backward()
    actual = recorded.audit().denoiser(network)
    z, logsnr = X / 2, torch.linspace(-2, 2, 64)
    t = torch.sigmoid(logsnr / 2)[:, None]
    alpha, _ = alpha_sigma(logsnr[:, None])
    with torch.no_grad():
        y = network(z * t / alpha, t)
        x_hat, _ = actual(z, logsnr)
    assert x_hat.numpy() == pytest.approx((z * t / alpha + (1 - t) * y).numpy(), abs=error)


def test_a_list_that_changes_between_recorded_steps_is_a_condition():
    network = torch.nn.Linear(16, 16)
    network.forward = lambda z, t, prompts: t * z @ network.weight
    with audit.record(network) as recorded:
        for step in range(60):
            t, eps = torch.rand(64, 1), torch.randn_like(X)
            y = network((1 - t) * X + t * eps, t, [f"prompt {step}"] * 64)
            (y - (eps - X)).square().mean().backward()
    with pytest.raises(ValueError, match="2"):
        recorded.audit().denoiser(network)(X, torch.zeros(64))


@pytest.mark.parametrize("number", [float, np.float32, torch.tensor])
def test_a_time_may_be_a_number(number):
    def loss(network, x):
        t, eps = np.random.uniform(), torch.randn_like(x)  # noqa: NPY002
        return (network((1 - t) * x + t * eps, number(t)) - (eps - x)).square().mean()

    actual, inputs = probe(loss, X), []
    assert actual.time_name == "t"
    actual.denoiser(lambda z, t: inputs.append(t) or 0 * z)(X, torch.zeros(64))
    assert inputs[0].numpy() == pytest.approx(0.5, abs=1e-3)  # alpha equals sigma


def flow_with(**arguments):
    """A loss that gives its network more arguments, by name; each is made anew in every call."""

    def loss(network, x):
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        made = {name: item(len(x)) for name, item in arguments.items()}
        return (network((1 - t) * x + t * eps, t, **made) - (eps - x)).square().mean()

    return loss


@pytest.mark.parametrize(
    "labels",
    [lambda _: None, lambda num: torch.zeros(num, dtype=torch.long)],
    ids=["none", "zeros"],
)
def test_a_condition_that_the_loss_left_out_is_given(labels):
    inputs = []
    actual = probe(flow_with(labels=labels), X).denoiser(
        lambda z, t, labels: inputs.append(labels) or 0 * z
    )
    cond = torch.arange(5)
    actual(X[:5], torch.zeros(5), cond)
    assert torch.equal(inputs[0], cond)
    with pytest.raises(ValueError, match="cond"):
        probe(flow_with(), X).denoiser(lambda z, t: z)(X, torch.zeros(64), X)


def test_tensors_without_a_row_for_each_sample_are_given_whole():
    ids, inputs = torch.randn(12, 3), []
    actual = probe(flow_with(ids=lambda _: ids), X).denoiser(
        lambda z, t, ids: inputs.append(ids) or 0 * z
    )
    actual(X[:5], torch.zeros(5))
    assert torch.equal(inputs[0], ids)


@pytest.mark.parametrize(
    "drawn",
    [lambda _: 1 + 4 * torch.rand(()), lambda _: torch.randn(1, 7, 4)],
    ids=["number", "embedding"],
)
def test_an_argument_that_is_drawn_anew_is_a_condition(drawn):
    actual = probe(flow_with(guidance=drawn), X).denoiser(lambda z, t, guidance: 0 * z)
    with pytest.raises(ValueError, match="guidance"):
        actual(X, torch.zeros(64))
    actual(X, torch.zeros(64), {"guidance": 3.0})


def test_a_time_keeps_its_precision_in_a_network_of_half_precision():
    times = []
    network = torch.nn.Linear(16, 16).bfloat16()
    network.forward = lambda z, t: times.append(t.dtype) or 0 * z
    probe(flow_with(), X).denoiser(network)(X, torch.zeros(64))
    assert times == [torch.float32]


def test_labels_of_few_classes_are_no_time():
    """Ties must not make a binary label look like a function of the noise level."""
    actual = probe(flow_with(label=lambda num: torch.randint(2, (num,))), X)
    with pytest.raises(ValueError, match="label"):
        actual.denoiser(lambda z, t, label: 0 * z)(X, torch.zeros(64))


def normalized(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    x = (x - torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()


def perturbed(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    z = (1 - t) * x + t * (eps + 0.1 * torch.randn_like(x))
    return (network(z, t) - (eps - x)).square().mean()


UNFIT = [
    (huber, "Huber"),
    (unknown_noise, "torch.randn"),
    (normalized, "normalizes"),
    (perturbed, "perturbs"),
]


@pytest.mark.parametrize(("loss", "named"), UNFIT)
def test_a_loss_that_determines_no_denoiser_is_refused(loss, named):
    x = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.raises(ValueError, match=named):
        probe(loss, x).denoiser(lambda z, t: z)


def test_an_inexact_convention_is_a_warning():
    def half(network, x):
        x, t = x.bfloat16(), torch.rand(len(x), 1).bfloat16()
        eps = torch.randn_like(x)
        y_hat = network((1 - t) * x + t * eps, t)
        return (y_hat - (eps - x)).square().mean()

    with pytest.warns(UserWarning, match="half precision"):
        probe(half, X).denoiser(lambda z, t: z)


def test_formulas_are_used_beyond_the_samples_and_tables_are_not():
    for name in ("flow", "reversed", "ve", "edm", "scaled"):
        actual = found_of(name).denoiser(lambda z, t: z)
        assert (actual.logsnr_min, actual.logsnr_max) == (-math.inf, math.inf), name
    for name in ("table", "unnamed"):
        actual = found_of(name).denoiser(lambda z, t: z)
        assert -25 < actual.logsnr_min < actual.logsnr_max < 25, name


def test_an_objective_trains_a_network_in_its_own_convention():
    """The weighted loss of the exact network is that of the exact denoiser, with gradients."""
    exact = Exact("edm")
    shift = torch.zeros(16, requires_grad=True)
    actual = found_of("edm").denoiser(lambda z, t: exact(z, t) + shift)
    objective = Objective(
        weighting=Sigmoid(k=2.0),
        schedule=Linear(logsnr_min=-6.0, logsnr_max=6.0),
        parameterization=actual.parameterization,
    )
    eps = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    logsnr = torch.linspace(-6, 6, len(X))
    loss = objective(actual.network, X, eps, logsnr)
    alpha, sigma = alpha_sigma(logsnr[:, None])
    _, eps_hat = double(DATA)((alpha * X + sigma * eps).double(), logsnr.double())
    error = (eps_hat - eps).square().mean(1)
    expected = 0.5 * objective.w_over_p(logsnr) * error
    assert loss.detach().numpy() == pytest.approx(expected.numpy(), rel=3e-5, abs=0)  # float32
    loss.sum().backward()
    assert shift.grad.abs().min() > 0


def flow_of(rows):
    def loss(network, x):
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t) - (eps - x))[:rows].square().mean()

    return loss


def test_a_loss_of_half_of_the_batch_is_measured_where_it_is():
    actual = probe(flow_of(len(X) // 2), X)
    ((diagnostic,), plain) = actual.diagnostics, probe(flow_of(None), X)
    assert (diagnostic.kind, diagnostic.share) == ("untrained-samples", pytest.approx(1 / 2))
    assert actual.distance(plain).value < 1e-3


@pytest.mark.parametrize("is_discrete", [False, True])
def test_a_time_between_steps_is_linear_in_log_snr(is_discrete):
    """Beside numpy's interpolation, on a cosine table, whose last steps are far apart."""
    angle = (torch.arange(101, dtype=torch.float64) / 100 + 0.008) / 1.008 * torch.pi / 2
    beta = (1 - (angle[1:].cos() / angle[:-1].cos()) ** 2).clamp(max=0.999)
    alpha_bar = (1 - beta).cumprod(0)[:, None]

    def loss(network, x):
        k, eps = torch.randint(100, (len(x),)), torch.randn_like(x)
        z = alpha_bar[k].sqrt() * x + (1 - alpha_bar[k]).sqrt() * eps
        return (network(z.float(), 4.0 * k) - eps).square().mean()

    times = []
    actual = probe(loss, X, num_samples=4000)
    denoiser = actual.denoiser(lambda z, k: times.append(k) or 0 * z, is_discrete=is_discrete)
    levels = torch.logit(alpha_bar[:, 0])
    logsnr = torch.linspace(*levels[[-1, 0]].tolist(), 64)[1:-1]
    denoiser(X[: len(logsnr)], logsnr)
    steps = 4 * np.interp(logsnr.numpy(), levels.flip(0), np.arange(100)[::-1])
    expected = np.round(steps) if is_discrete else steps
    assert np.abs(times[0].double().numpy() - expected).max() < (1.001 if is_discrete else 1e-3)
    assert denoiser.convention.error == 0
