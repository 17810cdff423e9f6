"""How long work says how far it is, without knowing who listens."""

from collections.abc import Callable
from typing import Protocol


class OnImages(Protocol):
    """Is called with the number of images, or whatever is counted, since the last call, and whether
    they were kept from an earlier command: those say nothing about the speed.
    """

    def __call__(self, num: int, is_kept: bool = False, /) -> None: ...


Start = Callable[[str, int, str], OnImages]
"""Begins a piece of work: what, how much, in which unit; returns what to call on progress."""
