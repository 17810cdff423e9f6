"""Networks of diffusers, trained here: what they see, what they are told, and whom they fit."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Elbos, assert_one_line, snapshot
from pipelines import DIT, UNET

from elbos import adapters
from elbos.adapters.diffusers.scheduled import levels_of
from elbos.adapters.diffusers.training import Training
from elbos.base.extras import MissingExtra
from elbos.models.calls import require_logsnr
from elbos.models.networks.diffusers import DiffusersConfig, DiffusersNetwork
from elbos.models.networks.timesteps import trained_levels, trained_scheduler
from elbos.runs.run import Run
from elbos.theory.parameterizations import EDM, Eps, Flow, Parameterization, V, X
from elbos.training.config import read_config

diffusers = pytest.importorskip("diffusers")

ENDS = -9.0, 12.0
LABELLED = (1, 8, 8), 10
PREDICTED = [Eps(), X(), V(), Flow(), EDM(), EDM(sigma_data=1.3)]
TRAINING = [
    *("--num-images", 64, "--batch-size", 16, "--sampling.num-steps", 2),
    "--optimizer.no-use-decay",
]


def config_of(entries: dict[str, Any]) -> DiffusersConfig:
    return DiffusersConfig(config=json.dumps(entries))


def build(entries: dict[str, Any], num_classes: int | None = 10, predicts: Any = None) -> Any:
    torch.manual_seed(0)
    return config_of(entries).build((1, 8, 8), num_classes, trained_levels(predicts or V(), *ENDS))


@pytest.mark.parametrize("predicts", PREDICTED, ids=repr)
def test_the_scheduler_says_what_the_network_saw(predicts: Parameterization) -> None:
    """Between the steps of its table, too."""
    levels = trained_levels(predicts, *ENDS)
    config = trained_scheduler(predicts, levels)
    table = adapters.diffusers.loss_table(config, Training())
    own = levels_of(config, table)
    logsnr = torch.linspace(*ENDS, 777, dtype=torch.float64)
    assert table.parameterization == predicts
    assert table.factor == 1
    require_logsnr(logsnr, own.logsnr_min, own.logsnr_max, "the table")
    torch.testing.assert_close(own.timestep(logsnr), levels.timestep(logsnr), rtol=0, atol=1e-8)
    torch.testing.assert_close(own.input_scale(logsnr), levels.input_scale(logsnr))


@pytest.mark.parametrize("predicts", PREDICTED, ids=repr)
def test_the_scheduler_of_diffusers_has_those_levels(predicts: Parameterization) -> None:
    """By its own tables: of alpha-bar, of flow's sigma, or of EDM's sigma."""
    levels = trained_levels(predicts, *ENDS)
    config = trained_scheduler(predicts, levels)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(50)
    timestep = scheduler.timesteps.double()
    assert len(timestep) == 50
    if isinstance(predicts, EDM):
        logsnr = -2 * scheduler.sigmas[:-1].double().log()
        torch.testing.assert_close(logsnr[[0, -1]], torch.tensor(ENDS).double(), rtol=1e-5, atol=0)
    elif predicts == Flow():
        sigma = scheduler.sigmas[1:-1].double()
        logsnr, timestep = 2 * torch.log((1 - sigma) / sigma), timestep[1:]
    else:
        logsnr = scheduler.alphas_cumprod[scheduler.timesteps].double().logit()
        assert logsnr[0] == pytest.approx(ENDS[0], abs=1e-3)
    torch.testing.assert_close(levels.timestep(logsnr), timestep, rtol=1e-4, atol=0.3)


@pytest.mark.parametrize("entries", [UNET, DIT], ids=lambda one: one["_class_name"])
def test_labels_are_told_and_the_last_row_is_none(entries: dict[str, Any]) -> None:
    network = build(entries).train()  # dropping labels is the training's
    z, logsnr = torch.randn(4, 1, 8, 8), torch.linspace(*ENDS, 4)
    none = torch.full((4,), -1)
    with torch.no_grad():
        told = network(z, logsnr, torch.arange(4))
        untold = network(z, logsnr, none)
        assert torch.equal(untold, network(z, logsnr, none))
        assert torch.equal(untold, network(z, logsnr))
        assert torch.equal(untold, network(z, logsnr, torch.full((4,), 10)))
        assert torch.equal(told, network(z, logsnr, torch.arange(4)))
    assert not torch.equal(told, untold)
    assert told.shape == z.shape
    network(z, logsnr, torch.arange(4)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_what_the_configuration_leaves_out_is_the_datas() -> None:
    inner = build(UNET).inner.config
    assert (inner.in_channels, inner.out_channels, inner.sample_size) == (1, 1, 8)
    assert inner.num_class_embeds == 11
    assert build(DIT).inner.config.num_embeds_ada_norm == 10
    unconditional = build(UNET, None)
    assert unconditional.inner.config.num_class_embeds is None
    z, logsnr = torch.randn(4, 1, 8, 8), torch.zeros(4)
    assert unconditional(z, logsnr).shape == z.shape
    with pytest.raises(ValueError, match="cond=None"):
        unconditional(z, logsnr, torch.arange(4))


@pytest.mark.parametrize("predicts", PREDICTED, ids=repr)
def test_the_network_is_given_the_data_in_the_scale_of_its_scheduler(predicts: Any) -> None:
    """A stand-in that returns its input, at x = 0 and eps = 1."""
    returns_its_input: Any = lambda z, timestep, return_dict: (z,)  # noqa: E731
    network = DiffusersNetwork(torch.nn.Identity(), trained_levels(predicts, *ENDS), None)
    network.inner.forward = returns_its_input
    logsnr = torch.linspace(*ENDS, 4)
    sigma = torch.sigmoid(-logsnr.double()).sqrt()
    seen = network(sigma.float()[:, None, None, None].expand(4, 1, 8, 8), logsnr)[:, 0, 0, 0]
    expected = sigma
    if predicts == Flow():
        expected = torch.sigmoid(-logsnr.double() / 2)  # the share of noise
    if isinstance(predicts, EDM):
        noise = torch.exp(-logsnr.double() / 2)
        expected = noise / (noise**2 + predicts.sigma_data**2).sqrt()
    torch.testing.assert_close(seen.double(), expected, rtol=1e-5, atol=0)


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({**UNET, "in_channels": 3}, "in_channels"),
    "size": ({**DIT, "sample_size": 32}, "sample_size"),
    "no row for none": ({**UNET, "num_class_embeds": 10}, "11"),
    "other times": ({**UNET, "time_embedding_type": "fourier"}, "positional"),
    "misspelt": ({**UNET, "layers_per_blok": 2}, "did you mean layers_per_block?"),
    "diffusers' own": ({**UNET, "down_block_types": ["Nope"]}, "diffusers cannot build"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named(name: str) -> None:
    entries, needed = MISFITS[name]
    with pytest.raises(ValueError, match=rf"\A.*({needed}).*\Z"):
        build(entries)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet.json").write_text(json.dumps(UNET))
    return tmp_path


def test_a_run_is_whole_without_the_file(elbos: Elbos, folder: Path) -> None:
    words = ["digits", "network:diffusers", "--network.config", "unet.json", *TRAINING]
    result = elbos("train", *words)
    assert result.status == 0, result.err
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("digits-")
    assert read_config(run / "config.json").network == config_of(UNET)
    assert_one_line(elbos("train", *words, "schedule:cosine", "--init", run), "--init")
    Path("unet.json").unlink()
    longer = json.loads((run / "config.json").read_text()) | {"num_images": 96}
    Path("longer.json").write_text(json.dumps(longer))
    longer = elbos("train", "--config", "longer.json", "--run", run)
    assert longer.status == 0, longer.err
    assert Run(run).step == 6
    assert elbos("sample", run, "--num", 4, "--num-steps", 2, "--guidance", 2).status == 0
    assert_one_line(elbos("train", "digits", "--run", run), "UNetConfig")


def test_a_network_that_cannot_be_trained_writes_nothing(elbos: Elbos, folder: Path) -> None:
    wrong = {"size.json": {**UNET, "sample_size": 16}, "text.json": {"_class_name": "UNet2DCondi"}}
    odd = {**UNET, "block_out_channels": [8, 8, 8, 8, 8]}
    odd |= {"down_block_types": ["DownBlock2D"] * 5, "up_block_types": ["UpBlock2D"] * 5}
    for name, entries in (wrong | {"odd.json": odd}).items():
        Path(name).write_text(json.dumps(entries))
    before = snapshot(folder)
    named = {"size.json": "sample_size", "text.json": "UNet2DCondi", "nowhere.json": "nowhere"}
    for name, needed in (named | {"odd.json": "cannot be trained"}).items():
        words = ["digits", "network:diffusers", "--network.config", name, *TRAINING]
        assert_one_line(elbos("train", *words), needed)
    score = ["network:diffusers", "--network.config", "unet.json", "parameterization:score"]
    assert_one_line(elbos("train", "digits", *score, *TRAINING), "Score")
    assert snapshot(folder) == before


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match=r"elbos\[diffusers\]"):
        build(UNET)
