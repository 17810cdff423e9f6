"""What a network of diffusers is given and what is made of its output, against diffusers itself."""

import inspect

import pytest
import torch

from elbos.adapters.diffusers import denoiser
from elbos.adapters.diffusers.schedulers import BETAS
from elbos.theory.process import alpha_sigma

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V = {"prediction_type": "v_prediction"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 2.5}


class Recorder:
    """A network that answers with a smooth function, and remembers what it was given."""

    def __call__(self, sample, timestep, **named):
        self.sample, self.timestep, self.named = sample.clone(), timestep.clone(), named
        time = timestep.to(sample).reshape(-1, *(1,) * (sample.ndim - 1))
        self.output = torch.tanh(sample) + torch.sin(time / 100)
        return self.output


def made(name, **options):
    return getattr(diffusers, f"{name}Scheduler")(**options)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "options",
    [{}, SCALED, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1, 0.3, 0.2]}],
    ids=["linear", "scaled", "cosine", "trained"],
)
@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_ancestral_schedulers_estimate_the_same_data(name, options, prediction, randn):
    options = options | {"num_train_timesteps": 3} if "trained_betas" in options else options
    scheduler = made(name, prediction_type=prediction, clip_sample=False, **options)
    num_steps = scheduler.config.num_train_timesteps
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    scheduler.set_timesteps(num_steps)
    denoise, network = denoiser(Recorder(), scheduler), Recorder()
    steps = torch.linspace(0, num_steps - 1, 3 if num_steps == 3 else 12).long()
    logsnr = torch.logit(scheduler.alphas_cumprod[steps])
    logsnr = logsnr.clamp(denoise.logsnr_min, denoise.logsnr_max)
    z = randn(len(steps), 2, 3, 3)
    x_hat, _ = denoise(z, logsnr)
    torch.testing.assert_close(denoise.network.timestep, steps.double(), rtol=0, atol=1e-3)
    for i, step in enumerate(steps):
        output = network(z[i : i + 1], step[None])
        expected = scheduler.step(output, int(step), z[i : i + 1]).pred_original_sample
        torch.testing.assert_close(x_hat[i : i + 1], expected, rtol=1e-5, atol=1e-5)


VE = {
    "euler": ("EulerDiscrete", SCALED),
    "euler-v": ("EulerDiscrete", SCALED | V),
    "euler-karras": ("EulerDiscrete", SCALED | {"use_karras_sigmas": True}),
    "euler-continuous": (
        "EulerDiscrete",
        SCALED
        | V
        | {"timestep_type": "continuous", "sigma_min": 0.01, "sigma_max": 300.0}
        | {"use_karras_sigmas": True},
    ),
    "ancestral": ("EulerAncestralDiscrete", SCALED),
    "edm": ("EDMEuler", {}),
    "edm-v": ("EDMEuler", {"sigma_data": 0.7} | V),
}


