"""What the adapters of trainers say, against the same losses written out and measured; and back."""

import math

import numpy as np
import pytest
import torch
from audited import X, kinds
from pytest import approx
from trainer_losses_kohya import KOHYA, MUSUBI
from trainer_losses_onetrainer import ONETRAINER

from elbos import audit
from elbos.adapters.trainers import TRAINERS, Settings, read_settings, translate
from elbos.audit.declare import log_weighting
from elbos.audit.density.distance import spread
from elbos.audit.names.matching import Prediction

ALL = [
    *(("kohya", flags, loss) for flags, loss in KOHYA.items()),
    *(("musubi", flags, loss) for flags, loss in MUSUBI.items()),
    *(("onetrainer", keys, loss) for keys, loss in ONETRAINER),
]
OFTEN = ("flux_shift", "logsnr", "DEBIASED")
FAST = [case for case in ALL if any(word in str(case[1]) for word in OFTEN)]
SLOW = [case for case in ALL if case not in FAST]
TOLERANCE = 0.02  # of the weighting, over the levels that are drawn


def settings_of(source):
    return read_settings(source) if isinstance(source, str) else Settings(source)


def assert_measured(name, source, loss, num_samples):
    declared = TRAINERS[name].loss(settings_of(source))
    measured = audit.probe(loss, X[:64, :, :4, :4], num_samples)
    log_v = log_weighting(declared, measured.logsnr.numpy())
    p = np.where(np.isfinite(log_v), measured.density.numpy(), 0)
    assert p.sum() > 0.99 * measured.density.sum().item()
    off = spread(measured.weight.log().numpy() - np.nan_to_num(log_v), p / p.sum())
    assert off < TOLERANCE
    assert "unread-settings" not in kinds(declared)
    name, *_ = Prediction.from_target(declared.parameterization)
    assert (measured.parameterization, measured.parameterization_factor) == (name, declared.factor)


@pytest.mark.parametrize(("name", "source", "loss"), FAST, ids=[f"{c[0]} {c[1]}" for c in FAST])
def test_settings_train_what_is_measured_of_the_code(name, source, loss):
    assert_measured(name, source, loss, 4000)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source", "loss"), SLOW, ids=[f"{c[0]} {c[1]}" for c in SLOW])
def test_all_settings_train_what_is_measured_of_the_code(name, source, loss):
    assert_measured(name, source, loss, 20_000)


