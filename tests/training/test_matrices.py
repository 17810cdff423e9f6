"""Which weights are Muon's, of our networks and of others'."""

import pytest
import torch
from torch import nn

from elbos.models.networks import ADMConfig, MLPConfig, UNetConfig, UViTConfig, ViTConfig
from elbos.training.optimizer import inner_matrices

ENDS = ("conv_in", "conv_out", "linear_in", "linear_out", "embedding")  # of our networks


def split(network):
    """Names of the inner matrices, and of all other parameters of at least two dimensions."""
    inner = set(map(id, inner_matrices(network)))
    named = list(network.named_parameters())
    return [n for n, p in named if id(p) in inner], [
        n for n, p in named if id(p) not in inner and p.ndim > 1
    ]


OURS = [
    (UNetConfig(), (1, 28, 28)),
    (MLPConfig(), (2,)),
    (ADMConfig(), (3, 64, 64)),
    (UViTConfig(num_transformer_blocks=2), (3, 128, 128)),
    (ViTConfig(num_blocks=2), (4, 8, 8)),
]


@pytest.mark.parametrize(("config", "shape"), OURS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("num_classes", [None, 10])
def test_of_our_networks_all_but_the_ends_and_the_embedding(config, shape, num_classes):
    with torch.device("meta"):
        network = config.build(shape, num_classes)
    inner, rest = split(network)
    is_outer = {n: n.split(".")[0] in ENDS or "modulation" in n for n in [*inner, *rest]}
    assert inner
    assert inner == [n for n, p in network.named_parameters() if p.ndim > 1 and not is_outer[n]]
    assert all(is_outer[name] for name in rest)


def test_of_diffusers_unet():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            num_class_embeds=3,
        )
    inner, rest = split(network)
    assert [n for n in rest if "emb" not in n] == ["conv_in.weight", "conv_out.weight"]
    assert {n.split(".")[0] for n in inner} == {"down_blocks", "mid_block", "up_blocks"}
    assert not [n for n in inner if "emb" in n]
    assert sum("to_q" in n for n in inner) == 4  # one on the way down, one in the middle, two up


def test_of_diffusers_transformer():
    """Its first layer embeds patches; the linear maps of its adaptive norms are modulations."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8
        )
    inner, rest = split(network)
    parts = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj")
    blocks = [
        f"transformer_blocks.{i}.{part}.weight" for i in (0, 1) for part in (*parts, "ff.net.2")
    ]
    assert inner == [*blocks, "proj_out_1.weight"]
    assert {n.split(".")[-2] for n in rest} == {
        *("proj", "linear_1", "linear_2", "embedding_table", "linear", "proj_out_2")
    }


def test_of_a_network_of_ones_own():
    """By type and order: no tables, no groups, no transposed convolutions, nothing at the ends."""
    network = nn.Sequential(
        nn.Embedding(5, 8),
        nn.Conv1d(8, 8, 3),
        nn.Conv1d(8, 8, 3),
        nn.Conv1d(8, 8, 3, groups=8),
        nn.ConvTranspose1d(8, 8, 3),
        nn.Sequential(nn.LayerNorm(8), nn.MultiheadAttention(8, 2)),
        nn.Linear(8, 8),
        nn.Linear(8, 4),
    )
    network.position = nn.Parameter(torch.zeros(5, 8))
    inner, _ = split(network)
    assert inner == ["2.weight", "5.1.in_proj_weight", "5.1.out_proj.weight", "6.weight"]
    assert inner_matrices(nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 2))) == []
