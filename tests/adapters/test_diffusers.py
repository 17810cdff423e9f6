"""What we read in diffusers' files, against diffusers itself, most of it run in float64."""

import math
import re
import warnings

import pytest
import scipy.integrate
import scipy.stats
import torch

from elbos.adapters.diffusers import Training, loss_table, read_config
from elbos.theory import parameterizations
from elbos.theory.recipes import RECIPES

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True}
PREDICTIONS = {
    "epsilon": parameterizations.Eps(),
    "sample": parameterizations.X(),
    "flow_prediction": parameterizations.Flow(),
}
V = {"prediction_type": "v_prediction"}
X = {"prediction_type": "sample"}
TRAINED = {"trained_betas": [0.0, 0.1, 0.5, 0.2, 1.0], "num_train_timesteps": 4}

BETAS = [  # with options of sampling among them
    ("DDPM", {"beta_schedule": "linear", "clip_sample": False, "variance_type": "learned"}),
    ("DDPM", {"beta_schedule": "sigmoid", "num_train_timesteps": 77}),
    ("DDPM", {"beta_schedule": "laplace"}),
    ("DDPM", COSINE),
    ("DDPM", TRAINED),
    ("DDPM", SCALED | ZERO_SNR),
    ("DDPMParallel", {"beta_schedule": "sigmoid"} | ZERO_SNR),
    ("DDIM", {"set_alpha_to_one": False, "steps_offset": 1} | COSINE | ZERO_SNR),
    ("DDIMInverse", ZERO_SNR),
    ("DDIMParallel", {"timestep_spacing": "trailing"}),
    ("PNDM", {"skip_prk_steps": True}),
    ("LMSDiscrete", {"use_karras_sigmas": True}),
    ("EulerDiscrete", {"use_exponential_sigmas": True, "timestep_spacing": "leading"} | SCALED),
    ("EulerDiscrete", {"sigma_min": 0.1, "sigma_max": 9.0} | ZERO_SNR),
    ("EulerAncestralDiscrete", SCALED | ZERO_SNR),
    ("HeunDiscrete", {"beta_schedule": "exp", "use_karras_sigmas": True}),
    ("KDPM2Discrete", COSINE),
    ("KDPM2AncestralDiscrete", {"beta_end": 0.03}),
    ("DPMSolverMultistep", {"use_karras_sigmas": True, "lambda_min_clipped": -5.1}),
    ("DPMSolverMultistep", {"flow_shift": 3.0, "thresholding": True} | ZERO_SNR),
    ("DPMSolverMultistepInverse", COSINE),
    ("DPMSolverSinglestep", {"use_exponential_sigmas": True}),
    ("UniPCMultistep", {"timestep_spacing": "trailing"} | ZERO_SNR),
    ("DEISMultistep", TRAINED),
    ("SASolver", {"use_karras_sigmas": True}),
    ("LCM", {"timestep_scaling": 5.0}),
    ("TCD", ZERO_SNR),
    ("UnCLIP", {"variance_type": "learned_range"}),
    ("RePaint", {"beta_schedule": "sigmoid"}),
    ("CogVideoXDDIM", {"snr_shift_scale": 1.0} | ZERO_SNR),
    ("CogVideoXDPM", {"snr_shift_scale": 2.0}),
]
FLOWS = [
    ("FlowMatchEulerDiscrete", {}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, "num_train_timesteps": 30, "invert_sigmas": True}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, "use_dynamic_shifting": True}),
    ("FlowMatchEulerDiscrete", {"shift": 0.5, "use_karras_sigmas": True, "shift_terminal": 0.02}),
    ("FlowMatchHeunDiscrete", {"shift": 6.0}),
    ("FlowMatchLCM", {"shift": 2.0, "use_exponential_sigmas": True}),
    ("FlowMatchLCM", {"shift": 2.0, "use_dynamic_shifting": True}),
]
EDMS = [
    ("EDMEuler", {}),
    ("EDMEuler", {"sigma_schedule": "exponential", "num_train_timesteps": 50} | V),
    ("EDMDPMSolverMultistep", {"rho": 5.0, "sigma_min": 0.01, "sigma_max": 9.0, "sigma_data": 1.0}),
    ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"}),
]
SOLVERS = [
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "SASolver",
    "UniPCMultistep",
]


