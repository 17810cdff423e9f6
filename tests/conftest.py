"""Fixtures of all tests. Shapes and dtypes of elbos are checked at run time, in tests only."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from torch import Tensor

# Before anything imports elbos: every annotation in it is checked on every call.
jaxtyping.install_import_hook("elbos", "typecheck.check")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def randn(generator: torch.Generator) -> Callable[..., Tensor]:
    """Standard normal numbers of a given shape, float64."""
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
