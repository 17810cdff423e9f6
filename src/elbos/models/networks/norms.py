r"""Normalization and upsampling layers that keep the precision and memory layout of the input.

Autocast on GPUs computes normalizations and upsampling in float32 and returns float32, and torch's
group norm there returns contiguous memory: everything behind it, until the next convolution, then
moves twice the bytes, and the convolution copies its input back to channels-last. Here the
statistics are in float32, and the output is as the input was. Of groups $g$ with mean $\mu_g$ and
variance $\sigma_g^2$ it is one multiply-add per value, with scale and shift in float32,

$$h' = s\,h + (b - s\,\mu_g), \qquad s = w / \sqrt{\sigma_g^2 + \varepsilon}.$$

Squares, and products with gradients, are summed of values around the mean: the difference of large
sums has few digits. Values are centred by the mean in their own precision, $m_g$, from which
$\mu_g$ differs by $\delta_g$: $\sigma_g^2 = \langle (h - m_g)^2 \rangle_g - \delta_g^2$.

On the CPU, torch's group norm keeps precision and layout, and is faster.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # some devices, such as meta, have no autocast


class GroupNorm(nn.GroupNorm):
    """Group normalization that keeps the precision and memory layout of its input."""

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if h.device.type == "cpu":
            return super().forward(h)
        with without_autocast(h.device):
            return group_norm(h, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(
    h: Float[Tensor, "b c h w"],
    num_groups: int,
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    eps: float,
) -> Float[Tensor, "b c h w"]:
    """Normalize `h` over groups of channels.

    Statistics are in float32 or wider. The result is differentiable only once.
    """
    out: Tensor = _GroupNorm.apply(h, num_groups, weight, bias, eps)  # type: ignore[no-untyped-call]
    return out


class _GroupNorm(torch.autograd.Function):
    """Autograd function for group normalization with explicit gradients.

    Forward and backward take one multiply-add per value.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        num = h[0].numel() // num_groups
        mean = _by_group(h.sum((2, 3), dtype=_wide(h)), num_groups) / num
        centred, rest = _centred(h, mean)
        norms = torch.linalg.vector_norm(centred, dim=(2, 3), dtype=_wide(h))
        variance = _by_group(norms * norms, num_groups) / num - rest * rest
        rate = torch.rsqrt(variance.clamp(min=0) + eps)
        ctx.save_for_backward(h, weight, mean, rate)
        ctx.num_groups = num_groups
        scale = rate * _in_groups(weight.to(rate), num_groups)
        return _multiply_add(h, scale, _in_groups(bias.to(rate), num_groups) - scale * mean)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r"""Return the gradients of the loss with respect to input, weight and bias.

        $\partial h = r\,(wg - \langle wg\rangle - \hat h\,\langle wg \hat h\rangle)$, where $r$ is
        the inverse standard deviation, $\hat h = r (h - \mu)$ and $\langle\cdot\rangle$ the mean
        over a group.
        """
        h, weight, mean, rate = ctx.saved_tensors
        num_groups = ctx.num_groups
        num = h[0].numel() // num_groups
        centred, rest = _centred(h, mean)
        grad_sum = _in_groups(grad.sum((2, 3), dtype=_wide(h)), num_groups)
        product = _in_groups((grad * centred).sum((2, 3), dtype=_wide(h)), num_groups)
        projected = rate * (product - rest * grad_sum)  # sums of g times normalized h
        w = _in_groups(weight.to(rate), num_groups)
        slope = -rate * rate * (w * projected).sum(2, keepdim=True).expand_as(product) / num
        offset = -rate * (w * grad_sum).sum(2, keepdim=True) / num - slope * rest
        grad_h = _multiply_add(centred, slope, offset).addcmul_(grad, _aligned(rate * w))
        grad_weight, grad_bias = (s.sum(0).flatten().to(weight) for s in (projected, grad_sum))
        return grad_h, None, grad_weight, grad_bias, None


def _wide(h: Tensor) -> torch.dtype:
    return torch.promote_types(h.dtype, torch.float32)


def _in_groups(values: Tensor, num_groups: int) -> Tensor:
    return values.reshape(*values.shape[:-1], num_groups, -1)


def _by_group(values: Float[Tensor, "b c"], num_groups: int) -> Float[Tensor, "b g 1"]:
    return _in_groups(values, num_groups).sum(2, keepdim=True)


def _aligned(values: Float[Tensor, "b g k"]) -> Float[Tensor, "b c 1 1"]:
    return values.flatten(1)[:, :, None, None]


def _centred(h: Tensor, mean: Float[Tensor, "b g 1"]) -> tuple[Tensor, Float[Tensor, "b g 1"]]:
    """Subtract the group mean from `h`.

    The difference is in the precision of `h`; the rounding error of the mean is also returned.
    """
    rounded = mean.to(h.dtype)
    num_channels = h.shape[1] // mean.shape[1]
    return h - _aligned(rounded.expand(-1, -1, num_channels)), mean - rounded.to(mean)


def _multiply_add(
    h: Tensor, scale: Float[Tensor, "b g k"], shift: Float[Tensor, "b g k"]
) -> Tensor:
    # one kernel; the compiler takes no `out` in this layout, and joins the cast
    out = None if torch.compiler.is_compiling() else torch.empty_like(h)
    return torch.addcmul(_aligned(shift), h, _aligned(scale), out=out).to(h.dtype)


def layer_norm(
    h: Float[Tensor, "*b c"], weight: Float[Tensor, " c"] | None = None
) -> Float[Tensor, "*b c"]:
    with without_autocast(h.device):
        return F.layer_norm(h, h.shape[-1:], None if weight is None else weight.to(h.dtype))


def upsampled(h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    with without_autocast(h.device):
        return F.interpolate(h, scale_factor=2.0)
