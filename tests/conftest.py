"""Fixtures of all tests. Shapes and dtypes of elbos are checked at run time, in tests only."""

import gc
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import jaxtyping
import pytest
import torch
import typecheck
from browsing import CHROMIUM, FLAGS
from torch import Tensor

# Before anything imports elbos: every annotation in it is checked.
typecheck.install()

with suppress(ModuleNotFoundError):  # in the environment of project/core.py
    from commands import at_once, at_step, elbos, runs, trained  # noqa: F401, fixtures

# Jobs in the background of a script ignore it, and so would the processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # a pool of threads does not survive the forks of forking.py
os.fsync = lambda _: None  # no test loses power, and each waits for the disk hundreds of times


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="every tenth loss of each corpus alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    num_seen: Counter[str] = Counter()
    chosen: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        function = item.nodeid.partition("[")[0]
        is_tenth = item.path.parent.name != "audit" or num_seen[function] % 10 == 0
        num_seen[function] += 1
        (chosen if is_tenth else left_out).append(item)
    items[:] = chosen
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage looks through it again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def checked_calls() -> None:
    typecheck.begin_test()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """No test's numbers depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """The library as users call it: annotations are not checked in this test."""
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def randn(generator: torch.Generator) -> Callable[..., Tensor]:
    """Standard normal numbers of a given shape, float64."""
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