@pytest.fixture(scope="module")
def diffusers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("diffusers.training_utils", reason="parity needs diffusers")
        return pytest.importorskip("diffusers")


@pytest.fixture
def build(diffusers, tmp_path, monkeypatch):
    """A scheduler whose tables are float64, and its configuration out of the file it saves."""

    def build(name, options):
        torch.set_default_dtype(torch.float64)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)
            scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
        scheduler.save_config(tmp_path)
        return scheduler, read_config(tmp_path / "scheduler_config.json")

    yield build
    torch.set_default_dtype(torch.float32)


def steps_of(name, options=None, **training):
    config = {"_class_name": f"{name}Scheduler"} | (options or {})
    return loss_table(config, Training(**training))


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# --- the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), BETAS, ids=str)
def test_log_snr_of_betas(build, name, options):
    scheduler, config = build(name, options)
    steps = loss_table(config, Training())
    close(steps.logsnr, torch.logit(scheduler.alphas_cumprod)[: len(steps.logsnr)])
    assert (steps.probability == 1 / scheduler.config.num_train_timesteps).all()
    assert scheduler.alphas_cumprod.dtype == steps.logsnr.dtype == torch.float64


@pytest.mark.parametrize(("name", "options"), FLOWS, ids=str)
def test_log_snr_of_flow_matching(build, name, options):
    """In the order of the timesteps that scripts index."""
    scheduler, config = build(name, options)
    close(
        loss_table(config, Training()).logsnr,
        2 * torch.log((1 - scheduler.sigmas) / scheduler.sigmas),
    )


@pytest.mark.parametrize(("name", "options"), EDMS, ids=str)
def test_edm_trains_the_squared_error_of_what_it_denoises(build, randn, name, options):
    """The target, put through the scheduler, is the data, and an error of it that of the data."""
    scheduler, config = build(name, options)
    steps = loss_table(config, Training())
    x, eps, error = randn(3, len(steps.logsnr))
    sigma = scheduler.sigmas[: len(x)]
    close(steps.logsnr, -2 * torch.log(sigma))
    z, y = x + sigma * eps, steps.a * x + steps.b * eps
    close(scheduler.precondition_outputs(z, y, sigma), x)
    denoised = scheduler.precondition_outputs(z, y + error, sigma)
    close((denoised - x) ** 2, steps.coefficient * error**2)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prediction", ["flow_prediction", "epsilon", "sample"])
def test_solvers_on_the_path_of_flow_matching(build, name, prediction):
    """Their grid of as many steps is ours but for its ends, which they move by a step."""
    options = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": prediction}
    scheduler, config = build(name, options)
    steps = loss_table(config, Training())
    scheduler.set_timesteps(1000)
    close(torch.sigmoid(-steps.logsnr / 2), scheduler.sigmas[:1000].double(), 3e-3)
    flow = steps_of("FlowMatchEulerDiscrete", {"shift": 3.0})
    assert torch.equal(steps.logsnr, flow.logsnr)
    assert steps.parameterization == PREDICTIONS[prediction]


@pytest.mark.parametrize("name", sorted({name for name, _ in BETAS + FLOWS + EDMS}))
def test_what_a_file_leaves_out_is_the_class_default(build, name):
    _, config = build(name, {})
    steps, bare = loss_table(config, Training()), steps_of(name)
    assert torch.equal(bare.logsnr, steps.logsnr)
    assert torch.equal(bare.coefficient, steps.coefficient)
    assert bare.parameterization == steps.parameterization


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 1e12])
@pytest.mark.parametrize("options", [SCALED, COSINE, SCALED | ZERO_SNR], ids=str)
def test_min_snr(build, gamma, options):
    scheduler, config = build("DDPM", options)
    from diffusers.training_utils import compute_snr

    snr = compute_snr(scheduler, torch.arange(1000)).double()
    least = snr.clamp(max=gamma)
    weights = {"eps": least / snr, "x": least, "v": least / (snr + 1)}
    for prediction, weight in weights.items():
        steps = loss_table(config, Training(prediction=prediction, snr_gamma=gamma))
        named = ~weight.isnan()  # eps at SNR 0
        torch.testing.assert_close(steps.coefficient[named], weight[named], rtol=1e-5, atol=1e-12)
        assert steps.coefficient.isfinite().all()


