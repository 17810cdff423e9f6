"""Fixtures of small comparisons."""

from comparing import folder, pictures, small  # noqa: F401
