"""Caches of latents and text embeddings, in the files that trainers write."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elbos import Validator
from elbos.adapters import caches, diffusers
from elbos.adapters.caches import Cache
from elbos.adapters.diffusers import Latents, Pipeline

st = pytest.importorskip("safetensors.torch")

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SCALE, SHIFT = 0.5, 0.25


def pipeline(name: str = "UNet2DConditionModel", scheduler: Any = None) -> Pipeline:
    """A pipeline whose network has a given class, and computes nothing."""
    network = type(name, (nn.Linear,), {"forward": lambda self, z, timestep: 0 * z, "config": {}})(
        1, 1
    )
    config = scheduler or ({"_class_name": "DDPMScheduler"} if name[0] == "U" else FLOW)
    latents = Latents(vae=None, scale=torch.tensor(SCALE), shift=torch.tensor(SHIFT))
    return Pipeline(denoiser=diffusers.denoiser(network, config), encode=latents, scheduler=config)


def array(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def kohya(folder: Path, kind: str, text: str, key: str = "latents", **texts: Any) -> None:
    """What `LatentsCachingStrategy.save_latents_to_disk` and the text encoders' caches save."""
    kind_of = key.removeprefix("latents")
    np.savez(
        folder / f"a b_0128x0064_{kind}.npz",
        **{key: array(4, 8, 16)},
        **{f"original_size{kind_of}": np.array((137, 64))},
        **{f"crop_ltrb{kind_of}": np.array((4, 0, 132, 64))},
        **{f"latents_flipped{kind_of}": array(4, 8, 16)[..., ::-1]},
    )
    np.savez(folder / f"a b_{text}.npz", **texts)


def test_kohya_sdxl(tmp_path: Path) -> None:
    texts = {"hidden_state1": array(7, 6), "hidden_state2": array(7, 10), "pool2": array(5)}
    kohya(tmp_path, "sdxl", "te_outputs", **texts)
    cache = caches.load(tmp_path, pipeline())
    x, cond = cache[0]
    torch.testing.assert_close(x, (torch.from_numpy(array(4, 8, 16)) - SHIFT) * SCALE)
    assert cond["encoder_hidden_states"].shape == (7, 16)
    added = cond["added_cond_kwargs"]
    assert torch.equal(added["text_embeds"], torch.from_numpy(texts["pool2"]))
    assert added["time_ids"].tolist() == [64, 137, 0, 4, 64, 128]  # sizes, crop, sizes: rows first
    assert len(cache) == 1 and cache.format.name == "kohya"


def test_kohya_sd3_flux_and_lumina(tmp_path: Path) -> None:
    cases: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
        (
            *("sd3", "sd3_te", "SD3Transformer2DModel"),
            {"lg_out": array(7, 6), "lg_pooled": array(5), "t5_out": array(9, 10)},
            {"encoder_hidden_states": (16, 10), "pooled_projections": (5,)},
        ),
        (
            *("flux", "flux_te", "FluxTransformer2DModel"),
            {"l_pooled": array(5), "t5_out": array(9, 10), "apply_t5_attn_mask": False},
            {"encoder_hidden_states": (9, 10), "pooled_projections": (5,)},
        ),
        (
            *("lumina", "lumina_te", "Lumina2Transformer2DModel"),
            {"hidden_state": array(9, 10), "attention_mask": np.ones(9, dtype=np.int64)},
            {"encoder_hidden_states": (9, 10), "encoder_attention_mask": (9,)},
        ),
    ]
    for kind, text, network, texts, shapes in cases:
        folder = tmp_path / kind
        folder.mkdir()
        kohya(folder, kind, text, "latents_8x16", **texts)
        x, cond = caches.load(folder, pipeline(network))[0]
        assert {name: tuple(one.shape) for name, one in cond.items()} == shapes
        raw = torch.from_numpy(array(4, 8, 16))
        torch.testing.assert_close(x, (raw - SHIFT) * SCALE if kind == "sd3" else raw)


