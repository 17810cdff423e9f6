"""Exports: what diffusers and the library open, and what they then compute."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Elbos, assert_one_line, snapshot
from pipelines import DIT, UNET
from tiny import DIGITS

import elbos as library
from elbos import adapters
from elbos.base import files
from elbos.models.networks.diffusers import DiffusersConfig
from elbos.models.networks.timesteps import trained_levels
from elbos.models.samplers import DDIM
from elbos.runs.export import export
from elbos.runs.pretrained import Pretrained
from elbos.runs.run import Run
from elbos.theory.parameterizations import EDM, Flow, Parameterization, V, X
from elbos.theory.schedules import Cosine
from elbos.theory.weightings import ELBO
from elbos.training import checkpoint
from elbos.training.config import Config, read_config
from elbos.training.data import Digits, Folder
from elbos.training.directory import RunDirectory
from elbos.training.state import build_network

diffusers = pytest.importorskip("diffusers")
hub = pytest.importorskip("huggingface_hub")

CASES: list[tuple[dict[str, Any], Parameterization, bool]] = [
    (UNET, V(), True),
    (UNET, X(), True),
    (UNET, Flow(), False),
    (UNET, EDM(), True),
    (DIT, V(), True),
]


def write_run(path: Path, config: Config, step: int = 3) -> Path:
    """A run whose network has its initial weights."""
    directory, data = RunDirectory(path), Digits().load()
    path.mkdir(exist_ok=True)
    directory.claim(config, data)
    network = build_network(config, data.spec)
    checkpoint.save(directory.checkpoints, step, {"ema": network.state_dict()}, num_kept=9)
    return path


def of_diffusers(entries: dict[str, Any], **changes: Any) -> Config:
    return replace(DIGITS, network=DiffusersConfig(config=json.dumps(entries)), **changes)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]['_class_name']}-{case[1]}")
def test_diffusers_opens_and_samples_what_was_trained(case: Any) -> None:
    """The code of the card is run, in fewer steps: DDIM's, and Euler's on the paths of flow and of
    EDM, are one and the same step.
    """
    entries, predicts, use_labels = case
    config = of_diffusers(entries, parameterization=predicts, use_labels=use_labels)
    run = Run(write_run(Path("run"), config))
    export(run, "model")

    opened = adapters.diffusers.load("model")
    z, logsnr = torch.randn(16, 1, 8, 8), torch.linspace(-7.9, 7.7, 16)
    labels = torch.arange(16) % 10 if use_labels else None
    assert opened.denoiser.parameterization == predicts
    torch.testing.assert_close(
        opened.denoiser(z, logsnr, labels), run.denoiser(z, logsnr, labels), rtol=1e-4, atol=1e-4
    )

    (code,) = re.findall(r"```python\n(.*?)```", Path("model/README.md").read_text(), re.DOTALL)
    torch.manual_seed(1)
    exec(code.replace("set_timesteps(50)", "set_timesteps(10)"), names := {})  # type: ignore[var-annotated]
    torch.manual_seed(1)
    noise = torch.randn(16, 1, 8, 8)
    levels = [*steps(names["scheduler"]), torch.inf]
    own = DDIM()(run.denoiser, noise, torch.tensor(levels, dtype=torch.float64), labels)
    assert len(levels) == 11
    torch.testing.assert_close(names["x"], own, rtol=0, atol=2e-3 * float(own.std()))


def steps(scheduler: Any) -> list[float]:
    """The log-SNRs of a scheduler's steps; of pure noise -30."""
    if hasattr(scheduler, "alphas_cumprod"):
        found = scheduler.alphas_cumprod[scheduler.timesteps].double().logit()
    elif hasattr(scheduler, "init_noise_sigma"):
        found = -2 * scheduler.sigmas[:-1].double().log()
    else:
        sigma = scheduler.sigmas[:-1].double()
        found = (2 * torch.log((1 - sigma) / sigma)).clamp(min=-30)
    return list(map(float, found))


