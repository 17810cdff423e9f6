"""Three trainers' settings that are unknown, wrong, or shown by no weighting."""

import pytest
import torch
from trainer_losses import ai_toolkit

from elbos.adapters.trainers import TRAINERS, Settings, read_settings
from elbos.audit.words import facts


def found_in(trainer, settings):
    loss = TRAINERS[trainer].loss(Settings(settings))
    return {one.kind: dict(one.values) for one in loss.diagnostics}


def test_what_is_left_at_its_default_changes_nothing():
    given = {"noise_multiplier": 1.0, "do_cfg": False, "num_train_timesteps": "1000"}
    settings = ai_toolkit({"noise_scheduler": "flowmatch"})
    assert found_in("ai-toolkit", settings | given) == found_in("ai-toolkit", settings)


AI_TOOLKIT = """
job: extension
config:
  process:
    - type: 'sd_trainer'
      datasets:
        - folder_path: "/images"
          resolution: [ 512, 1024 ]
      train:
        batch_size: 1
        noise_scheduler: "flowmatch"
        timestep_type: "flux_shift"
      model:
        name_or_path: "black-forest-labs/FLUX.1-dev"
        is_flux: true
"""
DIFFUSION_PIPE = """
output_dir = '/runs'
pipeline_stages = 1
[model]
type = 'lumina_2'
lumina_shift = true
[adapter]
type = 'lora'
rank = 32
[optimizer]
type = 'adamw_optimi'
"""
SIMPLETUNER = '{"--model_family": "sdxl", "--snr_gamma": 5, "--train_batch_size": 1}'


def test_files_and_commands_are_read_as_users_write_them(tmp_path):
    files = {"a.yaml": AI_TOOLKIT, "b.toml": DIFFUSION_PIPE, "c.json": SIMPLETUNER}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    two_shifts = TRAINERS["ai-toolkit"].loss(read_settings(tmp_path / "a.yaml"))
    assert len(two_shifts.logsnr) == 2000
    lumina = TRAINERS["diffusion-pipe"].loss(read_settings(tmp_path / "b.toml"))
    assert lumina.factor == -1
    assert lumina.schedule.mean == pytest.approx(-2 * 1.15)  # Flux's at 1024x1024 pixels
    sdxl = TRAINERS["simpletuner"].loss(read_settings(tmp_path / "c.json"))
    assert sdxl.coefficient.min() < 0.01 < sdxl.coefficient.max() == 1


def test_several_resolutions_are_as_likely():
    one = {"model": {"type": "chroma", "flux_shift": True}}

    def share_below(*sides):
        settings = Settings(one | {"resolutions": list(sides)})
        schedule = TRAINERS["diffusion-pipe"].loss(settings).schedule
        return 1 - schedule.time(torch.tensor([-1.0], dtype=torch.float64)).item()

    mean = (share_below(512) + share_below(1024)) / 2
    assert share_below(512, 1024) == pytest.approx(mean, abs=1e-12)


def test_a_weighted_table_has_a_mean_of_one():
    settings = Settings({"noise_scheduler": "flowmatch", "timestep_type": "weighted"})
    weights = TRAINERS["ai-toolkit"].loss(settings).coefficient
    assert weights.mean() == pytest.approx(1, abs=0.002)  # as of the trainer's own table
    assert weights.argmax() == pytest.approx(125, abs=30)


def test_the_shift_by_resolution_is_of_the_latents():
    """FLUX.2's are 16 times smaller than the image: a quarter of FLUX.1's tokens."""

    def mean(model, side):
        settings = Settings({"model": {"type": model, "flux_shift": True}, "resolutions": [side]})
        return TRAINERS["diffusion-pipe"].loss(settings).schedule.mean

    assert mean("flux2", 1024) == mean("flux", 512) != mean("flux", 1024)


@pytest.mark.parametrize("release", ["4.8.0", "4.9.0"])
def test_an_installed_trainer_of_another_version_is_named(monkeypatch, release):
    monkeypatch.setattr("importlib.metadata.version", lambda name: release)
    found = found_in("simpletuner", {"model_family": "flux"})
    assert ("other-version" in found) == (release != "4.8.0")
    if release != "4.8.0":
        assert found["other-version"]["installed"] == "simpletuner 4.9.0"


def test_an_audit_names_the_version_that_was_read():
    trainer = TRAINERS["simpletuner"]
    settings = Settings({"model_family": "flux"})
    assert trainer.version in facts(trainer.audit(settings))["source"]
