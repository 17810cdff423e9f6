"""Latents: what is stored is what the autoencoder says, and each epoch draws from it anew."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import snapshot
from forking import in_processes
from PIL import Image
from tiny import DIGITS

from elbos.adapters.diffusers.pipeline import load_vae
from elbos.base.philox import key_of
from elbos.base.processes import Processes
from elbos.models.networks import UNetConfig
from elbos.runs.fit import train
from elbos.runs.run import Run
from elbos.runs.samples import write_samples
from elbos.training import data
from elbos.training.data import pack
from elbos.training.data.encode import encode
from elbos.training.data.packed import Moments, load
from elbos.training.pictures import png
from elbos.training.randomness import Visits

NUM, SCALE, SHIFT = 40, 0.3, 0.05


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        norm_num_groups=2,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
    )
    folder = tmp_path_factory.mktemp("vae")
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    """Packed pictures of noise."""
    rng = np.random.default_rng(0)
    for i in range(NUM):
        path = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    pack.pack(data.Folder(root=tmp_path / "pictures", size=8), tmp_path / "packed")
    return data.Packed(path=tmp_path / "packed").load()


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_what_is_stored_is_the_distribution_of_the_scaled_latents(
    images, vae_folder, tmp_path, dtype, rtol
):
    vae = load_vae(vae_folder)
    (tmp_path / "out").mkdir()
    encode(images, vae, tmp_path / "out", dtype=dtype, batch_size=7)
    stored = load(tmp_path / "out")
    assert (stored.shape, stored.num_levels) == ((4, 4, 4), None)
    with torch.no_grad():
        x = data.to_unit(images.train.x[:], 256)
        found = vae.vae.encode(x).latent_dist
    mean, logvar = stored.train.x[:].float().chunk(2, dim=1)
    torch.testing.assert_close(mean, (found.mean - SHIFT) * SCALE, rtol=rtol, atol=1e-6)
    std = found.std * SCALE
    torch.testing.assert_close((0.5 * logvar).exp(), std, rtol=8 * rtol, atol=1e-6)
    opened = data.Latents(path=tmp_path / "out").load()
    assert opened.spec == data.DataSpec("pictures-latents", (2, 4, 4), None, 2)
    assert torch.equal(opened.train.labels, images.train.labels)


class Known(data.Source):
    """Distributions of given means and log-variances, those of their numbers."""

    shape = (8, 2, 3, 3)

    def read(self, rows):
        mean = (rows.float() - 4).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
        return torch.cat([mean, -0.5 * mean], dim=1)


def augmented(moments, rows, seed, epochs):
    """What a training draws."""
    return moments.augmented(moments.stored(rows), Visits(key_of(seed), rows, epochs))


def test_draws_have_the_mean_and_variance_that_are_stored():
    num = 1000
    moments, rows = Moments(Known(), 0), torch.arange(8)
    draws = torch.stack(
        [augmented(moments, rows, 1, torch.full((8,), epoch)) for epoch in range(num)]
    ).double()
    mean = (rows.double() - 4).view(-1, 1, 1, 1)
    variance = (-0.5 * mean).exp()
    eps = (draws - mean) / variance.sqrt()
    assert eps.mean().abs() < 4 / eps.numel() ** 0.5
    assert (eps.mean(0).abs() < 5 / num**0.5).all()  # 72 of them
    assert (eps.square().mean() - 1).abs() < 4 * (2 / eps.numel()) ** 0.5
    corr = torch.corrcoef(eps.flatten(1).T) - torch.eye(72)  # pixels and samples are independent
    assert corr.abs().max() < 6 / num**0.5


def test_a_draw_is_a_function_of_seed_epoch_and_sample():
    moments, rows = Moments(Known(), 0), torch.tensor([3, 5, 3])
    epochs = torch.tensor([0, 0, 1])
    x = augmented(moments, rows, 1, epochs)
    for at in ([2], [1, 0]):
        assert torch.equal(augmented(moments, rows[at], 1, epochs[at]), x[at])
    others = [
        augmented(moments, rows, 2, epochs),
        moments.read(rows),
        Moments(Known(), 1).read(rows),
    ]
    same_rows = [x[:1], x[2:], *(other[:1] for other in others)]
    for first, second in itertools.combinations(same_rows, 2):
        assert not torch.isclose(first, second).any()
    assert torch.equal(moments.read(rows[:1]), moments.read(rows)[2:])


def test_an_interrupted_encoding_begins_again(images, vae_folder, tmp_path, monkeypatch):
    vae, calls = load_vae(vae_folder), []
    moments = type(vae).moments

    def stopping(self, x):
        calls.append(len(x))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return moments(self, x)

    encode(images, vae, tmp_path / "whole", batch_size=5)
    monkeypatch.setattr(type(vae), "moments", stopping)
    with pytest.raises(KeyboardInterrupt):
        encode(images, vae, tmp_path / "out", batch_size=5)
    with pytest.raises(FileNotFoundError):
        data.Latents(path=tmp_path / "out").load()
    encode(images, vae, tmp_path / "out", batch_size=5)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    num_calls = len(calls)
    encode(images, vae, tmp_path / "out", batch_size=5)  # it is complete
    assert len(calls) == num_calls


def encoded(images, vae_folder, out):
    encode(images, load_vae(vae_folder), out, batch_size=4, processes=Processes.joined())


def test_several_processes_write_the_same_bytes(images, vae_folder, tmp_path):
    encode(images, load_vae(vae_folder), tmp_path / "alone", batch_size=4)
    in_processes(3, encoded, images, vae_folder, tmp_path / "three")
    assert snapshot(tmp_path / "three") == snapshot(tmp_path / "alone")


def test_latents_and_images_are_told_apart(images, vae_folder, tmp_path):
    encode(images, load_vae(vae_folder), tmp_path / "out")
    with pytest.raises(ValueError, match="data:latents"):
        data.Packed(path=tmp_path / "out").load()
    with pytest.raises(ValueError, match="data:packed"):
        data.Latents(path=tmp_path / "packed").load()


def test_samples_of_latents_are_decoded_for_the_picture(images, vae_folder, tmp_path):
    encode(images, load_vae(vae_folder), tmp_path / "latents")
    network = UNetConfig(channels=(16,), num_attention_levels=0, embedding_dim=16)
    config = replace(DIGITS, network=network, num_images=16, precision="fp32")
    train(replace(config, data=data.Latents(path=tmp_path / "latents")), tmp_path / "run")
    run, vae = Run(tmp_path / "run"), load_vae(vae_folder)
    settings = {"num": 5, "seed": 0, "label": None, "out": tmp_path / "samples"}
    settings["on_images"] = lambda _: None
    picture, archive = write_samples(run, run.sampling, **settings, decode=vae.decode)
    with np.load(archive) as found:
        x = torch.from_numpy(found["x"])
    assert x.shape == (5, 2, 4, 4)
    assert picture.read_bytes() == png(vae.decode(x), num_columns=2)
    picture, _ = write_samples(run, run.sampling, **settings)
    assert picture is None
