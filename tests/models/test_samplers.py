"""Samplers: their orders on a flow with a closed form, and the distribution that they sample."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import bimodal, gaussian, z_score

from elbos import adapters
from elbos.models import samplers
from elbos.models.samplers import (
    DDIM,
    Ancestral,
    DPMSolver,
    Heun,
    StochasticDPMSolver,
    grid,
)
from elbos.theory import schedules
from elbos.theory.denoiser import Guided
from elbos.theory.process import alpha_sigma

CLASSES = [cls() for cls in samplers.SAMPLERS]  # at their defaults
SAMPLERS = [
    *CLASSES,
    Ancestral(variance=0.3),
    DDIM(eta=0.5),
    Heun(churn=40.0, churn_min=0.05, churn_max=50.0),
    StochasticDPMSolver(eta=0.4),
]
ORDERS = [
    (DDIM(), 1, (-6.0, 8.0)),
    (Heun(), 2, (-6.0, 8.0)),
    (DPMSolver(), 2, (-6.0, 8.0)),
]
LEVELS = [schedules.Linear, schedules.EDMSampling]  # even and uneven in log-SNR
STD = 0.5


def flow_map(z, logsnr, logsnr_end):
    """Of N(0, s^2) data: z' = z std(l') / std(l), std^2 = alpha^2 s^2 + sigma^2."""

    def std(level):
        return math.sqrt(STD**2 / (1 + math.exp(-level)) + 1 / (1 + math.exp(level)))

    return z * std(logsnr_end) / std(logsnr)


def seed(value=7):
    """The same noise at every call."""
    return torch.Generator().manual_seed(value)


@pytest.mark.parametrize(("sampler", "order", "ends"), ORDERS, ids=repr)
@pytest.mark.parametrize("levels", LEVELS, ids=lambda schedule: schedule.__name__)
def test_order_of_convergence(sampler, order, ends, levels):
    """Slope of the log-error over 128 to 512 steps, within 0.1."""
    schedule = levels(logsnr_min=ends[0], logsnr_max=ends[1])
    z = torch.ones(1, 1, dtype=torch.float64)
    nums = [128, 256, 512]
    actual = [
        sampler(gaussian(STD), z, schedule.logsnr(torch.linspace(1, 0, num + 1).double())).item()
        for num in nums
    ]
    errors = np.abs(np.array(actual) - flow_map(1.0, *ends))
    slope = -np.polyfit(np.log(nums), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)


def test_grid_runs_from_noise_to_clean_data():
    schedule = schedules.Cosine(logsnr_min=-7.0, logsnr_max=9.0)
    levels = grid(schedule, 5)
    assert levels[0] == pytest.approx(-7, abs=1e-10)
    assert levels[-2] == pytest.approx(9, abs=1e-10)
    assert levels[-1] == math.inf
    times = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(levels[:-1]), times, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="num_steps is 1"):
        grid(schedule, 1)


def test_edm_sampling_makes_karras_grid():
    """Equation 5 of the paper: sigma_i, i = 0 .. 17, and then 0."""
    i = np.arange(18)
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    sigma = (ends[0] + i / 17 * (ends[1] - ends[0])) ** 7
    levels = grid(schedules.EDMSampling(), 18)
    np.testing.assert_allclose(torch.exp(-levels / 2), [*sigma, 0.0], rtol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("num_steps", [2, 10])
def test_number_of_evaluations(sampler, num_steps, randn):
    """The closed form is the number of calls, each with the condition as it was given."""
    calls = []

    def counted(z, logsnr, cond=None):
        calls.append(cond)
        return gaussian(STD)(z, logsnr)

    cond = {"text": torch.zeros(3, 7), "style": "plain"}
    sampler(counted, randn(3, 1), grid(schedules.Cosine(), num_steps), cond)
    assert len(calls) == sampler.num_evaluations(num_steps)
    assert all(each is cond for each in calls)


def test_ddim_with_full_noise_is_ancestral(randn):
    """The same noise, step by step, to 1e-10."""
    z, levels = randn(40, 1), grid(schedules.Cosine(logsnr_min=-8.0, logsnr_max=8.0), 20)
    full = DDIM(eta=1.0)(bimodal(), z, levels, generator=seed())
    expected = Ancestral()(bimodal(), z, levels, generator=seed())
    torch.testing.assert_close(full, expected, rtol=0, atol=1e-10)


def test_the_sde_without_noise_is_the_ode_and_its_first_step_with_all_of_it_is_ancestral(randn):
    z, levels = randn(40, 1), grid(schedules.EDMSampling(), 10)
    still = StochasticDPMSolver(eta=0.0)(bimodal(), z, levels)
    torch.testing.assert_close(still, DPMSolver()(bimodal(), z, levels), rtol=0, atol=0)
    step = StochasticDPMSolver()(bimodal(), z, levels[5:7], generator=seed())
    expected = Ancestral()(bimodal(), z, levels[5:7], generator=seed())
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 2.0])
def test_the_sde_keeps_the_variance_of_a_gaussian(eta, generator, randn):
    """Z < 4, n = 20,000; on the way and at the end, with so many steps that their error is less."""
    num, ends = 20_000, (-8.0, 1.0, 12.0)
    z = randn(num, 1) * flow_map(STD, 100.0, ends[0])
    for begin, end in pairwise(ends):
        schedule = schedules.Linear(logsnr_min=begin, logsnr_max=end)
        levels = schedule.logsnr(torch.linspace(1, 0, 301).double())
        z = StochasticDPMSolver(eta=eta)(gaussian(STD), z, levels, generator=generator)
        assert z_score(z[:, 0] ** 2, flow_map(STD, 100.0, end) ** 2) < 4


def test_ancestral_variance_interpolates_in_the_log(generator):
    """One step with a constant estimate: the spread is the posterior's, the transition's, between.

    n = 20,000, z < 4; at l_t = -1, l_s = 0.5, with c = 1 - e^{l_t - l_s}.
    """
    levels = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    c = 1 - math.exp(-1.5)
    posterior, transition = c / (1 + math.exp(0.5)), c / (1 + math.exp(-1.0))
    z = torch.zeros(20_000, 1, dtype=torch.float64)
    for share in (0.0, 0.5, 1.0):
        step = Ancestral(variance=share)
        x = step(lambda z, *_: (z, z), z, levels, generator=generator)
        expected = posterior ** (1 - share) * transition**share
        assert abs(x.var().item() / expected - 1) < 4 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_samples_have_the_moments_of_the_data(sampler, generator, randn):
    """First four moments of a bimodal distribution, z < 4, n = 4,000; 200 steps."""
    levels = grid(schedules.Cosine(logsnr_min=-12.0, logsnr_max=12.0), 200)
    x = sampler(bimodal(), randn(4000, 1), levels, generator=generator)[:, 0]
    for power in (1, 2, 3, 4):
        expected = 0.3 * scipy.stats.norm(-0.8, 0.2).moment(power)
        expected += 0.7 * scipy.stats.norm(0.5, 0.3).moment(power)
        assert z_score(x**power, expected) < 4


@pytest.mark.parametrize("sampler", CLASSES, ids=repr)
def test_a_sampler_of_point_data_ends_on_the_points(sampler, randn):
    """At the level of infinity alpha is 1 and sigma 0: what comes out is x_hat itself."""
    data = bimodal()
    points = type(data)(data.weights, data.means, 0 * data.stds)
    x = sampler(points, randn(50, 1), grid(schedules.Cosine(logsnr_max=10.0), 60))
    distance = (x - data.means[:, 0]).abs().min(dim=1).values
    assert distance.max() < 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_images_in_a_batch_as_large_as_the_width_are_independent(sampler, randn):
    """The Gaussian's denoiser is elementwise, so that images are their pixels one by one."""
    data, flat = gaussian(STD, 48), gaussian(STD)

    def images(z, logsnr, *_):
        return tuple(part.reshape(z.shape) for part in data(z.flatten(1), logsnr))

    z, levels = randn(4, 3, 4, 4), grid(schedules.Cosine(), 8)
    x = sampler(images, z, levels, generator=seed())
    expected = sampler(flat, z.reshape(-1, 1), levels, generator=seed()).reshape(z.shape)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("churn", [0.0, 3.0])
