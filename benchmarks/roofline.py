r"""What a training step's network costs on a GPU, counted without one.

The network runs forward and backward on `meta`, tensors that have a shape, a type and a memory
layout but no data, under the rules of CUDA's autocast, and every kernel that it would start is
counted: its FLOPs, if it is a matrix product or a convolution, and the bytes that it reads and
writes. The prediction is the roofline's,

$$T = \sum_k \max\left(\frac{\mathrm{FLOPs}_k}{989\,\mathrm{TFLOP/s}},
    \frac{\mathrm{bytes}_k}{3.35\,\mathrm{TB/s}}\right),$$

with an H100's dense bfloat16 peak and bandwidth: what cannot be beaten by these kernels. In truth
matrix products reach 0.6 to 0.8 of the peak, small kernels cost some microseconds each, and
`torch.compile` joins kernels without FLOPs into few, which saves bytes. Optimizer, average and data
are not in it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from elbos.models.networks import NetworkConfig
from elbos.training.state import in_format, memory_format

PEAK = 989e12  # FLOP/s of an H100 SXM in dense bfloat16, and its bytes/s
BANDWIDTH = 3.35e12
BFLOAT16 = {"linear", "conv2d"}  # what CUDA's autocast computes in bfloat16,
FLOAT32 = {  # in float32,
    *("group_norm", "layer_norm", "interpolate", "softmax", "rsqrt", "square"),
    *("pow", "exp", "norm", "normalize"),
}
WIDEST = {"addcmul"}  # and in the widest type among the arguments: of the operations that we use
aten = torch.ops.aten
_CONVOLUTIONS = {aten.convolution, aten.convolution_backward}
_VIEWS = {aten.detach, aten.lift_fresh, aten._unsafe_view, aten._reshape_alias}
_EMPTY = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}


@dataclass
class Cost:
    """What forward and backward cost, of one batch.

    Attributes:
        num_parameters: Weights.
        num_flops: Of matrix products and convolutions, 2 per multiply-add.
        num_bytes: Read and written by all kernels.
        num_kernels: Operations that do something.
        num_copied: Bytes of copies to another memory layout, read and written.
        saved: Bytes kept from forward to backward, by type, without weights.
        seconds: The roofline's prediction.
        matmul_seconds: Its part of kernels with FLOPs.
    """

    num_parameters: int = 0
    num_flops: int = 0
    num_bytes: int = 0
    num_kernels: int = 0
    num_copied: int = 0
    saved: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    matmul_seconds: float = 0.0


def cost(
    network: NetworkConfig, shape: tuple[int, ...], num_classes: int | None, batch_size: int
) -> Cost:
    """The cost of a batch on a GPU in bfloat16, with weights and images as the trainer has them."""
    counted = Cost()
    autocast = CudaAutocast()
    with torch.device("meta"):
        module = network.build(shape, num_classes).train()
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        z = in_format(torch.zeros(batch_size, *shape), memory_format(module))
        logsnr = torch.zeros(batch_size)
        cond = None if num_classes is None else torch.zeros(batch_size, dtype=torch.long)
        counted.num_parameters = sum(p.numel() for p in module.parameters())
        kept = _Kept(counted, set(module.parameters()), autocast.weights)
        with _Counting(counted):
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor), autocast:
                y = module(z, logsnr, cond)
            torch.autograd.backward((y - z).square().mean())
    return counted


class CudaAutocast(TorchFunctionMode):
    """What `torch.autocast("cuda", torch.bfloat16)` does, on `meta`, which has no autocast.

    Attention is the kernel that CUDA has for it, and `meta` has not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self.weights: dict[int, Tensor] = {}  # cast once for all uses

    def __enter__(self) -> "CudaAutocast":
        norms = "elbos.models.networks.norms.without_autocast"
        self.patched = mock.patch(norms, lambda device: self.disabled())
        self.patched.start()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.patched.stop()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Where the network turns autocast off."""
        before, self.is_enabled = self.is_enabled, False
        yield
        self.is_enabled = before

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        if self.is_enabled:
            if name in BFLOAT16 or name == "scaled_dot_product_attention":
                args, kwargs = self.cast((args, kwargs), torch.bfloat16)
            elif name in FLOAT32:
                args, kwargs = self.cast((args, kwargs), torch.float32)
            elif name in WIDEST:
                dtypes = {t.dtype for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
                widest = torch.float32 if torch.float32 in dtypes else torch.bfloat16
                args, kwargs = self.cast((args, kwargs), widest)
        if name == "scaled_dot_product_attention":
            return aten._scaled_dot_product_flash_attention(*args, **kwargs)[0]
        return func(*args, **kwargs)

    def cast(self, arguments: Any, dtype: torch.dtype) -> Any:
        def one(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.dtype == dtype:
                return tensor
            if not (tensor.is_leaf and tensor.requires_grad):  # as torch's: others may be freed
                return tensor.to(dtype)
            if id(tensor) not in self.weights:
                self.weights[id(tensor)] = tensor.to(dtype)
            return self.weights[id(tensor)]

        return tree_map_only(Tensor, one, arguments)


class _Kept:
    """Counts what is kept for the backward pass, each memory once."""

    def __init__(self, counted: Cost, weights: set[Tensor], cast: dict[int, Tensor]) -> None:
        self.cost, self.weights, self.cast, self.seen = counted, weights, cast, set[int]()

    def __call__(self, tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        storage = tensor.untyped_storage()
        is_weight = any(base is one for one in (*self.weights, *self.cast.values()))
        if not is_weight and storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.cost.saved[str(tensor.dtype).removeprefix("torch.")] += storage.nbytes()
        return tensor


class _Counting(TorchDispatchMode):
    """Counts the kernels."""

    def __init__(self, counted: Cost) -> None:
        super().__init__()
        self.cost = counted

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, packet = kwargs or {}, func._overloadpacket
        out = func(*args, **kwargs)
        last = torch.channels_last
        if packet in _CONVOLUTIONS and args[0].is_contiguous(memory_format=last):
            out = tree_map_only(Tensor, lambda t: in_format(t, last), out)  # lost on `meta`
        if func.is_view or packet in _VIEWS or packet in _EMPTY:
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        num_bytes = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)
        count = flop_registry.get(packet)
        num_flops = int(count(*args, **kwargs, out_val=out)) if count else 0
        seconds = max(num_flops / PEAK, num_bytes / BANDWIDTH)
        self.cost.num_flops += num_flops
        self.cost.num_bytes += num_bytes
        self.cost.num_kernels += 1
        self.cost.num_copied += num_bytes if packet is aten.clone else 0
        self.cost.seconds += seconds
        self.cost.matmul_seconds += seconds if num_flops else 0.0
        return out
