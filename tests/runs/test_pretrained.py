"""Folders of diffusers' pipelines, evaluated as runs are."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Elbos, assert_one_line, snapshot
from PIL import Image
from pipelines import edit
from torch import Tensor, nn

from elbos import Denoiser, Validator
from elbos.evaluation import Evaluation
from elbos.evaluation.report import page
from elbos.runs.pretrained import InBatches, Pretrained
from elbos.theory.oracles import GaussianMixture
from elbos.theory.parameterizations import Eps
from elbos.training.data import Digits, Images, to_unit
from elbos.training.data.images import measured_split
from elbos.training.randomness import generator
from elbos.validation import validator

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
FEW = ["--num-images", "20", "--num-pilot-images", "10", "--ode.num-images", "0"]
LIKELIHOOD = [*FEW, "--num-samples", "0"]
SAMPLES = ["--num-samples", "20", "--num-steps", "2"]
MINE = ["extractor:module", "--extractor.path", "mine.py:features"]
USERS = """
def features(images):
    return images.float().flatten(1)[:, ::48] / 255
"""


def save(folder: Path, **parts: Any) -> None:
    """What `DiffusionPipeline.save_pretrained` writes, of any parts."""
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.32.0"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["diffusers", type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))


def unet(channels: int = 1, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    actual = diffusers.UNet2DModel(
        **SMALL | {"in_channels": channels, "out_channels": channels} | settings
    )
    return actual.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: `ddpm`, and `labelled`, of ten classes."""
    folder = tmp_path_factory.mktemp("saved")
    scheduler = diffusers.DDPMScheduler()
    save(folder / "ddpm", unet=unet(), scheduler=scheduler)
    save(folder / "labelled", unet=unet(num_class_embeds=10), scheduler=scheduler)
    return folder


@pytest.fixture
def folders(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them to spoil, as the current directory, with user-defined features."""
    shutil.copytree(saved, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("mine.py").write_text(USERS)
    return tmp_path / "here"


def measured_by_hand(network: nn.Module, x: Tensor, **settings: Any) -> float:
    """Bits/dim of a network that predicts eps at the steps of DDPM's betas, by the validator."""
    remaining = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    steps = np.log(remaining / (1 - remaining))

    def called(z: Tensor, logsnr: Tensor, cond: Any) -> Tensor:
        time = np.interp(-logsnr.double().numpy(), -steps, np.arange(1000))
        labels = {} if cond is None else {"class_labels": cond}
        return network(z, torch.from_numpy(time).float(), **labels).sample

    cond = settings.pop("cond", None)
    by_hand = Validator(x, logsnr_min=steps[-1], logsnr_max=steps[0], **settings)
    denoiser = Denoiser(called, Eps())
    pilot = by_hand.pilot(denoiser, num_samples=10, cond=cond)
    return by_hand.tuned(pilot)(denoiser, cond=cond).bits_per_dim


def chosen() -> tuple[Tensor, Tensor]:
    """The 20 test images that are measured, in [-1, 1], and their labels."""
    test = Digits().load().test
    rows = torch.randperm(len(test), generator=generator(0))[:20]
    return to_unit(test.x[rows], 17), test.labels[rows]


# --- what is measured ----------------------------------------------------------------------------


def test_the_network_is_told_the_labels_of_the_images(elbos: Elbos, folders: Path) -> None:
    few = [*FEW[:4], "--num-samples", "0", "--ode.num-images", "2", "--ode.tolerance", "0.1"]
    actual = json.loads(elbos("evaluate", "labelled", "data:digits", *few, "--json").out)["results"]
    assert list(actual) == ["given_label"]
    x, labels = chosen()
    expected = measured_by_hand(unet(num_class_embeds=10), x, num_levels=17, cond=labels)
    assert actual["given_label"]["bits_per_dim"] == pytest.approx(expected, abs=1e-6)
    assert actual["given_label"]["ode"]["num_images"] == 2
    assert max(abs(check["z"]) for check in actual["given_label"]["weightings"]) < 4.5


@pytest.mark.filterwarnings("ignore:logsnr_max=9.21")
def test_a_network_of_one_channel_is_given_that_of_grey_pictures(
    elbos: Elbos, folders: Path
) -> None:
    """Though a folder of pictures is decoded to RGB; of coloured ones there is no such channel."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    for number, picture in enumerate(pixels):
        for split in ("train", "test"):
            path = Path("grey", split, f"{number:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    words = ["evaluate", "ddpm", "data:images", "--data.size", "8", *LIKELIHOOD, "--json"]
    actual = json.loads(elbos(*words, "--data.path", "grey").out)["results"]["unconditional"]
    x = to_unit(torch.from_numpy(pixels[:, None]), 256)
    expected = measured_by_hand(
        unet(), x[torch.randperm(20, generator=generator(0))], num_levels=256
    )
    assert actual["bits_per_dim"] == pytest.approx(expected, abs=1e-6)
    for path in Path("grey/test").iterdir():
        Image.new("RGB", (8, 8), "red").save(path)
    assert_one_line(elbos(*words, "--data.path", "grey"), "colours")


def test_a_folder_of_pictures_is_measured_whole_in_the_networks_size(
    elbos: Elbos, folders: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    Path("flat").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(Path("flat", f"{number:02}.png"))
    words = ["evaluate", "ddpm", "data:images", "--data.path", "flat", *LIKELIHOOD[2:]]
    with pytest.warns(UserWarning, match="logsnr_max=9.21") as warned:
        assert elbos(*words).status == 0
    assert sum("logsnr_max" in str(warning.message) for warning in warned) == 1
    actual = Evaluation.load("runs/evaluate-ddpm/eval.json")
    assert (actual.split, actual.num_images) == ("all", 30)
    data = Images(path="flat", size=8)
    dataset = data.load()
    assert {x.numpy().tobytes() for x in dataset.all.x[:, 0]} == {p.tobytes() for p in pixels}
    assert measured_split(data, is_trained_on=True) == "test"


def test_a_network_is_called_with_few_samples_at_once(randn: Any) -> None:
    """And the estimates are the same."""
    item = torch.ones(2, dtype=torch.float64)
    exact = GaussianMixture(item / 2, randn(2, 3), item)
    sizes = []

    def spied(z: Tensor, logsnr: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        sizes.append(len(z))
        return exact(z, logsnr, cond)

    z, logsnr, labels = randn(7, 3), randn(7), torch.arange(7) % 2
    actual = InBatches(spied, 3)(z, logsnr, labels)
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(actual, exact(z, logsnr, labels), rtol=0, atol=1e-12)


# --- what is kept --------------------------------------------------------------------------------


def test_an_interrupted_evaluation_of_a_folder_resumes(
    elbos: Elbos, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written to the folder; another batch size finds what was kept. The result says
    how the folder was taken, and what is not known of its training is not shown.
    """
    words = ["evaluate", "ddpm", "data:digits", *FEW, *SAMPLES, *MINE]
    model, out = snapshot(folders / "ddpm"), folders / "runs/evaluate-ddpm"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["elbos.evaluation.likelihood"], "check_theorem", stop)
        assert elbos(*words).status == 1
    assert not (out / "eval.json").exists()
    remaining = snapshot(out)
    assert any(name.endswith(".safetensors") for name in remaining)
    monkeypatch.setattr(validator, "eps_errors", stop)
    shown = elbos(*words, "--batch-size", "7")
    assert shown.status == 0 and "optimizer" not in shown.out
    actual = Evaluation.load(out / "eval.json")
    assert snapshot(out).items() >= remaining.items()
    assert json.loads(elbos(*words, "--json").out) == actual.to_dict()
    assert snapshot(folders / "ddpm") == model

    assert (actual.run, actual.step) == ("ddpm", None)
    assert actual.trained["network"] == "UNet2DModel"
    assert '"beta_end": 0.02' in actual.protocol.scheduler
    assert Evaluation.from_dict(json.loads(json.dumps(actual.to_dict()))) == actual
    assert "None" not in page([actual]).markdown().split("Protocol")[0]


