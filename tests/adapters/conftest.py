"""Fixtures of adapters."""

from pipelines import folder, saved, trained  # noqa: F401, fixtures
