"""Settings of trainers as they are written: flags, TOML, YAML and JSON; what is wrong with them."""

import json
import math

import pytest
import torch

from elbos.adapters.trainers import TRAINERS, Settings, read_settings

NESTED = {
    "train": {"shift": 3.5, "steps": ["a", "b"], "gamma": None},
    "layers": [{"shape": [1, 2]}],
}
TEXTS = {
    "settings.json": json.dumps(NESTED),
    "settings.yaml": "train:\n  shift: 3.5\n  steps: [a, b]\n  gamma:\nlayers:\n- shape: [1, 2]\n",
    "settings.toml": '[train]\nshift = 3.5\nsteps = ["a", "b"]\n[[layers]]\nshape = [1, 2]\n',
}
BROKEN = {
    "broken.json": '{"a": ',
    "broken.toml": "a = = 1",
    "deep.yaml": "[" * 9999,
    "code.yaml": "a: !!python/object/apply:os.system ['true']",
    "latin.toml": "name = '\xe9'",
    "settings.txt": "a = 1",
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_all_forms_are_read_alike(tmp_path, name):
    path = tmp_path / name
    path.write_text(TEXTS[name])
    for source in (path, str(path)):
        settings = read_settings(source)
        assert settings.number("shift", 1) == settings.number("train.shift", 1) == 3.5
        assert not settings.has("gamma")
        assert set(settings.unread()) == {"train.steps", "layers.0.shape"}


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_files_are_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_text(BROKEN[name], encoding="latin-1")
    with pytest.raises(ValueError, match=rf"\A.*({name}).*\Z"):
        read_settings(path)


def test_flags_are_read_as_a_shell_does():
    line = r"""accelerate launch --num-processes 2 sd3_train.py --shift=-2.5 --logit_mean -1e-1 \
      --masked --args a=1 b="2 c" --shift 3"""
    settings = read_settings(line)
    assert settings.text("script") == "sd3_train"
    assert settings.number("shift", 0) == 3
    assert settings.number("logit_mean", 0) == -0.1
    assert settings.integer("num_processes", 1) == 2
    assert settings.flag("masked")
    assert settings.text("args") == "a=1 b=2 c"
    with pytest.raises(ValueError, match="quotes"):
        read_settings("--name 'open")


def test_flags_count_more_than_the_file_that_they_name(tmp_path):
    (tmp_path / "a.toml").write_text("[loss]\nmin_snr_gamma = 1\nsigmoid_scale = 2\n")
    path = str(tmp_path / "a.toml")
    for words in (
        ["x.py", "--config_file", path.removesuffix(".toml")],
        ["x.py", "--config-path", path],
        ["launch", "--num_processes", "2", "x.py", path],
    ):
        settings = read_settings([*words, "--min_snr_gamma", "5"])
        assert settings.number("min_snr_gamma", 0) == 5
        assert settings.number("sigmoid_scale", 0) == 2


WRONG = [
    ("number", {"a": True}, {"default": 1}),
    ("number", {"a": "nan"}, {"default": 1}),
    ("number", {"a": 0}, {"default": 1, "above": 0}),
    ("number", {"a": 3}, {"default": 1, "high": 2}),
    ("integer", {"a": 2.5}, {"default": 1}),
    ("flag", {"a": "maybe"}, {}),
    ("one_of", {"a": "lx"}, {"default": "l2", "choices": ("l1", "l2")}),
    ("number", {"x": {"a": 1}, "y": {"a": 2}}, {"default": 1}),
]


@pytest.mark.parametrize(("getter", "values", "how"), WRONG)
def test_wrong_values_are_named(getter, values, how):
    with pytest.raises(ValueError, match=r"\Aa is .*\Z"):
        getattr(Settings(values), getter)("a", **how)


def test_a_gamma_of_zero_is_off():
    off, left_out = (
        TRAINERS["ai-toolkit"].loss(Settings({"min_snr_gamma": 5} | more))
        for more in ({"snr_gamma": 0}, {})
    )
    assert torch.equal(off.coefficient, left_out.coefficient)


@pytest.mark.parametrize("option", [{"noise_offset": "0.00"}, {"dream_training": "no"}])
def test_what_is_off_is_no_finding(option):
    settings = Settings({"script": "train_text_to_image"} | option)
    assert not TRAINERS["diffusers"].loss(settings).diagnostics


def test_a_word_of_no_flag_is_refused():
    with pytest.raises(ValueError, match="none"):
        read_settings("launch train.py none")


def test_what_was_not_read_is_named_and_what_is_misspelt_refused():
    loss = TRAINERS["kohya"].loss(Settings({"min_snr_gamma": 5, "learning_rate": 1e-4}))
    (unread,) = loss.diagnostics
    assert (unread.kind, unread.values["names"]) == ("unread-settings", "learning_rate")
    for slip in ("min_snr_gama", "mni_snr_gamma", "min_snr_gammma", "v_parametrization"):
        with pytest.raises(ValueError, match=rf"{slip}: did you mean"):
            TRAINERS["kohya"].loss(Settings({slip: 5}))


BAD = [  # a setting of each trainer, others that it needs to be read, and what it must not be
    ("diffusers", "snr_gamma", {}, "five"),
    ("kohya", "min_timestep", {}, "1000"),
    ("kohya", "max_timestep", {"min_timestep": 500}, "500"),
    ("kohya", "resolution", {"timestep_sampling": "flux_shift"}, "a,b"),
    ("musubi", "mode_scale", {"weighting_scheme": "mode"}, "-2"),
    ("onetrainer", "max_noising_strength", {"min_noising_strength": 0.5}, math.nan),
    ("simpletuner", "train_batch_size", {"model_family": "sdxl"}, 1.5),
    ("simpletuner", "flow_cubic_schedule_weights", {}, [1, 2]),
    ("simpletuner", "model_family", {}, "chroma"),
    ("simpletuner", "model_flavour", {"model_family": "flux3_image"}, "klein"),
    ("simpletuner", "min_snr_gamma", {"model_family": "sdxl"}, 5),  # kohya's name of snr_gamma
    ("ai-toolkit", "max_denoising_steps", {"min_denoising_steps": 500}, 400),
    ("ai-toolkit", "arch", {}, "wan22_14b"),
    ("diffusion-pipe", "max_t", {"model.type": "wan", "min_t": 0.5}, "nan"),
]


@pytest.mark.parametrize(("trainer", "name", "others", "value"), BAD)
def test_a_bad_value_of_a_trainer_is_one_line_that_names_it(trainer, name, others, value):
    with pytest.raises(ValueError, match=name.split("_")[-1]) as found:
        TRAINERS[trainer].audit(Settings({**others, name: value}))
    assert "\n" not in str(found.value) and len(str(found.value)) < 250
