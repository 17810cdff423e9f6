"""User-defined features: a function in a Python file, `FILE.py:FUNCTION`.

It takes images, uint8 `[b, 3, h, w]`, and returns features `[b, d]`, or a pair of features and of
logits `[b, k]`. The file is run as it is for the audit (`user_code`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from elbos import files
from elbos.evaluation.features.extractor import Extractor, Features
from elbos.user_code import as_script, code_path, described, load_function


@dataclass(frozen=True, kw_only=True)
class Module:
    """A user-defined function of images, uint8 [b, 3, h, w], to features [b, d], or also logits."""

    path: str
    """FILE.py:FUNCTION; kept as an absolute path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(files.expanded(Path(self.path))))

    def load(self, device: torch.device) -> Extractor:
        """The function; `device` is where its images are.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If there is no such function; when it is called, if it fails or returns
                something else than finite features.
        """
        with as_script(self.path):
            function = load_function(self.path, arguments=("images",), verb="evaluate")
        file = code_path(self.path).resolve()

        @torch.no_grad()
        def compute(images: UInt8[Tensor, "b 3 h w"]) -> Features:
            with as_script(str(file)):
                try:
                    answer = function(images.to(device))
                except Exception as error:
                    raise ValueError(f"{self.path} fails: {described(error, file)}") from error
            return self._features(answer, len(images))

        digest = hashlib.sha256(files.read(file)).hexdigest()[:8]
        return Extractor(f"{Path(self.path).name}, file sha256 {digest}", compute)

    def _features(self, answer: Any, num: int) -> Features:
        is_pair = isinstance(answer, tuple) and len(answer) == 2
        pooled, logits = answer if is_pair else (answer, None)
        vectors = self._vectors(pooled, num)
        return Features(vectors, None if logits is None else self._vectors(logits, num))

    def _vectors(self, value: Any, num: int) -> Float32[Tensor, "b d"]:
        """One vector an image.

        Raises:
            ValueError: If it is something else, or not finite.
        """
        is_tensor = isinstance(value, Tensor)
        is_matrix = is_tensor and value.ndim == 2 and len(value) == num and value.shape[1] > 0
        if not is_matrix or not value.is_floating_point():
            kind = f"{value.dtype} {list(value.shape)}" if is_tensor else type(value).__name__
            raise ValueError(
                f"{self.path} returns {kind} for {num} images: return float features [{num}, d], "
                f"or a pair of them and logits [{num}, k]."
            )
        vectors: Tensor = value.float().cpu()
        num_bad = int((~vectors.isfinite()).any(1).sum())
        if num_bad:
            raise ValueError(f"{self.path} returns NaN or infinity for {num_bad} of {num} images.")
        return vectors