PAIRS = [
    ("kohya", "--min_snr_gamma 5", "onetrainer", {"loss_weight_strength": 5}),
    ("kohya", "--min_snr_gamma 2 --v_parameterization", "onetrainer", {"loss_weight_strength": 2}),
    ("kohya", "--debiased_estimation_loss", "onetrainer",
        {"loss_weight_fn": "DEBIASED_ESTIMATION"}),
    ("musubi", "--timestep_sampling shift --discrete_flow_shift 2.5 --sigmoid_scale 1.3", "kohya",
        {"discrete_flow_shift": 2.5, "sigmoid_scale": 1.3, "model_prediction_type": "raw"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags", "other", "expected"),
    [PAIRS[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS[1:])],
)
def test_there_and_back_is_the_same_weighting(name, flags, other, expected):
    original = TRAINERS[name].loss(read_settings(flags))
    there = translate(original, other)
    assert there.is_same and there.distance < 0.01
    for key, value in expected.items():
        assert there.settings[key] == (value if isinstance(value, str) else approx(value, rel=0.02))
    back = translate(TRAINERS[other].loss(Settings(there.settings)), name)
    assert back.is_same
    grid = np.linspace(-4, 4, 50)
    again = TRAINERS[name].loss(read_settings(back.text))
    difference = log_weighting(original, grid) - log_weighting(again, grid)
    assert np.std(difference) < 0.01


def test_what_has_no_counterpart_is_far_away():
    """The weight of v with an SNR too many: nothing in OneTrainer falls as fast."""
    flags = "--min_snr_gamma 5 --scale_v_pred_loss_like_noise_pred --v_parameterization"
    found = translate(TRAINERS["kohya"].loss(read_settings(flags)), "onetrainer")
    assert found.distance > 0.5 and found.is_same_prediction and not found.is_same


def test_what_is_never_drawn_at_one_end_is_translated():
    """ai-toolkit never draws the noisiest step: one level of 1,000, however coarse the fit."""
    found = translate(TRAINERS["kohya"].loss(Settings({})), "ai-toolkit")
    assert found.is_same and found.settings["min_snr_gamma"] > math.exp(5)


@pytest.mark.slow
def test_a_measured_loss_and_a_recipe_are_translated():
    def loss(network, x):
        t = torch.sigmoid(torch.randn(len(x), 1, 1, 1) + math.log(3))
        eps = torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

    found = translate(audit.probe(loss, X[:64, :, :4, :4], 4000), "musubi")
    assert found.distance < 0.01 and found.settings["timestep_sampling"] == "shift"
    edm = translate(audit.from_recipe("edm"), "kohya")
    assert not edm.is_same_prediction and not edm.is_same


def test_an_unknown_trainer_is_named():
    with pytest.raises(ValueError, match="did you mean onetrainer"):
        translate(TRAINERS["kohya"].loss(Settings({})), "onetrianer")


@pytest.mark.parametrize("name", TRAINERS)
def test_options_of_translations_are_settings_of_their_trainer(name):
    trainer = TRAINERS[name]
    for option in trainer.options:
        for values in zip(*option.free.values(), strict=True) if option.free else [()]:
            settings = {**option.settings, **dict(zip(option.free, values, strict=True))}
            loss = trainer.loss(Settings(settings))
            assert not [one for one in loss.diagnostics if one.kind == "unread-settings"], settings


FOUND = {
    "kohya": [
        ("--loss_type huber --huber_c 0.2 --huber_schedule snr", "declared-not-squared"),
        ("--noise_offset 0.05 --adaptive_noise_scale 1", "declared-noise"),
        ("--multires_noise_iterations 6 --multires_noise_discount 0.3", "declared-noise"),
        ("--ip_noise_gamma 0.1", "declared-perturbed"),
        ("--masked_loss", "declared-uneven"),
        ("--timestep_sampling shift", "declared-model"),
        ("flux_train.py --timestep_sampling flux_shift", "declared-resolution"),
        ("sd3_train.py --weighting_scheme sigma_sqrt", "not-finite"),
    ],
    "onetrainer": [
        ({"huber_strength": 1, "mse_strength": 0, "huber_delta": 0.5}, "declared-not-squared"),
        ({"offset_noise_weight": 0.1}, "declared-noise"),
        ({"masked_training": True}, "declared-uneven"),
        ({"model_type": "PIXART_ALPHA"}, "declared-term"),
    ],
    "musubi": [
        ("--weighting_scheme logit_normal --logit_mean 0.5", "logit-mean"),
        ("--discrete_flow_shift 3", "unread-settings"),  # of continuous times only
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_no_weighting_shows_is_found(name):
    for source, kind in FOUND[name]:
        found = kinds(TRAINERS[name].loss(settings_of(source)))
        assert found == [kind]


@pytest.mark.parametrize("strength", ["-1", "-0.3", "1e308"])
def test_a_coefficient_below_0_or_infinite_has_no_weighting(strength):
    with pytest.raises(ValueError, match="below 0 or infinite at some"):
        TRAINERS["kohya"].audit(read_settings(f"--v_pred_like_loss {strength}"))


REFUSED = [
    ("kohya", "--scale_v_pred_loss_like_noise_pred", "v_parameterization"),
    ("kohya", "--v_pred_like_loss 1 --v_parameterization", "v_pred_like_loss"),
    ("kohya", "--min_timestep 500 --max_timestep 400", "max_timestep is 400"),
    ("kohya", "flux_train.py --timestep_sampling flux_shfit", "give flux_shift"),
    ("kohya", "flux_train.py --timestep_sampling flux_shift --resolution big",
        "resolution is 'big'"),
    ("musubi", "hidream_o1_train.py", "hidream_o1_train"),
    ("musubi", "--timestep_sampling logsnr --logit_std 0", "logit_std is '0'"),
    ("onetrainer", {"model_type": "WUERSTCHEN_2"}, "model_type is 'WUERSTCHEN_2'"),
    ("onetrainer", {"loss_weight_fn": "SIGMA"}, "loss_weight_fn is 'SIGMA'"),
    ("onetrainer", {"min_noising_strength": 0.9, "max_noising_strength": 0.9}, "raise it"),
    ("onetrainer", {"model_type": "QWEN", "dynamic_timestep_shifting": True,
        "resolution": "512,1024"}, "several"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "words"), REFUSED)
def test_settings_that_make_no_sense_are_refused_in_a_line(name, source, words):
    with pytest.raises(ValueError, match=words) as found:
        TRAINERS[name].loss(settings_of(source))
    assert "\n" not in str(found.value)