def test_heun_is_algorithm_2_of_edm(churn, randn):
    """Written in the paper's variables, sigma_tilde and D: a step without churn and one with it."""
    z, sigmas = randn(20, 1), (5.0, 3.0, 1.0)
    levels = -2 * torch.tensor(sigmas, dtype=torch.float64).log()
    heun = Heun(churn=churn, churn_max=4.0, churn_noise=1.1)
    actual = heun(bimodal(), z, levels, generator=seed())

    def d(x, s):
        level = torch.tensor([-2 * math.log(s)], dtype=torch.float64)
        denoised, _ = bimodal()(x / math.sqrt(1 + s * s), level)
        return (x - denoised) / s

    def step(x, s, s_next):
        euler = x + (s_next - s) * d(x, s)
        return x + (s_next - s) * (d(x, s) + d(euler, s_next)) / 2

    noise = torch.randn(20, 1, generator=seed(), dtype=torch.float64)
    raised = sigmas[1] * (1 + min(churn / 2, math.sqrt(2) - 1))
    x = step(z * math.sqrt(1 + sigmas[0] ** 2), sigmas[0], sigmas[1])
    x = x + math.sqrt(raised**2 - sigmas[1] ** 2) * 1.1 * noise
    x = step(x, raised, sigmas[2])
    torch.testing.assert_close(actual * math.sqrt(1 + sigmas[2] ** 2), x, rtol=0, atol=1e-9)


