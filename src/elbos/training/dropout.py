r"""Masks of dropout by sample: what is dropped is a function of (seed, step, sample, layer, value).

torch draws masks one after the other, so that they would change with the number of processes and
the parts of a batch. Here Philox gives each sample and layer a key of two words, $k_1, k_2$, and
a hash of 32 bits decides about the values $2i$ and $2i + 1$ of the sample, by its halves:

$$h_i = f_{15}(M_2\,(f_{15}(M_1\,f_{16}(i \oplus k_1)) \oplus k_2)), \qquad
  f_s(x) = x \oplus \lfloor x / 2^s \rfloor.$$

It is Wellons' hash of integers with a second key, and faster than torch's generator on a CPU.

References:
    Srivastava et al. (2014), https://jmlr.org/papers/v15/srivastava14a.html; Wellons (2018),
    https://github.com/skeeto/hash-prospector (constants of least bias)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Int16, Int32, Int64, Shaped
from torch import Tensor, nn

from elbos.philox import Purpose, Stream

_MULTIPLIERS = 0x21F0AAAD, 0xD35A2D97 - 2**32  # as signed words, which wrap around


def layers(network: nn.Module) -> dict[str, nn.Dropout]:
    """The layers of dropout of a network, by name, of which the masks may be drawn here."""
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Dropout and 0 < module.p < 1 and not module.inplace
    }


@contextmanager
def observed(network: nn.Module, num: int) -> Iterator[list[str]]:
    """A context for one forward pass of `num` samples, and a list that then names the layers that
    got them along the first axis, once: a second call would drop the same values again.
    """
    named = layers(network)
    lengths: dict[str, list[int]] = {name: [] for name in named}

    def note(name: str, _: nn.Module, __: object, h: Tensor) -> None:
        lengths[name].append(len(h) if h.ndim else 0)

    hooks = [layer.register_forward_hook(partial(note, name)) for name, layer in named.items()]
    found: list[str] = []
    yield found
    for hook in hooks:
        hook.remove()
    found += [name for name, each in lengths.items() if each == [num]]


class Masks:
    """The masks of layers of dropout.

    Args:
        layers: They, each called once in a forward pass, on samples along the first axis.
        seed: Of the training.
    """

    def __init__(self, layers: Sequence[nn.Dropout], seed: int) -> None:
        self.layers = layers
        self.forwards = [partial(self._forward, layer, i) for i, layer in enumerate(layers)]
        self.stream = Stream.from_seed(seed, Purpose.DROPOUT)
        self.keys: Int32[Tensor, "b layers 2"] = torch.empty(0)

    def draw(self, step: Int64[Tensor, ""], samples: Int64[Tensor, " b"]) -> None:
        """Draw the keys for the next forward pass, of samples by their numbers in the batch."""
        if self.layers:
            words = self.stream.words(step, samples, len(self.layers))
            self.keys = words[:, :, :2].to(torch.int32)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the layers drop by these masks, in training, inside of this context."""
        for layer, forward in zip(self.layers, self.forwards, strict=True):
            layer.forward = forward  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    def _forward(
        self, layer: nn.Dropout, i: int, h: Shaped[Tensor, "b *d"]
    ) -> Shaped[Tensor, "b *d"]:
        if layer.training and layer.p < 1:
            return dropped_out(h, self.keys[:, i], layer.p)
        return F.dropout(h, layer.p, layer.training)


def dropped_out(
    h: Shaped[Tensor, "b *d"], keys: Int32[Tensor, "b 2"], p: float
) -> Shaped[Tensor, "b *d"]:
    r"""Values that are 0 with probability $p$, to $2^{-16}$, and otherwise over $1 - p$.

    Those of images are numbered with channels last, as in the memory of the networks that are fast;
    the mask is the same in any memory format.
    """
    num_dropped = min(round(p * 2**16), 2**16 - 1)
    is_kept = hashed(keys, h[0].numel()) >= num_dropped - 2**15
    if h.ndim == 4:
        is_kept = is_kept.reshape(h.movedim(1, 3).shape).movedim(3, 1)
    return h * is_kept.reshape(h.shape) * (2**16 / (2**16 - num_dropped))


def hashed(keys: Int32[Tensor, "b 2"], num: int) -> Int16[Tensor, "b num"]:
    """Signed words of 16 random bits."""
    first, second = keys.unsqueeze(2).unbind(1)
    x = torch.arange((num + 1) // 2, dtype=torch.int32, device=keys.device) ^ first
    x ^= x >> 16 & 0xFFFF
    x *= _MULTIPLIERS[0]
    x ^= x >> 15 & 0x1FFFF
    x ^= second
    x *= _MULTIPLIERS[1]
    x ^= x >> 15 & 0x1FFFF
    return x.view(torch.int16)[:, :num]
