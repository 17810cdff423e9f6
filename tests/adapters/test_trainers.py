"""What the adapters of trainers say, against the same losses written out and measured."""

import numpy as np
import pytest
import torch
from audited import X, kinds
from trainer_losses import LOSSES

from elbos import audit
from elbos.adapters.trainers import TRAINERS, Settings, read_settings
from elbos.audit.density.curves import spread
from elbos.audit.names.matching import Prediction

ALL = [(name, *case) for name, cases in LOSSES.items() for case in cases]
OFTEN = ("--resolution 512", "logsnr", "DEBIASED", "'linear_timesteps'", "cosmos")
SHARED = ("'style'", "lognorm_blend")  # a batch shares its levels, whose density is 5 % off
LEVELS = np.array([-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10.0])
TOLERANCE = 0.02  # of the weighting, over the levels that are drawn


def settings_of(source):
    return read_settings(source) if isinstance(source, str) else Settings(source)


def is_often(case):
    return any(word in str(case[1]) for word in OFTEN)


@pytest.mark.parametrize(
    ("name", "source", "loss"),
    [
        pytest.param(*case, marks=[] if is_often(case) else pytest.mark.slow, id=str(case[:2]))
        for case in ALL
        if not any(word in str(case[1]) for word in SHARED)
    ],
)
def test_settings_train_what_is_measured_of_the_code(name, source, loss):
    declared = TRAINERS[name].loss(settings_of(source))
    measured = audit.probe(loss, X[:64, :, :4, :4], 4000 if is_often((name, source)) else 20_000)
    is_table = isinstance(declared, audit.declare.LossTable)
    expected = (audit.from_table if is_table else audit.from_loss)(declared)
    is_drawn = (measured.logsnr >= expected.logsnr[0]) & (measured.logsnr <= expected.logsnr[-1])
    p = np.where(is_drawn, measured.density.numpy(), 0)
    assert p.sum() > 0.99 * measured.density.sum().item()
    log_v = expected.weighting(measured.logsnr).log().numpy()
    off = spread(measured.weight.log().numpy() - log_v, p / p.sum())
    assert off < TOLERANCE
    assert "unread-settings" not in kinds(declared)
    name, *_ = Prediction.from_target(declared.parameterization)
    assert (measured.parameterization, measured.parameterization_factor) == (name, declared.factor)


def drawn(loss, num_calls):
    r"""The log-SNRs of what a loss gives its network: $\sigma\epsilon$ with data 0, and with data
    1 and the same draws $\alpha$ more.
    """
    zeros, inputs = torch.zeros(256, 2, 12, 12), []

    def network(z, *_):
        inputs.append(z.double().flatten(1))
        return torch.zeros_like(z)

    levels = []
    for call in range(num_calls):
        for x in (zeros, zeros + 1):
            torch.manual_seed(call)
            loss(network, x)
        noise, signal = inputs[-2], inputs[-1] - inputs[-2]
        levels.append(torch.log(signal.square().mean(1) / noise.square().mean(1)))
    return torch.stack(levels).numpy()


@pytest.mark.parametrize(("name", "source", "loss"), ALL, ids=[str(case[:2]) for case in ALL])
def test_levels_are_drawn_as_declared(name, source, loss):
    levels = drawn(loss, num_calls=12)
    declared = TRAINERS[name].loss(settings_of(source))
    if isinstance(declared, audit.DeclaredLoss):
        share = 1 - declared.schedule.time(torch.from_numpy(LEVELS)).numpy()
    else:
        assert declared.probability.sum().item() == pytest.approx(1)
        is_below = declared.logsnr.numpy()[:, None] <= LEVELS
        share = (declared.probability.numpy()[:, None] * is_below).sum(0)
    is_below = (levels[..., None] <= LEVELS).mean(1)  # of each call, whose levels may be dependent
    variance = np.maximum(is_below.var(0, ddof=1), share * (1 - share) / levels.shape[1])
    z = np.abs(is_below.mean(0) - share) / np.sqrt(variance / len(levels) + 1e-6)
    assert z.max() < 4.5  # levels have errors of 8 %, by the norm of the noise


FOUND = [
    ("kohya", "--loss_type huber --huber_c 0.2 --huber_schedule snr", "declared-not-squared"),
    ("kohya", "--multires_noise_iterations 6 --multires_noise_discount 0.3", "declared-noise"),
    ("kohya", "--ip_noise_gamma 0.1", "declared-perturbed"),
    ("kohya", "--masked_loss", "declared-uneven"),
    ("kohya", "--timestep_sampling shift", "declared-model"),
    ("kohya", "flux_train.py --timestep_sampling flux_shift", "declared-resolution"),
    ("kohya", "sd3_train.py --weighting_scheme sigma_sqrt", "not-finite"),
    ("onetrainer", {"huber_strength": 1, "mse_strength": 0, "huber_delta": 0.5},
        "declared-not-squared"),
    ("onetrainer", {"offset_noise_weight": 0.1}, "declared-noise"),
    ("onetrainer", {"model_type": "PIXART_ALPHA"}, "declared-term"),
    ("onetrainer", {"training_method": "LORA", "force_v_prediction": True}, "setting-ignored"),
    ("musubi", "--weighting_scheme logit_normal --logit_mean 0.5", "logit-mean"),
    ("musubi", "--discrete_flow_shift 3", "unread-settings"),  # of continuous times only
    ("simpletuner", {"input_perturbation": 0.1}, "declared-perturbed"),
    ("simpletuner", LOSSES["simpletuner"][3][0], "declared-divisor"),
    ("simpletuner", LOSSES["simpletuner"][4][0], "declared-override"),
    ("simpletuner", {"xm_enabled": True}, "declared-target"),
    ("ai-toolkit", {"loss_type": "mae"}, "declared-not-squared"),
    ("ai-toolkit", {"datasets": [{"mask_path": "a"}, {"mask_path": "b"}]}, "declared-uneven"),
    ("diffusion-pipe", LOSSES["diffusion-pipe"][3][0], "declared-snr"),
    ("diffusion-pipe", {"model": {"type": "sdxl", "debiased_estimation_loss": False}},
        "setting-on"),
]  # fmt: skip


@pytest.mark.parametrize(("trainer", "settings", "kind"), FOUND)
def test_what_no_weighting_shows_is_found(trainer, settings, kind):
    assert kind in kinds(TRAINERS[trainer].loss(settings_of(settings)))


@pytest.mark.parametrize("strength", ["-1", "-0.3", "1e308"])
def test_a_coefficient_below_0_or_infinite_has_no_weighting(strength):
    with pytest.raises(ValueError, match="below 0 or infinite at some"):
        TRAINERS["kohya"].audit(read_settings(f"--v_pred_like_loss {strength}"))


REFUSED = [
    ("kohya", "--scale_v_pred_loss_like_noise_pred", "v_parameterization"),
    ("kohya", "--v_pred_like_loss 1 --v_parameterization", "v_pred_like_loss"),
    ("kohya", "flux_train.py --timestep_sampling flux_shfit", "give flux_shift"),
    ("musubi", "hidream_o1_train.py", "hidream_o1_train"),
    ("onetrainer", {"model_type": "WUERSTCHEN_2"}, "model_type is 'WUERSTCHEN_2'"),
    ("onetrainer", {"model_type": "QWEN", "dynamic_timestep_shifting": True,
        "resolution": "512,1024"}, "several"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "words"), REFUSED)
def test_settings_that_make_no_sense_are_refused_in_a_line(name, source, words):
    with pytest.raises(ValueError, match=rf"\A.*({words}).*\Z"):
        TRAINERS[name].loss(settings_of(source))
