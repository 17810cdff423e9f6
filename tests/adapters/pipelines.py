"""Pipelines in folders, as diffusers saves them: fixtures."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import mse_loss

SMALL = {
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
IMAGES = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
UNET = {
    "_class_name": "UNet2DModel",
    **SMALL,
    **{name: IMAGES[name] for name in ("down_block_types", "up_block_types")},
}
DIT = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_layers": 2,
}


def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture(scope="session")
def trained():
    """A DDPM after some steps of diffusers' own training loop."""
    torch.manual_seed(0)
    unet = diffusers().UNet2DModel(**SMALL, **IMAGES)
    scheduler = diffusers().DDPMScheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    for _ in range(10):
        x, eps = torch.rand(16, 1, 8, 8).round() * 2 - 1, torch.randn(16, 1, 8, 8)
        timesteps = torch.randint(0, 1000, (16,))
        output = unet(scheduler.add_noise(x, eps, timesteps), timesteps).sample
        optimizer.zero_grad()
        mse_loss(output, eps).backward()
        optimizer.step()
    return diffusers().DDPMPipeline(unet=unet, scheduler=scheduler)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    trained.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved pipeline, to be spoilt."""
    return shutil.copytree(saved, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