PIPELINES = {
    "DDIMPipeline": (V(), False),
    "DDPMPipeline": (Flow(), False),
    "ConsistencyModelPipeline": (EDM(), True),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_draws_what_the_library_draws(name: str) -> None:
    predicts, use_labels = PIPELINES[name]
    run = Run(write_run(Path("run"), of_diffusers(UNET, parameterization=predicts)))
    if not use_labels:
        run = Run(write_run(Path("r"), replace(run.config, use_labels=False)))
    export(run, "model")
    pipeline = diffusers.DiffusionPipeline.from_pretrained("model")
    assert type(pipeline).__name__ == name
    pipeline.set_progress_bar_config(disable=True)
    told = {"class_labels": [3] * 4} if use_labels else {}
    options = {"num_inference_steps": 10, "output_type": "pt", **told}
    made = pipeline(4, generator=torch.manual_seed(2), **options).images
    made = torch.as_tensor(made)
    noise = torch.randn(4, 1, 8, 8, generator=torch.manual_seed(2))
    levels = torch.tensor([*steps(pipeline.scheduler), torch.inf], dtype=torch.float64)
    own = DDIM()(run.denoiser, noise, levels, torch.full((4,), 3) if use_labels else None)
    expected = (own / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-3)


def test_a_folder_is_measured_between_the_ends_of_its_training(elbos: Elbos) -> None:
    """Which the scheduler of flow matching does not say."""
    run = Run(write_run(Path("run"), of_diffusers(UNET, parameterization=Flow())))
    export(run, "model")
    schedule = Pretrained(Path("model"), Digits(), Path("out")).schedule
    assert (schedule.logsnr_min, schedule.logsnr_max) == (-8.0, 7.8)
    Path("model/elbos.json").write_text('{"logsnr": [1.0]}')
    assert_one_line(elbos("evaluate", "model", "data:digits"), "elbos.json")


def test_a_transformer_takes_its_autoencoder_along(elbos: Elbos) -> None:
    write_run(Path("run"), of_diffusers(DIT))
    means = {"latents_mean": [0.5], "latents_std": [2.0]}
    for name, num_channels, scale in (("1", 1, {}), ("4", 4, {}), ("means", 1, means)):
        vae = diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            latent_channels=num_channels,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=0.5,
            shift_factor=0.25,
            **scale,
        )
        vae.save_pretrained(f"vae-{name}")
    words = ["export", "run", "--to", "model", "--vae"]
    assert_one_line(elbos(*words, "vae-4"), "4 channels")
    assert_one_line(elbos(*words, "nowhere"), "nowhere")
    for name in ("means", "1"):
        assert elbos(*words, f"vae-{name}").status == 0
        code = re.findall(r"```python\n(.*?)```", Path("model/README.md").read_text(), re.DOTALL)[0]
        exec(code.replace("set_timesteps(50)", "set_timesteps(2)"), names := {})  # type: ignore[var-annotated]
        opened = adapters.diffusers.load("model")
        assert opened.encode is not None
        torch.testing.assert_close(names["images"], opened.encode.decode(names["x"]))
    pipeline = diffusers.DiTPipeline.from_pretrained("model")
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline([1, 2], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 16, 16, 1)

    export(Run("run"), "bare")
    pipeline = diffusers.DiTPipeline.from_pretrained("bare", vae=None)
    assert pipeline.transformer.config.num_embeds_ada_norm == 10


def test_a_network_that_was_given_in_python_is_exported_as_it_was_trained() -> None:
    objective = library.Objective(weighting=ELBO(), schedule=Cosine(), parameterization=V())
    ends = objective.schedule.logsnr_min, objective.schedule.logsnr_max
    length: dict[str, Any] = {"num_images": 8, "batch_size": 4, "precision": "fp32"}
    data = [torch.rand(1, 8, 8) * 2 - 1 for _ in range(8)]
    for predicts, is_right in ((V(), True), (Flow(), False)):
        config = DiffusersConfig(config=json.dumps(UNET))
        network = config.build((1, 8, 8), None, trained_levels(predicts, *ends))
        run = library.fit(network, data, objective, run=str(predicts), **length)
        if is_right:
            export(run, "model")
            opened = adapters.diffusers.load("model").denoiser
            z, logsnr = torch.randn(4, 1, 8, 8), torch.linspace(*ends, 4)
            torch.testing.assert_close(opened(z, logsnr), run.denoiser(z, logsnr))
            continue
        with pytest.raises(ValueError, match=r"V\(\)"):
            export(run, "other")


