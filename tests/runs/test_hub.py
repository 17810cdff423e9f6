"""Models on the Hugging Face Hub, read from a local cache of its client."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from commands import Elbos, assert_one_line
from pipelines import IMAGES, SMALL

from elbos.adapters.diffusers import load, load_vae
from elbos.base import hub
from elbos.base.cache import cache_dir
from elbos.runs.export import export
from elbos.runs.run import Run

constants = pytest.importorskip("huggingface_hub.constants")

filter_repo_objects = pytest.importorskip("huggingface_hub.utils").filter_repo_objects

WEIGHTS = tuple(
    f"{part}diffusion_pytorch_model{number}.safetensors"
    for part, number in (("", ""), ("vae/", ""), ("unet/", "-00001-of-00002"), ("transformer/", ""))
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a folder into the client's cache as OWNER/NAME, with files as links."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def publish(folder: Path, name: str) -> None:
        place = cache / f"models--{name.replace('/', '--')}"
        snapshot, blobs = place / "snapshots" / COMMIT, place / "blobs"
        blobs.mkdir(parents=True)
        for number, path in enumerate(one for one in folder.rglob("*") if one.is_file()):
            shutil.copy(path, blobs / str(number))
            linked = snapshot / path.relative_to(folder)
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(blobs / str(number))
        (place / "refs").mkdir()
        (place / "refs/main").write_text(COMMIT)

    return publish


def test_a_run_is_read_with_its_commit(published, runs: Path, elbos: Elbos) -> None:
    export(Run("digits"), "exported")
    published(Path("exported"), "me/digits")
    run = Run("me/digits")
    assert run.name == f"me/digits@{COMMIT}"
    assert torch.equal(run.sample(2, num_steps=2), Run("digits").sample(2, num_steps=2))
    assert Run(f"me/digits@{COMMIT}").name == run.name
    few = ["--num-images", "8", "--num-pilot-images", "8", "--num-samples", "0"]
    result = elbos("evaluate", "me/digits", *few, "--ode.num-images", "0", "--json")
    assert result.status == 0
    assert json.loads(result.out)["run"] == run.name
    assert Path("runs/evaluate-digits/eval.json").exists()
    owner = json.loads(Path("runs/evaluate-digits/model.json").read_text())
    assert owner == {"folder": run.name}  # from whichever folder it is evaluated
    result = elbos("sample", "me/digits", "--num", "2", "--num-steps", "2", "--json")
    assert result.status == 0
    for path in json.loads(result.out).values():
        assert Path(path).is_relative_to(cache_dir() / "hub/me" / f"digits@{COMMIT}")
    files = [path for path in Path("../hub").rglob("*") if not path.is_symlink()]
    assert not {path.name for path in files} & {"evaluation", "samples"}  # nothing is written there


def test_a_pipeline_is_read_with_its_commit(published, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet, saved = diffusers.UNet2DModel(**SMALL, **IMAGES), tmp_path / "saved"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(saved)
    published(saved, "me/ddpm")
    pipeline = load("me/ddpm")
    assert pipeline.name == f"me/ddpm@{COMMIT}"
    z, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    want, found = load(saved).denoiser(z, logsnr), pipeline.denoiser(z, logsnr)
    assert torch.equal(want[0], found[0])


@pytest.mark.parametrize(
    ("read", "wanted"),
    [
        (load, {"model_index.json", "unet/config.json", "vae/config.json", *WEIGHTS}),
        (load_vae, {"model_index.json", "unet/config.json", "vae/config.json", *WEIGHTS[:2]}),
    ],
)
def test_weights_are_fetched_once_and_of_nothing_else(
    read, wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large repository has each network in several precisions, and text encoders."""
    files = [
        *("model_index.json", "unet/config.json", "vae/config.json", *WEIGHTS),
        *(path.replace(".safetensors", ".fp16.safetensors") for path in WEIGHTS),
        *("text_encoder/model.safetensors", "sd_xl_base_1.0.safetensors"),
        *("vae_1_0/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
    ]
    fetched: set[str] = set()

    def snapshot_download(*_: str, allow_patterns: list[str], **__: str) -> str:
        fetched.update(filter_repo_objects(files, allow_patterns=allow_patterns))
        return "none"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError):
        read("me/large")
    assert fetched == wanted


def test_what_is_here_is_not_looked_for_elsewhere(
    published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elbos: Elbos
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert hub.resolved("runs/absent", ["*"]) == (Path("runs/absent"), "runs/absent")
    for name in ("me/absent", "runs/absent", "me/absent@v1"):
        assert_one_line(elbos("evaluate", name), name)


@pytest.mark.parametrize("revision", ["../../x", "a/../../x", "/x", "..", "main/.."])
def test_a_revision_that_leads_elsewhere_is_not_given_to_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elbos: Elbos, revision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: asked.append(repo))
    assert_one_line(elbos("evaluate", f"me/digits@{revision}"), revision)
    assert not asked


def test_a_silent_hub_is_named_and_ends_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elbos: Elbos
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    monkeypatch.setattr(hub, "_MAX_SECONDS", 0.2)
    end = threading.Event()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: end.wait())
    result = elbos("evaluate", "me/digits")
    end.set()
    assert result.status == 1
    first, last = result.err.splitlines()
    assert "me/digits" in first and "me/digits" in last
