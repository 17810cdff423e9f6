"""What the adapters of trainers say, against the same losses written out and measured."""

import numpy as np
import pytest
from audited import X, kinds
from trainer_losses_kohya import KOHYA, MUSUBI
from trainer_losses_onetrainer import ONETRAINER

from elbos import audit
from elbos.adapters.trainers import TRAINERS, Settings, read_settings
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


@pytest.mark.parametrize(("name", "source", "loss"), FAST, ids=[f"{c[0]} {c[1]}" for c in FAST])
def test_settings_train_what_is_measured_of_the_code(name, source, loss):
    assert_measured(name, source, loss, 4000)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source", "loss"), SLOW, ids=[f"{c[0]} {c[1]}" for c in SLOW])
def test_all_settings_train_what_is_measured_of_the_code(name, source, loss):
    assert_measured(name, source, loss, 20_000)


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
    ("kohya", "flux_train.py --timestep_sampling flux_shfit", "give flux_shift"),
    ("musubi", "hidream_o1_train.py", "hidream_o1_train"),
    ("onetrainer", {"model_type": "WUERSTCHEN_2"}, "model_type is 'WUERSTCHEN_2'"),
    ("onetrainer", {"model_type": "QWEN", "dynamic_timestep_shifting": True,
        "resolution": "512,1024"}, "several"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "words"), REFUSED)
def test_settings_that_make_no_sense_are_refused_in_a_line(name, source, words):
    with pytest.raises(ValueError, match=words) as error:
        TRAINERS[name].loss(settings_of(source))
    assert "\n" not in str(error.value)
