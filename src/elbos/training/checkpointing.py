"""Activation checkpointing: the blocks of a network are computed again in the backward pass.

Of a block its input is kept, in place of all that its backward pass needs: less memory, for about a
third more work. It changes no number: masks of dropout are drawn as they were. Where processes
share a copy of the network, a block computes again with the parameters that were gathered for its
backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from elbos.training.sharding import is_container


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network, of any author: what its lists of modules hold that has parts.

    Raises:
        ValueError: If there are none.
    """
    if not (found := [*dict.fromkeys(_blocks(network))]):
        raise ValueError(
            f"{type(network).__name__} has no blocks in a torch.nn.ModuleList, which could be "
            "computed again: leave out use_checkpointing."
        )
    return found


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost ones: those inside of a block belong to it."""
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
    for child in module.children():
        is_block = is_list and not is_container(child)
        if not is_block:
            yield from _blocks(child)
        elif any(True for _ in child.children()):
            yield child


@contextmanager
def checkpointed(found: Sequence[nn.Module]) -> Iterator[None]:
    """Let blocks be computed again in backward passes, inside of this context."""
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in found:
            del block.forward
