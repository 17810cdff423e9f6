"""A trial of a network that is not ours, before anything is written."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elbos.base.conditions import cond_at, replace_conds, to_device
from elbos.base.errors import message
from elbos.theory.denoiser import Denoiser
from elbos.training.checkpointing import blocks, checkpointed
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.machine import autocast
from elbos.training.processes import Processes
from elbos.training.sharding import as_bytes, returning_views, shard, sharded_parts
from elbos.training.state import in_format, memory_format
from elbos.training.validation import require_measurable

NUM_TRIED = 4  # samples
NUM_LEVELS = 16  # noise levels at which the same weights have to be used


@dataclass(frozen=True)
class Trial:
    """Properties of a network that several processes are to train.

    Attributes:
        uses_all: Whether every weight has a gradient.
        by_blocks: Whether those that share a copy may gather its blocks one by one.
    """

    uses_all: bool = True
    by_blocks: bool = True


class _Losses:
    """The losses of a network, or of a copy, on some samples of a run's data."""

    def __init__(
        self, network: nn.Module, config: Config, data: Samples, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.num = min(config.batch_size, NUM_TRIED)
        rows = torch.arange(self.num)
        x, cond = data.training.batch(rows % len(data.training))
        self.x = in_format(x.to(device), memory_format(network))
        self.cond = to_device(cond, device) if config.use_labels else None
        if self.cond is not None and config.label_dropout > 0:
            self.cond = replace_conds(self.cond, data.null_cond, rows % 2 == 0)

    def __call__(self, network: nn.Module) -> Float[Tensor, " b"]:
        """Those of all samples, each at a noise level of its own."""
        rows = torch.arange(self.num)
        return self.at(network, rows, (rows + 0.5) / self.num)

    def at(
        self, network: nn.Module, rows: Int64[Tensor, " b"], times: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Those of some samples at times of the schedule."""
        config, x = self.config, self.x[rows]
        again = blocks(network) if config.execution.use_checkpointing else []
        with checkpointed(again), autocast(config, self.device):
            logsnr, cond = config.schedule.logsnr(times), cond_at(self.cond, rows)
            return config.objective(network, x, torch.zeros_like(x), logsnr, cond)


def require_trainable(
    network: nn.Module, config: Config, data: Samples, processes: Processes
) -> Trial:
    """Raise a ValueError if a network has no loss with a gradient on a few samples, or no bound on
    those for validation, or several processes, all of which call this, cannot share it. Computed on
    copies, one at a time: what cannot be trained leaves no trace.
    """
    losses, by_blocks = _Losses(network, config, data, processes.device), True
    tried, name = copy.deepcopy(network).train(), type(network).__name__
    with _refusing(f"The network {name} cannot be trained on x of shape {tuple(losses.x.shape)}"):
        loss = losses(tried)
        _require_all_made(network, tried)
        buffers = [buffer.clone() for buffer in tried.buffers()]
        trained = _differentiated(tried, loss)
        if config.execution.use_checkpointing:
            why = "twice, as blocks are computed again: leave out use_checkpointing"
            _require_same(tried.named_buffers(), buffers, why)
        copy.deepcopy(tried)  # as of a `Run`; a network that keeps its activations has none
        if processes.num > 1:
            why = "by forward, which several processes lose: leave weights to the optimizer"
            _require_same(tried.named_parameters(), network.parameters(), why)
            _require_all_called(tried, losses)
            if config.execution.shard_size > 1:
                del tried, loss
                tried, by_blocks = _shared(network, processes, losses, trained)
    denoiser = Denoiser(tried.eval(), config.parameterization)
    with _refusing("The validation set cannot be measured"), autocast(config, processes.device):
        require_measurable(denoiser, config, data, processes.device)
    named = network.named_parameters()
    return Trial(all(name in trained for name, p in named if p.requires_grad), by_blocks)


def _differentiated(network: nn.Module, loss: Float[Tensor, " b"]) -> set[str]:
    """The names of the weights that have a gradient of a loss, with elements."""
    if not loss.requires_grad:
        raise ValueError("its output has no gradient: compute it from weights, with grad")
    loss.mean().backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        if gradient.is_sparse:
            raise ValueError(f"{name} has a sparse gradient: make it dense, with sparse=False")
    network.zero_grad()
    return {name for name, gradient in gradients.items() if gradient.numel()}


def _require_all_made(network: nn.Module, tried: nn.Module) -> None:
    """Raise a ValueError if a forward pass makes weights or buffers, which averages lack."""
    before, after = (
        {name: (t.shape, t.dtype) for name, t in chain(one.named_parameters(), one.named_buffers())}
        for one in (network, tried)
    )
    for name in before | after:
        if before.get(name) != after.get(name):
            raise ValueError(
                f"{name} is made or given another shape by a forward pass: make it in __init__, or "
                "call the network once before."
            )


def _require_same(
    tensors: Iterable[tuple[str, Tensor]], before: Iterable[Tensor], why: str
) -> None:
    """Raise a ValueError if some tensor is not what it was."""
    for (name, now), old in zip(tensors, before, strict=True):
        if not torch.equal(as_bytes(now.contiguous()), as_bytes(old.contiguous())):  # NaN is NaN
            raise ValueError(f"{name} is written {why}")


def _require_all_called(tried: nn.Module, losses: _Losses) -> None:
    """Raise a ValueError if some weights are used for some samples alone: processes average the
    gradients of the same weights, and wait for each other in each layer.
    """
    found: list[set[Tensor]] = []
    for i in range(NUM_LEVELS):
        pair = torch.tensor([i, i]) % losses.num  # a BatchNorm takes no single sample
        found.append(_ends(losses.at(tried, pair, torch.full((2,), (i + 0.5) / NUM_LEVELS))))
    some = set().union(*found) - found[0].intersection(*found)
    if names := sorted(name for name, weight in tried.named_parameters() if weight in some):
        raise ValueError(
            f"{names[0]} has a gradient of some samples alone, and several processes need those of "
            "the same weights: call each layer in every forward pass, with no samples if need be"
        )


def _ends(loss: Float[Tensor, " b"]) -> set[Tensor]:
    """The weights that a loss is computed from: the ends of its graph."""
    nodes = [loss.grad_fn] if loss.grad_fn else []
    known = set(nodes)
    for node in nodes:
        more = {before for before, _ in node.next_functions if before is not None} - known
        known |= more
        nodes += more
    return {node.variable for node in nodes if hasattr(node, "variable")}


def _shared(
    network: nn.Module, processes: Processes, losses: _Losses, trained: set[str]
) -> tuple[nn.Module, bool]:
    """A copy that is cut up among the processes, in which the weights that are `trained` have a
    gradient; and whether its blocks are gathered one by one. Blocks are not if something else than
    calling them uses their weights, or the forward pass differentiates them, or changes in place
    views that they return.
    """
    for by_blocks in (True, False):
        shared = copy.deepcopy(network).train()
        dtype = torch.bfloat16 if losses.config.precision == "bf16" else torch.float32
        size = losses.config.execution.shard_size
        shard(shared, processes, size, by_blocks=by_blocks, dtype=dtype)
        with suppress(Exception) if by_blocks else nullcontext():
            with _watched(sharded_parts(shared)) as early, returning_views():
                loss = losses(shared)
            if not early and _differentiated(shared, loss) == trained:
                break
    else:
        raise ValueError("some of its weights have no gradient on several processes")
    if not by_blocks and processes.is_main:
        warnings.warn(
            f"The weights of {type(network).__name__} are gathered all at once and not block by "
            "block, which takes more memory: its blocks are used in other ways than by a call, or "
            "turn autocast off, or what they return is changed in place.",
            stacklevel=2,
        )
    return shared, by_blocks


@contextmanager
def _watched(parts: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A context for a forward pass, and a list of the gradients that parts of the network are given
    already inside of it.
    """
    early: list[Tensor] = []

    def watch(_: nn.Module, __: object, output: object) -> None:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(early.append)  # type: ignore[no-untyped-call]

    hooks = [part.register_forward_hook(watch) for part in parts]
    yield early
    for hook in hooks:
        hook.remove()


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Make any error a ValueError that says what cannot be done, and why."""
    try:
        yield
    except Exception as error:  # of the user's code, of any type
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{message(error)}") from error
