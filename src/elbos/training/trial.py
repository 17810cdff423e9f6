"""Test of a user-defined network before training: one forward and one backward pass."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.base.conditions import replace_conds, to_device
from elbos.base.errors import message
from elbos.base.processes import Processes
from elbos.theory.denoiser import Denoiser
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.execution import autocast, blocks, checkpointed
from elbos.training.sharding import returning_views, shard, unsharded
from elbos.training.state import in_format, memory_format
from elbos.training.validation import require_measurable

NUM_SAMPLES = 4
_MAX_DIFFERENCE = 0.1  # relative, of gradient norms: bfloat16 changes norms by a hundredth
_Loss = Callable[[nn.Module], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Trial:
    """Result of testing a network before training.

    Says how several processes can share the training of the network.
    """

    uses_all: bool = True  # every trained weight has a gradient
    by_blocks: bool = True  # FSDP2 may gather the network block by block


def require_trainable(
    network: nn.Module, config: Config, data: Samples, processes: Processes
) -> Trial:
    """Test that a network can be trained and validated.

    A ValueError is raised if not; otherwise the result says how several processes can share the
    training. A copy of the network computes the gradients of four samples and the ELBO of
    validation samples. All processes must call this function.
    """
    loss = _loss(config, data, processes.device, memory_format(network))
    tried, by_blocks, shape = copy.deepcopy(network).train(), True, data.spec.shape
    name = type(network).__name__
    with _refusing(f"The network {name} cannot be trained on x of shape {shape}"):
        norms = _gradient_norms(tried, loss(tried))
        # the averages of the weights, copied before, would lack tensors that a forward pass makes
        before, after = (
            {key: (t.shape, t.dtype) for key, t in (*one.named_parameters(), *one.named_buffers())}
            for one in (network, tried)
        )
        for key in before | after:
            if before.get(key) != after.get(key):
                raise ValueError(
                    f"{key} is made or reshaped by a forward pass: make it in __init__, or call "
                    "the network once before training"
                )
        copy.deepcopy(tried)  # as in `Run`; fails if the network stores activations
    denoiser = Denoiser(tried.eval(), config.parameterization)
    with _refusing("The validation set cannot be measured"), autocast(config, processes.device):
        require_measurable(denoiser, config, data, processes.device)
    if config.execution.shard_size > 1 and processes.num > 1:
        del tried, denoiser
        with _refusing(f"FSDP2 cannot shard {name}"):
            by_blocks = _can_gather_blocks(network, config, processes, loss, norms)
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    return Trial(all(key in norms for key in trained), by_blocks)


def _loss(
    config: Config, data: Samples, device: torch.device, format_: torch.memory_format
) -> _Loss:
    # if labels are dropped, every other sample has the null condition
    num = min(config.batch_size, NUM_SAMPLES)
    rows = torch.arange(num)
    x, cond = data.training.batch(rows % len(data.training))
    x = in_format(x.to(device), format_)
    cond = to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:
        cond = replace_conds(cond, data.null_cond, rows % 2 == 0)
    logsnr = config.schedule.logsnr((rows + 0.5) / num)

    def loss(network: nn.Module) -> Float[Tensor, " b"]:
        again = blocks(network) if config.execution.use_checkpointing else []
        devices = [device] if device.type == "cuda" else []
        with checkpointed(again), autocast(config, device), torch.random.fork_rng(devices):
            torch.manual_seed(0)  # seed of dropout masks
            return config.objective(network, x, torch.zeros_like(x), logsnr, cond)

    return loss


def _gradient_norms(network: nn.Module, loss: Float[Tensor, " b"]) -> dict[str, float]:
    if not loss.requires_grad:
        raise ValueError("its output has no gradient: compute it from weights, with grad")
    loss.mean().backward()  # type: ignore[no-untyped-call]
    norms = {}
    for name, parameter in network.named_parameters():
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            raise ValueError(f"{name} has a sparse gradient: make it dense, with sparse=False")
        if gradient is not None and gradient.numel():
            norms[name] = unsharded(gradient).norm().item()
    network.zero_grad()
    return norms


def _can_gather_blocks(
    network: nn.Module, config: Config, processes: Processes, loss: _Loss, norms: dict[str, float]
) -> bool:
    """Return whether FSDP2 computes correct gradients when it gathers parameters block by block.

    It does not if blocks are not just called, or if returned views are changed in place; then the
    network is gathered at once. Raise a ValueError if the gradients differ in that case, too.
    """
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for by_blocks in (True, False):
        shared = copy.deepcopy(network).train()
        shard(shared, processes, config.execution.shard_size, by_blocks=by_blocks, dtype=dtype)
        try:
            with returning_views():
                found = _gradient_norms(shared, loss(shared))
        except Exception:  # any error of the user's code
            if not by_blocks:
                raise
            continue
        total, expected = (torch.tensor(list(each.values())).norm() for each in (found, norms))
        if found.keys() == norms.keys() and (total - expected).abs() <= _MAX_DIFFERENCE * expected:
            break
    else:
        raise ValueError("its gradients differ from those of one process")
    if not by_blocks and processes.is_main:
        warnings.warn(
            f"The weights of {type(network).__name__} are gathered at once and not block by block, "
            "which takes more memory: its blocks are used other than by a call, or their outputs "
            "are changed in place.",
            stacklevel=2,
        )
    return by_blocks


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # any error of the user's code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{message(error)}") from error
