"""Fixtures of adapters."""

from pipelines import folder, latent, saved, trained  # noqa: F401, fixtures