@pytest.mark.parametrize(("name", "options"), VE.values(), ids=VE)
def test_ve_schedulers_give_the_same_input_and_estimate_the_same_data(name, options, randn):
    scheduler = made(name, **options)
    scheduler.set_timesteps(9)
    denoise = denoiser(Recorder(), scheduler)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].double(), strict=True):
        logsnr = -2 * torch.log(sigma)[None]
        logsnr = logsnr.clamp(denoise.logsnr_min, denoise.logsnr_max)
        noisy = randn(1, 2, 3, 3) * (1 + sigma**2).sqrt()
        x_hat, _ = denoise(alpha_sigma(logsnr)[0] * noisy, logsnr)
        seen = denoise.network
        scaled = scheduler.scale_model_input(noisy, timestep)
        torch.testing.assert_close(seen.sample, scaled, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(seen.timestep[0].float(), timestep.float(), rtol=0, atol=2e-3)
        output = Recorder()(scaled, timestep.double()[None])
        step = scheduler.step(output, timestep, noisy)
        # derivative in sigma of the output in float32's timestep: 1e-5 of the scale of the output
        error = 1e-4 * float(sigma) + 1e-5
        torch.testing.assert_close(x_hat, step.pred_original_sample, rtol=1e-5, atol=error)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FlowMatchEulerDiscrete", {"shift": 3.0}),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}),
        ("FlowMatchHeunDiscrete", {"shift": 2.0}),
    ],
    ids=["shift", "dynamic", "heun"],
)
def test_flow_matching_schedulers_give_the_same_input_and_estimate_the_same_data(
    name, options, randn
):
    scheduler = made(name, **options)
    scheduler.set_timesteps(7, **{"mu": 0.8} if "use_dynamic_shifting" in options else {})
    denoise = denoiser(Recorder(), scheduler)
    pairs = zip(scheduler.timesteps, scheduler.sigmas[:-1].double(), strict=True)
    for timestep, sigma in pairs:
        if not 1e-3 < sigma < 1:  # at 1 there is no data in it
            continue
        logsnr = 2 * torch.log(1 / sigma - 1)[None]
        x, eps = randn(1, 2, 3, 3), randn(1, 2, 3, 3)
        alpha, noise = alpha_sigma(logsnr)
        x_hat, eps_hat = denoise(alpha * x + noise * eps, logsnr)
        mixed = (1 - sigma) * x + sigma * eps
        torch.testing.assert_close(denoise.network.sample, mixed, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(denoise.network.timestep[0].float(), timestep, rtol=0, atol=1e-3)
        velocity = denoise.network.output
        torch.testing.assert_close(x_hat, mixed - sigma * velocity, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(eps_hat, mixed + (1 - sigma) * velocity, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("options", [SCALED, SCALED | V, FLOW], ids=["epsilon", "v", "flow"])
def test_multistep_solvers_estimate_the_same_data(name, options, randn):
    scheduler = made(name, **options)
    scheduler.set_timesteps(6)
    denoise = denoiser(Recorder(), scheduler)
    is_flow = options is FLOW
    pairs = zip(scheduler.timesteps, scheduler.sigmas[:-1].double(), strict=True)
    for i, (timestep, sigma) in list(enumerate(pairs))[1:]:
        logsnr = 2 * torch.log(1 / sigma - 1) if is_flow else -2 * torch.log(sigma)
        logsnr = logsnr[None].clamp(denoise.logsnr_min, denoise.logsnr_max)
        z = randn(1, 2, 3, 3)
        x_hat, _ = denoise(z, logsnr)
        seen = denoise.network
        torch.testing.assert_close(  # diffusers rounds to whole timesteps in sampling
            seen.timestep[0], timestep.double(), rtol=0, atol=1.001
        )
        scheduler._step_index = i
        expected = scheduler.convert_model_output(seen.output, sample=seen.sample)
        torch.testing.assert_close(x_hat, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "UniPCMultistep"])
def test_zero_snr_has_no_finite_level_at_the_last_step(name):
    """Nor where a solver leaves a remainder of data."""
    scheduler = made(name, rescale_betas_zero_snr=True, **SCALED, **V)
    levels = denoiser(Recorder(), scheduler)
    table = torch.logit(scheduler.alphas_cumprod.double())
    # rescaling subtracts neighbours in float32: 1e-7 of 1e-4 at the last step but one
    assert levels.logsnr_min == pytest.approx(float(table[-2]), abs=1e-2)
    assert levels.timestep(table[[0, 500, 998]]).tolist() == pytest.approx([0, 500, 998], abs=1e-3)


def test_a_first_step_of_clean_data_keeps_the_numbers_of_the_others():
    levels = denoiser(
        Recorder(),
        {
            "_class_name": "DDPMScheduler",
            "trained_betas": [0.0, 0.1, 0.5],
            "num_train_timesteps": 3,
        },
    )
    logsnr = torch.logit(torch.tensor([0.9, 0.45]).double())
    assert levels.timestep(logsnr).tolist() == pytest.approx([1, 2])


@pytest.mark.parametrize("name", ["DDPM", "EDMEuler", "FlowMatchEulerDiscrete"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_timesteps_are_of_a_type_that_networks_take(name, dtype):
    """Whatever the noise levels are in: no layer of float32 takes float64."""
    config, logsnr = {"_class_name": f"{name}Scheduler"}, torch.zeros(2, dtype=torch.float64)
    timestep = denoiser(torch.nn.Linear(3, 3, dtype=dtype), config).timestep(logsnr)
    assert timestep.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_of_a_learned_variance_the_mean_is_taken(randn):
    class Twice(Recorder):
        def __call__(self, sample, timestep):
            return torch.cat([super().__call__(sample, timestep), torch.ones_like(sample)], 1)

    config = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    z, logsnr = randn(2, 3, 4, 4), torch.tensor([-2.0, 3.0]).double()
    torch.testing.assert_close(
        denoiser(Twice(), config)(z, logsnr),
        denoiser(Recorder(), config)(z, logsnr),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", sorted({*BETAS} - {"DPMSolverSDEScheduler"}))  # needs torchsde
def test_what_the_scheduler_clips_is_clipped(name):
    """By the source of diffusers: some schedulers store `clip_sample` and do not read it."""
    scheduler = getattr(diffusers, name)()
    reads = "if self.config.clip_sample:" in inspect.getsource(type(scheduler))
    expected = reads and scheduler.config.clip_sample
    network = lambda z, timestep: z  # noqa: E731
    inputs = {"_class_name": name}
    for actual in (denoiser(network, scheduler), denoiser(network, inputs)):
        assert (actual.clipping is not None) == expected
    if not reads:
        assert denoiser(network, inputs | {"clip_sample": True}).clipping is None
