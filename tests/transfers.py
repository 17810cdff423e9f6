"""Counts what a host waits for, where `meta` stands in for a GPU, and how images are stored."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")


class Transfers(TorchDispatchMode):
    """Counts what the host waits for: copies between host and device, and values asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.copies: list[str] = []  # also those that nobody waits for

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, op.overloadpacket.__name__
        devices = {a.device for a in args if isinstance(a, Tensor)}
        devices |= {torch.device(kwargs["device"])} if kwargs.get("device") else set()
        is_copy = name in ("_to_copy", "copy_") and len(devices) > 1
        is_masked = name in ("index", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1] or ()
        )
        self.copies += [name] * is_copy
        is_waiting = META in devices and (name in WAITING or is_masked)
        if is_waiting or (is_copy and not kwargs.get("non_blocking")):
            self.found.append(name)
        if name == "_local_scalar_dense" and META in devices:
            return 0.0
        if is_copy and args[0].device == META:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return op(*args, **kwargs)


class Convolutions(TorchDispatchMode):
    """For each convolution, whether its input has channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.overloadpacket is torch.ops.aten.convolution:
            self.found.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return op(*args, **(kwargs or {}))
