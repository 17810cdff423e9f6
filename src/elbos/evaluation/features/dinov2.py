r"""DINOv2, a self-supervised vision transformer: the features of published FD-DINOv2 distances.

An image of $224\times224$ pixels is 256 patches of $14\times14$ and one class token. With
position embeddings $p$ the tokens pass through $L$ blocks,

$$h_0 = [c, W x] + p, \qquad h' = h + \gamma_1 \odot \mathrm{attention}(\mathrm{norm}_1(h)), \qquad
  h \leftarrow h' + \gamma_2 \odot \mathrm{MLP}(\mathrm{norm}_2(h')),$$

and the feature is the normalized class token after the last block. The weights have embeddings of
$37\times37$ positions, which are interpolated as in DINOv2's own code (bicubic, with scale
$(16 + 0.1) / 37$); other implementations leave out the 0.1 and give slightly different features.
Images are resized as in dgm-eval: by Pillow, bicubic, to bytes.

References:
    Oquab et al. (2023), https://arxiv.org/abs/2304.07193; Stein et al. (2023),
    https://arxiv.org/abs/2306.04675, and https://github.com/layer6ai-labs/dgm-eval
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from elbos.base import files
from elbos.evaluation.features.extractor import Extractor, Features, read_weights

FILE = "dinov2_vitl14_pretrain.pth"
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE}"
SHA256 = "d5383ea8"
"""First 8 digits of the SHA-256 of DINOv2's file of ViT-L/14."""

_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_HEAD = 64  # features per attention head, for all sizes of DINOv2
_FROM_TRANSFORMERS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}


@dataclass(frozen=True, kw_only=True)
class Dinov2:
    """DINOv2 feature extractor for the FD-DINOv2 metric.

    By default it is ViT-L/14 with 1,024 features.
    """

    weights: Path | None = None
    """File of weights of ViT-S/14, B/14 or L/14: DINOv2's own (.pth), or model.safetensors in the
    folder of a transformers `Dinov2Model`. Default: ViT-L/14's file in the cache of torch.hub."""

    def __post_init__(self) -> None:
        if self.weights is not None:  # absolute, as processes in other folders read it
            object.__setattr__(self, "weights", files.expanded(self.weights))

    def load(self, device: torch.device) -> Extractor:
        """Load DINOv2 as a feature extractor from a local file.

        Raises:
            FileNotFoundError: If the file of weights does not exist.
            ValueError: If the file is damaged or holds other weights.
        """
        path = self.weights or Path(torch.hub.get_dir()) / "checkpoints" / FILE
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights of DINOv2 at {path}: get {URL} (SHA-256 {SHA256}...), or give "
                "--extractor.weights FILE"
            )
        weights, digest = read_weights(path)
        if path.name == FILE and digest != SHA256:
            raise ValueError(
                f"{path} is not DINOv2's file (its SHA-256 begins with {digest}, not {SHA256}): "
                f"get {URL}, or rename it if the weights are your own"
            )
        try:
            network = VisionTransformer(_in_own_names(weights))
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path} holds other weights than those of DINOv2's ViT-S/14, B/14 or L/14 "
                f"without registers: get {URL}"
            ) from error
        network.to(device)
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (_MEAN, _STD))

        @torch.inference_mode()
        def compute(images: UInt8[Tensor, "b 3 h w"]) -> Features:
            x = resized(images).to(device).float() / 255
            return Features(network((x - mean) / std).cpu(), None)

        width = network.cls_token.shape[-1]
        return Extractor(f"dinov2, {width} features, {_SIZE} px, weights sha256 {digest}", compute)


def resized(images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 224 224"]:
    """Resize images to 224x224 pixels by bicubic interpolation.

    As published, the interpolation is filtered and rounds to bytes.
    """
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    pictures = (Image.fromarray(x).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC) for x in arrays)
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)


class VisionTransformer(nn.Module):
    """Vision transformer that maps normalized images to the class token.

    Sizes follow from the weights, whose names are those of DINOv2's own files. The position
    embeddings are interpolated once, for 224x224 pixels.

    Raises:
        KeyError, RuntimeError, ValueError: If the weights are of another architecture.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        if width % _HEAD or _SIZE % patch:
            raise ValueError(f"{width} features and patches of {patch} pixels are not DINOv2's")
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        pos_embed = _interpolated(weights["pos_embed"].float(), _SIZE // patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty_like(pos_embed))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        used = {name: w for name, w in weights.items() if name != "mask_token"}  # of training
        self.load_state_dict({**used, "pos_embed": pos_embed})
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b d"]:
        patches = self.patch_embed["proj"](x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed
        features: Tensor = self.norm(self.blocks(tokens)[:, 0])
        return features


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.empty(width)}) for _ in range(2))

    def forward(self, h: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        heads = self.attn["qkv"](self.norm1(h)).unflatten(-1, (3, -1, _HEAD))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [b, heads, t, 64]
        attended = F.scaled_dot_product_attention(q, k, v)
        h = h + self.ls1["gamma"] * self.attn["proj"](attended.transpose(1, 2).flatten(2))
        y: Tensor = h + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(h))))
        return y


def _interpolated(pos_embed: Float[Tensor, "1 n d"], num: int) -> Float[Tensor, "1 m d"]:
    """Interpolate position embeddings to `num` patches a side.

    The embedding of the class token is unchanged.
    """
    side = math.isqrt(pos_embed.shape[1] - 1)
    if side == num:
        return pos_embed
    grid = pos_embed[:, 1:].mT.reshape(1, -1, side, side)
    grid = F.interpolate(grid, scale_factor=(num + 0.1) / side, mode="bicubic")
    return torch.cat([pos_embed[:, :1], grid.flatten(2).mT], 1)


def _in_own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights in the format of transformers to DINOv2's own names."""
    if "cls_token" in weights:
        return dict(weights)
    renamed = {}
    for old, weight in weights.items():
        name = old
        for theirs, own in _FROM_TRANSFORMERS.items():
            name = name.replace(theirs, own)
        renamed[name] = weight
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return renamed
