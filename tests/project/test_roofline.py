"""What networks cost on a GPU, counted on `meta`: against what is published, and as it was.

After a change of a network that is meant, `python tests/project/test_roofline.py` writes
golden_roofline.json anew.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from roofline import Cost, cost  # noqa: E402
from step_cost import WORK  # noqa: E402

from elbos.models.networks import ADMConfig, NetworkConfig, UViTConfig, ViTConfig  # noqa: E402
from elbos.training.presets import PRESETS  # noqa: E402

GOLDEN = Path(__file__).with_name("golden_roofline.json")
NUM = 32  # as the presets of the same networks, which are counted once
PIXELS, LATENTS = (3, 64, 64), (4, 32, 32)

# Millions of parameters and billions of multiply-adds per image. ADM's are those of OpenAI's code,
# guided-diffusion, without the output's variances; DiT's are in table 4 of the paper.
PUBLISHED: dict[str, tuple[NetworkConfig, tuple[int, ...], float, float]] = {
    "ADM": (ADMConfig(), PIXELS, 295.899267, 109.656785),
    "DiT-S/2": (ViTConfig(), LATENTS, 33, 6.06),
    "DiT-B/2": (ViTConfig(num_features=768), LATENTS, 130, 23.01),
}


once = cache(cost)


def published(name: str) -> Cost:
    config, shape, *_ = PUBLISHED[name]
    return once(config, shape, 1000, NUM)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    """Within 1 %: other embeddings of the noise level, a label more, and widths rounded to 64."""
    *_, millions, billions = PUBLISHED[name]
    found = published(name)
    assert found.num_parameters == pytest.approx(1e6 * millions, rel=0.01)
    # Forward and backward are three forwards, but that no gradient of the input is needed,
    # and that attention computes its products again.
    assert found.num_flops / 6 / NUM == pytest.approx(1e9 * billions, rel=0.02)


def test_adms_parameters_are_explained_to_the_last() -> None:
    """64 features of log-SNR in place of 192 of the time step, and a label for "none"."""
    with torch.device("meta"):
        network = ADMConfig().build(PIXELS, 1000)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == 295_899_267 - (192 - 64) * 768 + 768


def test_uvit_has_two_billion_parameters() -> None:
    with torch.device("meta"):
        network = UViTConfig().build((3, 128, 128), 1000)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e9) == 2


def counted(preset: str) -> dict[str, Any]:
    shape, num_classes, num = WORK[preset]
    found = once(PRESETS[preset].network, shape, num_classes, num)
    return {
        "num_parameters": found.num_parameters,
        "num_flops": found.num_flops,
        "num_kernels": found.num_kernels,
        "num_bytes": found.num_bytes,
        "saved": dict(sorted(found.saved.items())),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_golden_roofline(preset: str) -> None:
    """FLOPs and parameters exactly; what torch decides, kernels and bytes, within 5 %."""
    found, expected = counted(preset), json.loads(GOLDEN.read_text())[preset]
    for exact in ("num_parameters", "num_flops"):
        assert found[exact] == expected[exact]
    for close in ("num_kernels", "num_bytes"):
        assert found[close] == pytest.approx(expected[close], rel=0.05)
    for dtype in ("bfloat16", "float32"):
        total = sum(expected["saved"].values())
        then = expected["saved"].get(dtype, 0)
        assert found["saved"].get(dtype, 0) == pytest.approx(then, abs=0.05 * total)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: counted(name) for name in PRESETS}, indent=1) + "\n")
