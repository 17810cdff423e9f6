"""Inception-v3 with the weights of the original FID implementation, through torch-fidelity.

Published FIDs use these weights, converted from TensorFlow's of 2015-12-05, and this resizing
(bilinear, to 299 pixels, as in TensorFlow 1). Another Inception-v3 gives other numbers.

References:
    Heusel et al. (2017), https://arxiv.org/abs/1706.08500; https://github.com/toshas/torch-fidelity
"""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from elbos.base.checks import Typed
from elbos.base.errors import warn
from elbos.base.extras import imported
from elbos.evaluation.features.extractor import Extractor, Features, read_weights

FILE = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's file name, which ends in the first 8 digits of the file's SHA-256."""

URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"


@dataclass(frozen=True, kw_only=True)
class Inception(Typed):
    """Inception-v3 with the original FID weights, 2,048 features and 1,008 classes."""

    weights: Path | None = None
    """File with the weights. Default: torch-fidelity's file in the cache of torch.hub."""

    def load(self, device: torch.device) -> Extractor:
        """Load Inception-v3 as a feature extractor from a local file.

        A warning is given if the weights are not the original FID weights.

        Raises:
            FileNotFoundError: If the file of weights does not exist.
            ValueError: If torch-fidelity is not installed, or the file is damaged or holds other
                weights.
        """
        path = self.weights or Path(torch.hub.get_dir()) / "checkpoints" / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights of Inception-v3 at {path}: get {URL}, or give --extractor.weights FILE"
            )
        weights, digest = read_weights(path)
        network = _network(weights, path).to(device)
        if not (is_original := FILE.endswith(f"{digest}.pth")):
            warn(
                f"{path} is not the file of the original FID (its SHA-256 begins with {digest}, "
                "not 6726825d): do not compare with published FIDs"
            )

        @torch.inference_mode()
        def compute(images: UInt8[Tensor, "b 3 h w"]) -> Features:
            pooled, logits = network(images.to(device))
            return Features(pooled.cpu(), logits.cpu())

        name = f"inception-v3, 299 px, weights sha256 {digest}"
        return Extractor(name, compute, is_inception=is_original)


def _network(weights: dict[str, Tensor], path: Path) -> torch.nn.Module:
    module = imported("torch_fidelity.feature_extractor_inceptionv3", "inception")
    safe = io.BytesIO()  # torch-fidelity would execute code in the file: pass a clean copy
    torch.save(weights, safe)
    safe.seek(0)
    try:
        network: torch.nn.Module = module.FeatureExtractorInceptionV3(
            "inception-v3", ["2048", "logits_unbiased"], feature_extractor_weights_path=safe
        )
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds other weights than those of torch-fidelity's Inception-v3: get {URL}"
        ) from error
    return network