def test_damaged_and_claimed_exports_are_one_line(elbos: Elbos) -> None:
    export(Run(write_run(Path("run"), DIGITS)), "model")
    Path("config.json").write_bytes(Path("model/config.json").read_bytes())
    words = ["train", "--config", "config.json", "--run", "model"]
    assert_one_line(elbos(*words), "exported model")
    with pytest.raises(ValueError, match="step"):
        Run("model", step=3)
    manifest, weights = Path("model/elbos.json"), Path("model/model.safetensors")
    known = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(known), "format": 99}))
    with pytest.raises(ValueError, match="format is 99"):
        Run("model")
    manifest.write_text(known)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert_one_line(elbos("sample", "model"), "model.safetensors", "export the run again")


def test_no_path_of_this_machine_is_handed_on(tmp_path: Path) -> None:
    places = {"init": tmp_path / "elsewhere", "data": Folder(root=tmp_path / "pictures")}
    export(Run(write_run(Path("run"), replace(DIGITS, **places))), "model")  # type: ignore[arg-type]
    assert read_config(Path("model/config.json")).data.root.name == "pictures"
    texts = [path.read_text() for path in Path("model").iterdir() if path.suffix != ".safetensors"]
    assert len(texts) == 4
    assert not any(str(tmp_path) in text for text in texts)


def test_a_folder_is_free_or_an_export_of_the_same_run() -> None:
    run = Run(write_run(Path("run"), DIGITS))
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    Path("link").symlink_to("full")
    for name in ("full", "full/notes.txt", "link", "run"):
        before = snapshot(Path())
        with pytest.raises(ValueError, match=name):
            export(run, name)
        assert snapshot(Path()) == before
    Path("clone/.git").mkdir(parents=True)
    Path("clone/.git/HEAD").touch()
    left, live = (files.partial(Path("clone")) for _ in range(2))  # of a killed process, and a live
    for path in (left, live):
        path.mkdir()
    with files.lock(live / ".lock"):
        export(run, "clone")
    assert [*Path().glob(".*partial*"), *Path("clone").glob(".lock")] == [live]
    longer = replace(DIGITS, num_images=960)
    later = Run(write_run(Path("longer"), longer, step=60))
    export(later, "clone")
    assert Run("clone").step == 60
    assert Path("clone/.git/HEAD").exists()
    other = Run(write_run(Path("other"), replace(DIGITS, seed=1)))
    with pytest.raises(ValueError, match="another run"):
        export(other, "clone")
    assert not list(Path().glob(".*partial*"))


def test_the_card_says_what_was_trained_and_measured(elbos: Elbos) -> None:
    write_run(Path("run"), of_diffusers(UNET))
    few = ["--num-images", 20, "--num-pilot-images", 10, "--ode.num-images", 0]
    measured = json.loads(elbos("evaluate", "run", *few, "--num-samples", 0, "--json").out)
    assert elbos("export", "run", "--to", "model").status == 0
    card = hub.ModelCard.load("model/README.md")
    assert card.data.to_dict()["library_name"] == "diffusers"
    assert card.data.to_dict()["license"] == "unknown"
    for needed in ("Sigmoid(k=2.0)", "V()", "−8.000 to 7.800", "1x8x8"):
        assert needed in card.content
    for result in measured["results"].values():
        assert f"{result['bits_per_dim']:.2f}"[:-1] in card.content
    assert_one_line(elbos("sample", "model"), "elbos evaluate")
    both = json.loads(
        elbos("evaluate", "model", "data:digits", *few, "--num-samples", 0, "--json").out
    )
    bits = [each["results"]["given_label"]["bits_per_dim"] for each in (measured, both)]
    assert bits[0] == pytest.approx(bits[1], abs=0.02)  # bf16 and float32
