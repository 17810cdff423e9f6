"""Three trainers' settings that are unknown, wrong, or shown by no weighting."""

import pytest
import torch

from elbos.adapters.trainers import TRAINERS, Settings


def found_in(trainer, settings):
    loss = TRAINERS[trainer].loss(Settings(settings))
    return {one.kind: dict(one.values) for one in loss.diagnostics}


def test_several_resolutions_are_as_likely():
    one = {"model": {"type": "chroma", "flux_shift": True}}

    def share_below(*sides):
        settings = Settings(one | {"resolutions": list(sides)})
        schedule = TRAINERS["diffusion-pipe"].loss(settings).schedule
        return 1 - schedule.time(torch.tensor([-1.0], dtype=torch.float64)).item()

    mean = (share_below(512) + share_below(1024)) / 2
    assert share_below(512, 1024) == pytest.approx(mean, abs=1e-12)


def test_the_shift_by_resolution_is_of_the_latents():
    """FLUX.2's are 16 times smaller than the image: a quarter of FLUX.1's tokens."""

    def mean(model, side):
        settings = Settings({"model": {"type": model, "flux_shift": True}, "resolutions": [side]})
        return TRAINERS["diffusion-pipe"].loss(settings).schedule.mean

    assert mean("flux2", 1024) == mean("flux", 512) != mean("flux", 1024)


@pytest.mark.parametrize("release", ["4.10.1", "4.11.0"])
def test_an_installed_trainer_of_another_version_is_named(monkeypatch, release):
    monkeypatch.setattr("importlib.metadata.version", lambda name: release)
    found = found_in("simpletuner", {"model_family": "flux"})
    assert ("other-version" in found) == (release != "4.10.1")
    if release != "4.10.1":
        assert found["other-version"]["installed"] == "simpletuner 4.11.0"
