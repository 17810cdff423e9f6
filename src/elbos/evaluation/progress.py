"""How long work says how far it is, without knowing who listens."""

from collections.abc import Callable

OnImages = Callable[[int], None]
"""Called with the number of images, or whatever is counted, that were done since the last call."""

Start = Callable[[str, int, str], OnImages]
"""Begins a piece of work: what, how much, in which unit; returns what to call on progress."""