def test_min_snr_is_one_weighting_whatever_is_predicted():
    kinds = [steps_of("DDPM", prediction=kind, snr_gamma=5.0) for kind in ("eps", "x", "v")]
    for steps in kinds:
        torch.testing.assert_close(steps.eps_coefficient, kinds[0].coefficient, rtol=1e-10, atol=0)


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("scheme", ["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"])
def test_loss_of_the_scripts_for_sd3(build, randn, scheme, precondition):
    """The squared error of an output, as they compute it, sample by sample."""
    scheduler, config = build("FlowMatchEulerDiscrete", {"shift": 3.0})
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    training = Training(weighting_scheme=scheme, precondition_outputs=precondition)
    steps = loss_table(config, training)
    sigma = scheduler.sigmas
    weight = compute_loss_weighting_for_sd3(scheme, sigma).double()
    x, eps, output = randn(3, 1000)
    z = (1 - sigma) * x + sigma * eps
    estimate, target = (z - sigma * output, x) if precondition else (output, eps - x)
    error = output - (steps.a * x + steps.b * eps)
    torch.testing.assert_close(
        steps.coefficient * error**2, weight * (estimate - target) ** 2, rtol=1e-6, atol=1e-9
    )


DRAWS = [
    {"weighting_scheme": "cosmap"},
    {"weighting_scheme": "mode"},
    {"weighting_scheme": "logit_normal"},
    {"weighting_scheme": "logit_normal", "logit_mean": 0.7, "logit_std": 0.4},
]


@pytest.mark.parametrize("flags", DRAWS, ids=str)
def test_how_often_steps_are_drawn(diffusers, generator, flags, n=400_000, num_steps=12):
    """Of n draws, within 4 standard errors; in the order of the scheduler's timesteps."""
    training = Training(**flags)
    p = steps_of("FlowMatchEulerDiscrete", {"num_train_timesteps": num_steps}, **flags).probability
    u = diffusers.training_utils.compute_density_for_timestep_sampling(
        training.weighting_scheme,
        n,
        logit_mean=training.logit_mean,
        logit_std=training.logit_std,
        mode_scale=training.mode_scale,
        generator=generator,
    )
    drawn = torch.bincount((u * num_steps).long(), minlength=num_steps) / n
    assert ((drawn - p).abs() < 4 * torch.sqrt(p * (1 - p) / n)).all()
    close(p.sum(), torch.tensor(1.0, dtype=torch.float64), 1e-14)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 1.75])
def test_mode_inverts_the_map_of_the_scripts(scale):
    flags = {"weighting_scheme": "mode", "mode_scale": scale}
    p = steps_of("FlowMatchEulerDiscrete", {"num_train_timesteps": 50}, **flags).probability
    u = 1 - p.cumsum(0)
    mapped = 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    close(mapped, torch.arange(1, 51).double() / 50, 1e-12)


@pytest.mark.parametrize("mean", [-4.0, 4.0])
def test_tails_of_the_logit_normal_are_exact(mean):
    """By quadrature over the step's interval; the rare end is 2e-27 of the draws."""
    flags = {"weighting_scheme": "logit_normal", "logit_mean": mean, "logit_std": 0.5}
    p = steps_of("FlowMatchEulerDiscrete", {"num_train_timesteps": 10}, **flags).probability
    for i in (1, 8):
        ends = [math.log(u / (1 - u)) for u in (i / 10, (i + 1) / 10)]
        mass, _ = scipy.integrate.quad(scipy.stats.norm(mean, 0.5).pdf, *ends, epsabs=0)
        assert p[i].item() == pytest.approx(mass, rel=1e-9, abs=0)


FINE = {"num_train_timesteps": 10_000}
LIMITS = [
    ("ddpm", "DDPM", {}, {}),
    ("iddpm", "DDPM", FINE | COSINE, {}),
    ("v-cosine", "DDIM", FINE | COSINE | V, {}),
    ("min-snr-5", "DDPM", FINE | COSINE, {"snr_gamma": 5.0}),
    ("min-snr-5", "DDPM", FINE | COSINE | V, {"snr_gamma": 5.0}),
    ("min-snr-5", "DDPM", FINE | COSINE | X, {"snr_gamma": 5.0}),
    ("flow", "FlowMatchEulerDiscrete", FINE, {}),
    ("flow-shift-3", "FlowMatchEulerDiscrete", FINE | {"shift": 3.0}, {}),
    ("sd3", "FlowMatchEulerDiscrete", FINE, {"weighting_scheme": "logit_normal"}),
    (
        "sd3-logit-normal-0.5-0.6",
        "FlowMatchEulerDiscrete",
        FINE,
        DRAWS[2] | {"logit_mean": -0.5, "logit_std": 0.6},
    ),
    ("sd3-cosmap", "FlowMatchEulerDiscrete", FINE, {"weighting_scheme": "cosmap"}),
]  # diffusers' sign of logit_mean is not the paper's


