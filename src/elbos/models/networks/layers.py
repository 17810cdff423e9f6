r"""Common layers of the networks: the embedding of noise level and class, Fourier features of
pixels, weights that start at zero, and checks of configurations.

The log-SNR enters through sines and cosines of geometrically spaced frequencies,

$$\phi(\lambda) = (\cos \omega_1 \lambda, \ldots, \cos \omega_n \lambda,
                   \sin \omega_1 \lambda, \ldots, \sin \omega_n \lambda),$$

of periods from 200, several times the usual range $\lambda \in [-20, 20]$, down to 2: fine enough
to distinguish neighbouring noise levels, coarse enough to interpolate between those of training.
They are computed in float32 at least, also where the weights are bfloat16: near $\lambda = 20$ a
bfloat16 is off by up to 0.06.

A class label adds a learned vector. "No label" is a separate class, the first row of the table,
which replaces labels dropped for classifier-free guidance.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

NUM_FREQUENCIES = 32
SHORTEST_PERIOD = 2.0
LONGEST_PERIOD = 200.0
MAX_WRITTEN_OUT = 512  # tokens: the full attention matrix is stored
MAX_EXPONENT = 16  # a period of 2^-15, near the last digits of a float32 pixel


def logsnr_features(logsnr: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
    r"""Return Fourier features $\phi(\lambda)$ of log-SNR.

    They are sines and cosines in the dtype of `logsnr`.

    Examples:
        >>> logsnr_features(torch.zeros(1)).sum()
        tensor(32.)
    """
    log_omega = torch.linspace(
        math.log(2 * math.pi / LONGEST_PERIOD),
        math.log(2 * math.pi / SHORTEST_PERIOD),
        NUM_FREQUENCIES,
        dtype=logsnr.dtype,
        device=logsnr.device,
    )
    phase = logsnr[:, None] * log_omega.exp()
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class Embedding(nn.Module):
    r"""Joint embedding of noise level and class label.

    It is the sum of two linear maps of $\phi(\lambda)$, one after the other, and a label vector.

    Args:
        num_features: Length of the vector.
        num_classes: Number of labels; None for a network without labels.
    """

    def __init__(self, num_features: int, num_classes: int | None) -> None:
        super().__init__()
        self.linear_in = nn.Linear(2 * NUM_FREQUENCIES, num_features)
        self.linear_out = nn.Linear(num_features, num_features)
        self.label = None if num_classes is None else nn.Embedding(1 + num_classes, num_features)

    def forward(
        self, logsnr: Float[Tensor, " b"], cond: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b f"]:
        """Return the embedding vector of each sample.

        A negative label stands for no label; so does None.
        """
        dtype = self.linear_in.weight.dtype
        phi = logsnr_features(logsnr.to(torch.promote_types(dtype, torch.float32)))
        embedding: Tensor = self.linear_out(F.silu(self.linear_in(phi.to(dtype))))
        if self.label is None:
            if cond is not None:
                raise ValueError(
                    "this network was built without labels: "
                    "pass cond=None, or build it with num_classes."
                )
            return F.silu(embedding)
        if cond is None:
            cond = torch.full(logsnr.shape, -1, device=logsnr.device)
        if cond.shape != logsnr.shape or cond.is_floating_point():
            raise ValueError(
                f"class labels are {cond.dtype} of shape {tuple(cond.shape)} for {len(logsnr)} "
                "samples: give one whole number per sample, [b]."
            )
        row = (cond.long() + 1).clamp(min=0)  # 0: no label; 1 + k: class k
        try:
            return F.silu(embedding + self.label(row))
        except IndexError as error:  # the check of the kernel, which needs no synchronization
            num_classes = self.label.num_embeddings - 1
            raise ValueError(
                f"class label {int(cond.max())} is out of range: "
                f"this network knows 0 to {num_classes - 1}, and negative ones as no label."
            ) from error


class FourierFeatures(nn.Module):
    r"""Layer that appends Fourier features to the pixels of an image.

    The features are $e^{-(2^n\pi\tilde\sigma)^2/2}\,(\sin, \cos)(2^n\pi z)$.

    Clean images differ from noisy ones in digits of $z$ that bfloat16 cannot represent; the
    features represent them. The factor is the expectation of a feature over the noise, relative to
    the noiseless feature: where the noise exceeds a period, the feature carries no information and
    vanishes.

    Args:
        exponents: The exponents $n$ of the frequencies.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630, appendix C, without the factor
    """

    def __init__(self, exponents: tuple[int, ...]) -> None:
        super().__init__()
        self.frequencies = [2.0**n * math.pi for n in exponents]

    def forward(
        self, z: Float[Tensor, "b c h w"], logsnr: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k h w"]:
        sigma = torch.exp(-logsnr / 2)[:, None, None, None]
        parts = [z]
        for frequency in self.frequencies:
            size = torch.exp(-0.5 * (frequency * sigma).square())
            parts += [size * torch.sin(frequency * z), size * torch.cos(frequency * z)]
        return torch.cat(parts, dim=1)


def attended(
    q: Float[Tensor, "b k n d"], k: Float[Tensor, "b k n d"], v: Float[Tensor, "b k n d"]
) -> Float[Tensor, "b k n d"]:
    """Return the scaled dot-product attention of queries, keys and values.

    Written out for few tokens on the CPU, where torch's kernel is three times slower for 49 tokens,
    forward and backward.
    """
    if q.device.type != "cpu" or q.shape[2] > MAX_WRITTEN_OUT:
        return F.scaled_dot_product_attention(q, k, v)
    products = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    mixed: Tensor = products.softmax(3).to(v.dtype) @ v
    return mixed


def set_zero(*modules: nn.Module) -> None:
    """Set all parameters of the given modules to zero.

    A residual branch then initially adds nothing.
    """
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def require_images(name: str, shape: tuple[int, ...], factor: int, what: str) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"{name} takes images, (channels, height, width), not data of shape {shape}: "
            "use the MLP for vectors."
        )
    for side in shape[1:]:
        if side % factor:
            raise ValueError(
                f"image side {side} is not divisible by {factor}, {what}: change the patch size "
                "or give fewer channels."
            )


def require_exponents(exponents: tuple[int, ...]) -> None:
    for exponent in exponents:
        if not 0 <= exponent <= MAX_EXPONENT:
            raise ValueError(
                f"a Fourier exponent is {exponent}: give whole numbers from 0 to "
                f"{MAX_EXPONENT}; 7 and 8 are for 256 pixel values."
            )


def require_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}: give a number from 0 to below 1.")
