"""Text-to-image pipelines on cached latents and embeddings, in pairs."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Elbos, assert_one_line, snapshot

from elbos.adapters.diffusers import load
from elbos.runs.latents import LatentEvaluation, evaluate_latents
from elbos.validation import Validation, Validator
from elbos.validation.result import NATS_PER_BIT

diffusers = pytest.importorskip("diffusers")
st = pytest.importorskip("safetensors.torch")

TEXTS = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 6,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def save(folder: Path, **scheduler: Any) -> Path:
    """What `StableDiffusionPipeline.save_pretrained` writes, without text encoder and VAE."""
    network = diffusers.UNet2DConditionModel(**TEXTS)
    network.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(clip_sample=False, **scheduler).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pipelines, and latents with embeddings."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    save(folder / "first")
    save(folder / "second", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    tensors = {
        "latents": torch.randn(6, 4, 8, 8),
        "encoder_hidden_states": torch.randn(6, 3, 6),
    }
    st.save_file(tensors, folder / "cache.safetensors")
    return folder


def test_scores_are_those_of_the_validator_and_differences_are_paired(place: Path) -> None:
    models = [place / "first", place / "second"]
    result, _ = evaluate_latents(models, place / "cache.safetensors", directory=place / "parts")
    tensors = st.load_file(place / "cache.safetensors")
    low, high = result.logsnr_min, result.logsnr_max
    pipelines = [load(model) for model in models]
    assert low == max(-10.0, *(one.denoiser.logsnr_min for one in pipelines))
    assert high == min(one.denoiser.logsnr_max for one in pipelines)  # of both
    validator = Validator(tensors["latents"], logsnr_min=low, logsnr_max=high)
    cond = {"encoder_hidden_states": tensors["encoder_hidden_states"]}
    own = [validator(pipeline.denoiser, cond=cond) for pipeline in pipelines]
    for score, validation in zip(result.scores, own, strict=True):
        assert score.bound.mean == pytest.approx(validation.nats.mean, rel=1e-5)
        assert score.by_level.logsnr == validation.by_level.logsnr
    gap = result.scores[1].difference
    assert gap is not None
    want = own[1].difference(own[0])
    assert gap.mean == pytest.approx(want.mean * NATS_PER_BIT, abs=1e-5)
    assert gap.standard_error == pytest.approx(want.standard_error * NATS_PER_BIT, rel=1e-3)
    levels = result.scores[1].difference_by_level
    assert levels is not None
    mean = sum(levels.nats_per_dim) / len(levels.nats_per_dim)  # of bins of equal width
    assert mean * (high - low) == pytest.approx(gap.mean, abs=1e-5)
    assert LatentEvaluation.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_command_writes_results_that_can_be_compared(
    place: Path, elbos: Elbos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", place / "first", "--latents", place / "cache.safetensors"]
    words += ["--num-images", "4"]
    result = elbos(*words)
    assert result.status == 0
    found = json.loads(Path("runs/latents-first/latents.json").read_text())
    assert (found["num_images"], len(found["scores"])) == (4, 1)
    stored = Validation.load("runs/latents-first/latents-0.safetensors")
    assert stored.nats.mean == found["scores"][0]["bound"]["mean"]
    assert elbos(*words, "--precision", "bf16", "--json", "--out", "bf16").status == 0
    other = Validation.load("bf16/latents-0.safetensors")
    assert abs(stored.difference(other).mean) < 0.05  # the same images, noise and levels


def test_results_belong_to_their_models_and_cache(
    place: Path, elbos: Elbos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.safetensors").write_bytes((place / "cache.safetensors").read_bytes())
    cache, out = ["--latents", place / "cache.safetensors"], ["--out", "both"]

    def results() -> dict[str, bytes]:
        files = snapshot(Path("both"))
        return {name: content for name, content in files.items() if "/" not in name}

    first, second = place / "first", place / "second"
    assert elbos("evaluate", first, second, *cache, *out).status == 0
    before = results()
    assert before.keys() > {"latents-0.safetensors", "latents-1.safetensors"}
    for words in ([second, first, *cache], [first, second, "--latents", "other.safetensors"]):
        assert_one_line(elbos("evaluate", *words, *out), "--out", str(second))
        assert results() == before
    assert_one_line(elbos("evaluate", first, *cache, "--out", first / "in"), "--out")
    Path("both/latents-7.safetensors").touch()  # of another command with more adapters
    assert elbos("evaluate", first, second, *cache, *out, "--seed", "1").status == 0
    after = results()
    assert after.keys() == before.keys() and after != before


def test_an_interrupted_evaluation_resumes_and_leaves_the_last_result(
    place: Path, elbos: Elbos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    forward, calls, limit = diffusers.UNet2DConditionModel.forward, [], 10**9

    def counted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", counted)
    words = ["evaluate", place / "first", place / "second", "--latents"]
    words += [place / "cache.safetensors", "--num-evaluations", "32", "--seed", "1"]
    assert elbos(*words, "--out", "whole").status == 0
    num, expected = len(calls), json.loads(Path("whole/latents.json").read_text())
    assert elbos(*words[:-1], "0", "--out", "here").status == 0
    before = {path: path.read_bytes() for path in Path("here").glob("latents*")}
    calls.clear()
    limit = num - 2
    assert elbos(*words, "--out", "here").status == 1
    assert {path: path.read_bytes() for path in Path("here").glob("latents*")} == before
    calls.clear()
    limit = 10**9
    assert elbos(*words, "--out", "here").status == 0
    assert len(calls) < num // 2
    assert json.loads(Path("here/latents.json").read_text()) == expected
    calls.clear()
    assert elbos(*words, "--precision", "bf16", "--out", "here").status == 0
    assert len(calls) == num  # nothing is taken from the other precision


def test_wrong_words_are_one_line(
    place: Path, elbos: Elbos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, cache = place / "first", place / "cache.safetensors"
    lora = ["--adapter", place / "lora.safetensors"]
    assert_one_line(elbos("evaluate", folder, "--latents", place / "absent"), "absent")
    assert_one_line(elbos("evaluate", folder, "--latents", folder), "no latents")
    name = "lora.safetensors" if find_spec("peft") else "elbos[peft]"
    assert_one_line(elbos("evaluate", folder, "--latents", cache, *lora), name)
    few = ["--latents", cache, "--num-evaluations", "4"]
    assert_one_line(elbos("evaluate", folder, *few), "num_evaluations is 4")
    assert_one_line(elbos("evaluate", folder, "data:digits"), "--latents")
    assert not list(tmp_path.rglob("*"))


TEXT = torch.randn(6, 3, 6)
FORGED = {
    "no-dimension": {"latents": torch.tensor(1.0)},
    "text-without-dimension": {"latents": torch.randn(6, 4, 8, 8), "text": torch.tensor(1.0)},
    "two-dimensions": {"latents": torch.randn(6, 4), "encoder_hidden_states": TEXT},
    "empty": {"latents": torch.randn(6, 4, 0, 8), "encoder_hidden_states": TEXT},
    "key-and-its-parent": {
        "latents": torch.randn(6, 4, 8, 8),
        "a": torch.zeros(6, 1),
        "a.b": torch.zeros(6, 1),
    },
    "within-latents": {"latents": torch.randn(6, 4, 8, 8), "latents.b": torch.zeros(6, 1)},
    "dots": {"latents": torch.randn(6, 4, 8, 8), 2000 * "a." + "b": torch.zeros(6, 1)},
    "no-text": {"latents": torch.randn(6, 4, 8, 8)},
    "text-of-flags": {"latents": torch.randn(6, 4, 8, 8), "encoder_hidden_states": TEXT > 0},
    "other-keyword": {"latents": torch.randn(6, 4, 8, 8), "cap_feats": TEXT},
    "hostile-keyword": {"latents": torch.randn(6, 4, 8, 8), "return_dict": torch.ones(6)},
    "network-argument": {"latents": torch.randn(6, 4, 8, 8), "sample": torch.ones(6)},
    "other-width": {
        "latents": torch.randn(6, 4, 8, 8),
        "encoder_hidden_states": torch.randn(6, 3, 5),
    },
    "other-channels": {"latents": torch.randn(6, 16, 8, 8), "encoder_hidden_states": TEXT},
    "of-a-video": {"latents": torch.randn(6, 4, 2, 8, 8), "encoder_hidden_states": TEXT},
    "not-a-number": {"latents": torch.full((6, 4, 8, 8), float("nan"))},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_cache_or_of_another_model_is_one_line(
    place: Path, elbos: Elbos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    st.save_file(FORGED[name], tmp_path / f"{name}.safetensors")
    result = elbos("evaluate", place / "first", "--latents", f"{name}.safetensors")
    assert_one_line(result, f"{name}.safetensors")
    assert [path.suffix for path in tmp_path.rglob("*")] == [".safetensors"]


@pytest.mark.skipif(not find_spec("peft"), reason="needs peft")
def test_adapters_are_added_and_taken_away(place: Path, tmp_path: Path) -> None:
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = load(place / "first")
    network: Any = pipeline.denoiser.network
    config = LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, target_modules=["to_k", "to_v"])
    network.add_adapter(config)
    weights = get_peft_model_state_dict(network)
    paths = [tmp_path / "diffusers.safetensors", tmp_path / "kohya.safetensors"]
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=weights,
        weight_name=paths[0].name,
        **_collate_lora_metadata({"unet": network}),  # with the scale
    )
    scaled = {}
    for key, value in weights.items():
        name, _, rest = key.partition(".lora_")
        name = f"lora_unet_{name.replace('.', '_')}"
        scaled[f"{name}.lora_{'down' if rest[0] == 'A' else 'up'}.weight"] = value
        scaled[f"{name}.alpha"] = torch.tensor(8.0)
    st.save_file(scaled, paths[1])
    cache = place / "cache.safetensors"
    result, _ = evaluate_latents([place / "first"], cache, directory=place, adapters=paths)
    tensors = st.load_file(cache)
    low, high = result.logsnr_min, result.logsnr_max
    validator = Validator(tensors["latents"], logsnr_min=low, logsnr_max=high)
    cond = {"encoder_hidden_states": tensors["encoder_hidden_states"]}
    want = validator(pipeline.denoiser, cond=cond)  # with peft's own adapter
    for score in result.scores[1:]:
        assert score.bound.mean == pytest.approx(want.nats.mean, rel=1e-5)
        assert score.difference is not None and abs(score.difference.mean) > 1e-3
    assert [score.adapter for score in result.scores] == [None, *map(str, paths)]
