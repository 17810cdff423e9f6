"""Image features: the activations of a pretrained network, as one vector per image."""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from elbos.base import files
from elbos.base.user_code import as_script, code_path, load_function, naming_line
from elbos.training.data.dataset import to_pixels

BATCH_SIZE = 50  # more is slower on a CPU, whose caches hold less


@dataclass(frozen=True)
class Features:
    """Feature vectors of images, and their class logits if the network has a classifier."""

    pooled: Float32[Tensor, "n d"]
    logits: Float32[Tensor, "n k"] | None


@dataclass(frozen=True)
class Extractor:
    """Feature extractor whose name identifies its network and weights.

    Attributes:
        name: Network, input size and a hash of the weights: all that determines the features, as
            it is part of every result and of every cache key.
        compute: Maps RGB images on the CPU to features on the CPU.
        is_inception: Whether the logits are those of the original Inception-v3; only then is their
            score called the Inception score, else the classifier score.
    """

    name: str
    compute: Callable[[UInt8[Tensor, "b 3 h w"]], Features]
    is_inception: bool = False


def extract(
    extractor: Extractor,
    x: UInt8[Tensor, "n c h w"],
    *,
    num_levels: int,
) -> Features:
    """Compute the feature vectors of images in batches.

    Grey images are converted to RGB. The `num_levels` pixel values are spread over 0 to 255.
    """
    parts = [
        extractor.compute(to_pixels(batch, num_levels).repeat(1, 3 // x.shape[1], 1, 1))
        for batch in torch.split(x, BATCH_SIZE)
    ]
    pooled = torch.cat([part.pooled for part in parts])
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(pooled, torch.cat(logits) if logits else None)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Load weights of PyTorch's format, and 8 digits of the file's SHA-256; no code is executed."""
    content = files.read(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # about other file formats
            weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise any exception
        raise ValueError(
            f"{path} is damaged, or not a file of weights: get the file again, or name another one."
        ) from error
    return weights, hashlib.sha256(content).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Module:
    """User-defined function that computes features of images.

    It maps uint8 images [b, 3, h, w] to features [b, d], and may return features and logits.
    """

    path: str
    """FILE.py:FUNCTION; stored as an absolute path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(files.expanded(Path(self.path))))

    def load(self, device: torch.device) -> Extractor:
        """Load the user-defined feature extractor, which receives images on `device`.

        Raises:
            ValueError: If the function is missing, fails when called, or returns no valid features.
        """
        with as_script(self.path):
            function = load_function(self.path, arguments=("images",), verb="evaluate")
        file = code_path(self.path).resolve()

        @torch.no_grad()
        def compute(images: UInt8[Tensor, "b 3 h w"]) -> Features:
            with as_script(str(file)), naming_line(self.path, file):
                answer = function(images.to(device))
            pooled, logits = answer if isinstance(answer, tuple) else (answer, None)
            vectors = self._vectors(pooled, len(images))
            return Features(vectors, None if logits is None else self._vectors(logits, len(images)))

        digest = hashlib.sha256(files.read(file)).hexdigest()[:8]
        return Extractor(f"{Path(self.path).name}, file sha256 {digest}", compute)

    def _vectors(self, value: Any, num: int) -> Float32[Tensor, "b d"]:
        is_tensor = isinstance(value, Tensor)
        is_matrix = is_tensor and value.ndim == 2 and len(value) == num and value.shape[1] > 0
        if not is_matrix or not value.is_floating_point():
            kind = f"{value.dtype} {list(value.shape)}" if is_tensor else type(value).__name__
            raise ValueError(
                f"{self.path} returns {kind} for {num} images: return float features [{num}, d], "
                f"or a pair of them and logits [{num}, k]."
            )
        vectors: Tensor = value.float().cpu()
        if num_bad := int((~vectors.isfinite()).any(1).sum()):
            raise ValueError(f"{self.path} returns NaN or infinity for {num_bad} of {num} images.")
        return vectors