def test_changed_weights_are_measured_anew(folders: Path) -> None:
    def parts(**changes: Any) -> str:
        actual = Pretrained(Path("ddpm"), Digits(), Path("out"))
        return json.dumps(actual.identifier(), sort_keys=True)

    first = parts()
    assert parts() == first
    edit(folders / "ddpm/scheduler/scheduler_config.json", beta_end=0.03)
    second = parts()
    save(folders / "ddpm", unet=unet(act_fn="relu"), scheduler=diffusers.DDPMScheduler())
    assert len({first, second, parts()}) == 3


# --- what cannot be measured ---------------------------------------------------------------------


def weights(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        network = diffusers.UNet2DModel.from_pretrained(folder / "unet")
        with torch.no_grad():
            change(network)
        network.save_pretrained(folder / "unet")

    return spoil


def setting(file: str, **changes: Any) -> Any:
    return lambda folder: edit(folder / file, **changes)


def other(**settings: Any) -> Any:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / "unet")
        unet(**settings).save_pretrained(folder / "unet")

    return spoil


DIGITS = ["data:digits"]
PICKLED = '{"weight_map": {"conv_in.weight": "weights.bin"}}'
BAD = {
    "NaN": ("ddpm", weights(lambda net: net.conv_out.bias.fill_(math.nan)), DIGITS, "NaN"),
    "channels": ("ddpm", other(channels=3), DIGITS, "takes 3x8x8, and is given 1x8x8"),
    "size": ("ddpm", other(sample_size=16), DIGITS, "takes 1x16x16"),
    "empty set": ("ddpm", None, ["data:images", "--data.path", "empty"], "no picture"),
    "no labels": ("labelled", other(num_class_embeds=10, channels=3),
        ["data:images", "--data.path", "pictures", "--data.size", "8"], "has none"),
    "weights of a pickle": ("ddpm", lambda folder:
        (folder / "unet/x.safetensors.index.json").write_text(PICKLED), DIGITS,
        "other files than safetensors"),
    "guidance": ("labelled", None, [*DIGITS, "--guidance", "2"], "guidance is 2.0"),
    "no data": ("ddpm", None, [], "data:fashion"),
    "out in the folder": ("ddpm", None, [*DIGITS, "--out", "ddpm/out"], "--out"),
    "out is another's": ("ddpm", None, [*DIGITS, "--out", "empty"], "notes.txt"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "words", "named"), BAD.values(), ids=BAD)
def test_what_cannot_be_evaluated_is_one_line_and_writes_nothing(
    elbos: Elbos, folders: Path, name: str, spoil: Any, words: list[str], named: str
) -> None:
    (folders / "empty").mkdir()
    if named == "notes.txt":
        (folders / "empty/notes.txt").touch()
    pictures(folders / "pictures")
    if spoil is not None:
        spoil(folders / name)
    before = snapshot(folders)
    assert_one_line(
        elbos("evaluate", name, *words, *([] if "--num-images" in words else FEW)), named
    )
    assert snapshot(folders) == before
    assert not (folders / "runs").exists() and not (folders / "out").exists()


def pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / f"{i}.png")