def test_caches_of_two_models_share_no_text(tmp_path: Path) -> None:
    """sd-scripts writes them beside the images, each with its own ending."""
    kohya(tmp_path, "flux", "flux_te", "latents_8x16", l_pooled=array(5), t5_out=array(9, 10))
    np.savez(tmp_path / "a b_sd3_te.npz", lg_out=array(7, 6), lg_pooled=array(3))
    (sample,) = caches.load(tmp_path, pipeline("FluxTransformer2DModel")).samples
    assert sample.text == tmp_path / "a b_flux_te.npz"
    kohya(tmp_path, "sd3", "sd3_te", "latents_8x16", lg_out=array(7, 6), lg_pooled=array(3))
    with pytest.raises(ValueError, match="flux and sd3"):
        caches.load(tmp_path, pipeline("FluxTransformer2DModel"))


def test_guidance_is_that_of_training(tmp_path: Path) -> None:
    kohya(tmp_path, "flux", "flux_te", "latents_8x16", l_pooled=array(5), t5_out=array(9, 10))
    distilled = pipeline("FluxTransformer2DModel")
    distilled.denoiser.network.inner.config = {"guidance_embeds": True}
    assert caches.load(tmp_path, distilled, guidance=1.0)[0][1]["guidance"] == 1
    with pytest.raises(ValueError, match="guidance"):
        caches.load(tmp_path, distilled)[0]


def test_musubi_pads_captions_and_masks_them(tmp_path: Path) -> None:
    for number, length in enumerate((3, 5)):
        stem = tmp_path / f"img{number}"
        latents = {"latents_1x8x8_bfloat16": torch.randn(4, 8, 8).bfloat16()}
        st.save_file(latents, f"{stem}_0064x0064_zi.safetensors", {"architecture": "z_image"})
        text = {"varlen_llm_embed_float8_e4m3fn": torch.ones(length, 6).to(torch.float8_e4m3fn)}
        st.save_file(text, f"{stem}_zi_te.safetensors", {"architecture": "z_image"})
    cache = caches.load(tmp_path, pipeline("ZImageTransformer2DModel"))
    masks = [cache[i][1]["cap_mask"].tolist() for i in range(2)]
    assert masks == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert cache[0][1]["cap_feats"].sum(1).tolist() == [6, 6, 6, 0, 0]
    assert Validator(cache, num_evaluations=4)  # items of one shape, of float32
    wan = tmp_path / "wan"
    wan.mkdir()
    st.save_file(
        {"latents_1x8x8_float32": torch.zeros(4, 1, 8, 8)}, wan / "b_0064x0064_wan.safetensors"
    )
    st.save_file({"varlen_t5_float32": torch.ones(3, 6)}, wan / "b_wan_te.safetensors")
    x, cond = caches.load(wan, pipeline("WanTransformer3DModel"))[0]
    assert x.shape == (4, 1, 8, 8) and cond["encoder_hidden_states"].shape == (512, 6)


def test_ai_toolkit(tmp_path: Path) -> None:
    suffix = "_" + 22 * "x"
    for folder in ("_latent_cache", "_t_e_cache"):
        (tmp_path / folder).mkdir()
    latent = torch.randn(4, 8, 16)
    st.save_file({"latent": latent}, tmp_path / f"_latent_cache/a_b{suffix}.safetensors")
    text = {"text_embed": torch.randn(1, 7, 16), "pooled_embed": torch.randn(1, 5)}
    st.save_file(text, tmp_path / f"_t_e_cache/a_b{suffix}.safetensors")
    for folder in (tmp_path, tmp_path / "_latent_cache"):
        x, cond = caches.load(folder, pipeline())[0]
        assert torch.equal(x, latent)
        assert torch.equal(cond["encoder_hidden_states"], text["text_embed"][0])
        assert cond["added_cond_kwargs"]["time_ids"].tolist() == [64, 128, 0, 0, 64, 128]
    st.save_file(text, tmp_path / f"_t_e_cache/a_b_{22 * 'y'}.safetensors")
    with pytest.raises(ValueError, match=r"_t_e_cache .*2 .*a_b"):
        caches.load(tmp_path, pipeline())


def plain(path: Path, **tensors: Tensor) -> Path:
    st.save_file(tensors, path)
    return path