@pytest.mark.parametrize(("recipe", "name", "options", "flags"), LIMITS, ids=str)
def test_many_steps_are_the_recipe(recipe, name, options, flags):
    """Probability over spacing, times the coefficient, is the published weighting."""
    steps = steps_of(name, options, **flags)
    inner = slice(1, -1)
    spacing = (steps.logsnr[2:] - steps.logsnr[:-2]).abs() / 2
    logsnr = steps.logsnr[inner]
    weight = (steps.probability * steps.eps_coefficient)[inner] / spacing
    ratio = (weight / RECIPES[recipe].weighting(logsnr))[logsnr.abs() < 4]
    close(ratio / ratio.mean(), torch.ones_like(ratio), 0.02)


# --- diagnostics and errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "flags", "kinds"),
    [
        ("DDPM", ZERO_SNR, {}, []),
        ("DDPM", ZERO_SNR, {"snr_gamma": 5.0}, ["min-snr-undefined"]),
        ("DDPM", X, {}, ["snr-weighted-x"]),
        ("EulerDiscrete", {}, {}, []),
        ("EulerDiscrete", ZERO_SNR, {}, ["zero-snr-remainder"]),
        ("PNDM", ZERO_SNR, {}, ["zero-snr-ignored"]),
        ("FlowMatchEulerDiscrete", {"shift": 3.0}, DRAWS[2], []),
        ("FlowMatchEulerDiscrete", {"shift": 3.0}, DRAWS[3], ["logit-mean"]),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, {}, ["dynamic-shift"]),
        ("FlowMatchHeunDiscrete", {"use_dynamic_shifting": True, "shift": 3.0}, {}, []),
        ("UniPCMultistep", {"use_flow_sigmas": True}, {}, ["sampling-only"]),
        ("EDMEuler", {}, {}, ["edm-style"]),
        ("EDMDPMSolverMultistep", {}, {}, ["edm-style", "sigma-min-not-drawn"]),
    ],
    ids=str,
)
def test_diagnostics(name, options, flags, kinds):
    diagnostics = steps_of(name, options, **flags).diagnostics
    assert [item.kind for item in diagnostics] == kinds
    assert not any(item.is_fatal for item in diagnostics)


WRONG = [  # name, options, flags, what the message says
    ("DDPM", {"beta_start": "0.1"}, {}, "beta_start is '0.1': give a finite number"),
    ("DDIM", {"beta_schedule": "sigmoid"}, {}, "beta_schedule is 'sigmoid'"),
    ("DDPM", {"prediction_type": "trigflow"}, {}, "prediction_type is 'trigflow'"),
    ("DDPM", {}, {"weighting_scheme": "mode"}, "weighting_scheme"),
    ("FlowMatchEulerDiscrete", {}, {"snr_gamma": 5.0}, "snr_gamma.*betas"),
    ("FlowMatchEulerDiscrete", {"shift": 0.0}, {}, "shift is 0.0: give a finite number above 0"),
    ("EDMEuler", {"sigma_max": 0.001}, {}, "sigma_max is 0.001: give a finite number above 0.002"),
]


@pytest.mark.parametrize(("name", "options", "flags", "message"), WRONG, ids=str)
def test_what_makes_no_sense_is_refused_in_one_line(name, options, flags, message):
    with pytest.raises(ValueError, match=rf"\A.*({message}).*\Z"):
        steps_of(name, options, **flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"beta_start: 0.1", "Expecting value"),
        (b"[1, 2]", "names no _class_name"),
        (b'{"_class_name": "UNet2DConditionModel"}', "UNet2DConditionModel is no scheduler"),
        (b'{"_class_name": "VQDiffusionScheduler"}', "VQDiffusionScheduler is unknown here"),
    ],
    ids=str,
)
def test_a_file_of_anything_else_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "scheduler_config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(path))}.*{message}.*\Z"):
        read_config(path)