# --- what is not kept, and what is refused --------------------------------------------------------


@pytest.mark.parametrize("sampler", CLASSES, ids=repr)
def test_samples_have_no_graph(sampler, randn):
    """Though the network and the noise need gradients; a denoiser may take some of its own."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    needed = []

    def guided(z, logsnr, cond=None):
        needed.append((scale * z).requires_grad)
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            x_hat, eps_hat = bimodal()(scale * point, logsnr)
            (slope,) = torch.autograd.grad(x_hat.sum(), point, retain_graph=True)
        return x_hat + 0 * slope, eps_hat + 0 * slope

    levels, z = grid(schedules.Cosine(), 5), randn(6, 1)
    x = sampler(guided, z.clone().requires_grad_(), levels, generator=seed())
    assert not x.requires_grad
    assert not any(needed)
    torch.testing.assert_close(x, sampler(bimodal(), z, levels, generator=seed()), rtol=0, atol=0)


@pytest.mark.parametrize("sampler", CLASSES, ids=repr)
def test_float32_stays_float32_and_close(sampler, randn):
    z, levels = randn(50, 1), grid(schedules.EDMSampling(), 20)
    data = bimodal()
    single = type(data)(data.weights.float(), data.means.float(), data.stds.float())
    x = sampler(single, z.float(), levels)
    assert x.dtype == torch.float32
    if not isinstance(sampler, Ancestral | StochasticDPMSolver):  # whose float32 noise is another
        torch.testing.assert_close(x.double(), sampler(data, z, levels), rtol=0, atol=1e-4)


COSINE = grid(schedules.Cosine(), 5)


@pytest.mark.parametrize("sampler", CLASSES, ids=repr)
@pytest.mark.parametrize(
    ("denoiser", "dtype", "levels", "named"),
    [
        (bimodal(), torch.float64, torch.tensor([8.0, 0.0, -8.0]), r"logsnrs is \["),
        (bimodal(), torch.float64, torch.tensor([-8.0, 0.0, 0.0]), r"logsnrs is \["),
        (bimodal(), torch.float64, torch.tensor([math.nan, 0.0]), r"logsnrs is \["),
        (bimodal(), torch.float64, torch.tensor([0.0]), r"logsnrs is \["),
        (bimodal(), torch.float64, torch.tensor([-math.inf, 0.0]), r"logsnrs is \[-inf"),
        (bimodal(), torch.bfloat16, COSINE, "torch.bfloat16"),  # in which levels are equal
        (bimodal(), torch.float16, COSINE, "torch.float16"),
        (lambda z, *_: z, torch.float64, COSINE, "Tensor"),  # a network, unpacked into a pair
    ],
    ids=["falling", "equal", "nan", "single", "no signal", "bfloat16", "float16", "network"],
)
def test_what_cannot_be_sampled_is_refused(sampler, denoiser, dtype, levels, named, randn):
    with pytest.raises(ValueError, match=named):
        sampler(denoiser, randn(2, 1).to(dtype), levels)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (Ancestral, "variance", -0.1),
        (DDIM, "eta", 1.5),
        (StochasticDPMSolver, "eta", -0.5),
        (Heun, "churn", -1.0),
    ],
)
def test_settings_out_of_their_range_are_refused(cls, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        cls(**{name: value})


# --- parity with diffusers -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers", reason="parity needs diffusers")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("eta", "options"),
    [
        (0.0, {"clip_sample": False}),
        (0.5, {"clip_sample": False}),
        (1.0, {"clip_sample": False}),
        (0.5, {}),
        (0.0, {"clip_sample_range": 0.5}),
        (0.5, {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.7}),
    ],
    ids=repr,
)
def test_a_ddim_step_is_diffusers(diffusers, eta, options, randn):
    """What the scheduler clips is clipped, if nothing else is said, and told from its estimate."""
    scheduler = diffusers.DDIMScheduler(**options)
    scheduler.set_timesteps(50)
    now, after = 500, 480
    alpha2 = scheduler.alphas_cumprod[[now, after]].double()
    z, eps_hat = randn(6, 3, 1), randn(6, 3, 1)
    noise = torch.randn(6, 3, 1, generator=seed(), dtype=torch.float64)
    step = scheduler.step(
        eps_hat,
        now,
        z,
        eta=eta,
        variance_noise=noise if eta else None,
        use_clipped_model_output=True,
    )
    denoiser = adapters.diffusers.denoiser(lambda z, timestep: eps_hat, scheduler)
    for outer in (denoiser, Guided(denoiser, 1.0)):
        z_next = DDIM(eta=eta)(outer, z, torch.logit(alpha2), generator=seed())
        torch.testing.assert_close(z_next, step.prev_sample.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_every_sampler_clips_the_estimate_of_the_data(sampler, randn):
    """As with a denoiser that does so itself; an estimate of noise that is off bursts else."""

    def biased(z, logsnr, cond=None):
        alpha, sigma = alpha_sigma(logsnr)
        _, eps_hat = bimodal()(z, logsnr)
        eps_hat = eps_hat + 0.02
        return (z - sigma * eps_hat) / alpha, eps_hat

    def clamped(z, logsnr, cond=None):
        alpha, sigma = alpha_sigma(logsnr)
        x_hat = biased(z, logsnr)[0].clamp(-1, 1)
        return x_hat, (z - alpha * x_hat) / sigma

    z, levels = randn(50, 1), grid(schedules.Cosine(logsnr_min=-15.0, logsnr_max=10.0), 8)
    actual = sampler(biased, z, levels, generator=seed(), clip=1.0)
    torch.testing.assert_close(actual, sampler(clamped, z, levels, generator=seed()))
    free = sampler(biased, z, levels, generator=seed())
    assert not torch.allclose(actual, free)
    off = sampler(biased, z, levels, generator=seed(), clip=1e9)
    torch.testing.assert_close(off, free)
    with pytest.raises(ValueError, match="limit"):
        sampler(biased, z, levels, clip=0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("sampler", "algorithm"),
    [(DPMSolver(), "dpmsolver++"), (StochasticDPMSolver(), "sde-dpmsolver++")],
    ids=repr,
)
def test_dpm_solver_is_diffusers(diffusers, sampler, algorithm, randn):
    """All steps, the last of order 1, with the same noise; z there is of VE-like sigmas, rounded to
    float32.
    """
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type=algorithm, solver_order=2, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(20)
    levels = -2 * scheduler.sigmas.double().log()
    z, start, noise = *(2 * [randn(6, 1)]), seed()
    for level, timestep in zip(levels, scheduler.timesteps, strict=False):
        _, eps_hat = bimodal()(z, level[None])
        eps = torch.randn(6, 1, dtype=torch.float64, generator=noise)
        z = scheduler.step(eps_hat, timestep, z, variance_noise=eps).prev_sample
    actual = sampler(bimodal(), start, levels, generator=seed())
    torch.testing.assert_close(actual, z, rtol=1e-5, atol=1e-5)