def test_a_safetensors_file_has_the_networks_keywords(tmp_path: Path) -> None:
    tensors = {"latents": torch.randn(3, 4, 8, 8), "encoder_hidden_states": torch.randn(3, 7, 6)}
    added = torch.arange(18.0).view(3, 6)
    path = plain(tmp_path / "c.safetensors", **tensors, **{"added_cond_kwargs.time_ids": added})
    cache = caches.load(path, pipeline())
    x, cond = cache[1]
    assert torch.equal(x, tensors["latents"][1])
    assert torch.equal(cond["added_cond_kwargs"]["time_ids"], added[1])
    assert len(cache.subset(2)) == 2 and len(caches.load(tmp_path, pipeline())) == 3


class Wiener(nn.Module):
    """Predicts the noise in white latents, and takes a caption."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        assert len(encoder_hidden_states) == len(z)
        return z * (timestep / 1000).view(-1, 1, 1, 1)


def test_buckets_are_joined(tmp_path: Path) -> None:
    network = Wiener()
    one = pipeline()
    own = Pipeline(
        denoiser=diffusers.denoiser(network, {"_class_name": "DDPMScheduler"}),
        encode=one.encode,
        scheduler=one.scheduler,
    )
    shapes = {"a": (4, 8, 8), "b": (4, 8, 12)}
    for name, shape in shapes.items():
        latents, text = torch.randn(3, *shape), torch.randn(3, 7, 6)
        plain(tmp_path / f"{name}.safetensors", latents=latents, encoder_hidden_states=text)
    cache = caches.load(tmp_path, own)
    both = caches.validate(cache, own.denoiser, num_evaluations=4, seed=5)
    assert both.measurements.loss.shape == (6, 1, 4)
    parts = [
        caches.validate(
            caches.load(tmp_path / f"{name}.safetensors", own),
            own.denoiser,
            num_evaluations=4,
            seed=5 + number,
        )
        for number, name in enumerate(shapes)
    ]
    assert both.nats.mean == pytest.approx(sum(part.nats.mean for part in parts) / 2)
    again = caches.validate(cache, own.denoiser, num_evaluations=4, seed=5, batch_size=4)
    difference = both.difference(again)
    assert abs(difference.mean) < 1e-5
    assert max(map(abs, both.difference_by_level(again).nats_per_dim)) < 1e-5


def refusals(folder: Path) -> dict[str, str]:
    (folder / "pickle").mkdir()
    (folder / "pickle/img.pt").write_bytes(b"x")
    (folder / "other").mkdir()
    plain(folder / "other/model.safetensors", weight=torch.zeros(2))
    (folder / "torn").mkdir()
    (folder / "torn/a_0064x0064_sd.npz").write_bytes(b"PK")
    (folder / "broken").mkdir()
    (folder / "broken/a.safetensors").write_bytes(b"12345678901234")
    (folder / "none").mkdir()
    np.savez(
        folder / "none/a_0064x0064_sd.npz",
        latents=array(4, 8, 8),
        original_size=np.array((64, 64)),
        crop_ltrb=np.array((0, 0, 9, 9)),
    )
    (folder / "edit").mkdir()
    two = {f"latents_{one}1x8x8_float32": torch.zeros(4, 8, 8) for one in ("", "control_")}
    plain(folder / "edit/a_0064x0064_fk.safetensors", **two)
    (folder / "few").mkdir()
    plain(folder / "few/a.safetensors", latents=torch.zeros(3, 4), text=torch.zeros(2, 4))
    return {
        "pickle": r"\.pt",
        "other": "weight",
        "torn": "a_0064x0064_sd",
        "broken": "a.safetensors",
        "none": "no text embeddings",
        "edit": "latents_control",
        "few": r"text .*\(2, 4\) for 3",
        "absent": "absent",
    }


def test_what_is_no_cache_is_named(tmp_path: Path) -> None:
    for name, match in refusals(tmp_path).items():
        with pytest.raises((ValueError, OSError), match=rf"\A.*({match}).*\Z"):
            read: Cache = caches.load(tmp_path / name, pipeline())
            read[0]
