"""Pytest plugin: the fixture `weighting_regression` and the option `--weighting-regen`.

pytest loads this module in every run where elbos is installed; torch is imported when the fixture
is first used.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

_WRITTEN = pytest.StashKey[set[Path]]()  # files written in this run of pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("elbos").addoption(
        "--weighting-regen",
        action="store_true",
        help="Write the expected audits of weighting_regression instead of comparing with them.",
    )


@pytest.fixture
def weighting_regression(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Pytest fixture that tests whether a training loss has changed since a stored measurement.

    It is called as `check(loss, x, within=0.02)`. The audit is stored beside the test, in
    TEST_FILE/TEST_NAME.json, or TEST_FILE/CLASS-TEST_NAME.json for a method, and committed with it:
    `pytest --weighting-regen` writes it. The test fails if weighting, prediction type, time
    of the network, noise levels or diagnostics of the loss are others than those stored. A second
    call in the same test needs a `name`.
    """
    folder = request.path.with_suffix("")
    scope, *parameters = request.node.nodeid.partition("::")[2].removesuffix("]").split("[", 1)
    test = quote("-".join([scope.replace("::", "-"), *parameters]), safe="")
    is_written = request.config.getoption("--weighting-regen")
    written = request.config.stash.setdefault(_WRITTEN, set())

    def check(
        loss_fn: Callable[[Any, Any], Any],
        x: Any,
        within: float = 0.02,
        *,
        name: str = "",
        num_samples: int = 20_000,
        seed: int = 0,
    ) -> None:
        __tracebackhide__ = True
        from elbos import audit
        from elbos.audit import testing

        if Path(name).name != name:
            pytest.fail(f"name is {name!r}: give a name without folders.", False)
        golden = folder / f"{test}{name and '-' + name}.json"
        shown = os.path.relpath(golden)
        if golden in written:
            pytest.fail(f"{shown} is already that of another call: give each its own name.", False)
        measured = audit.probe(loss_fn, x, num_samples, seed, title=golden.stem)
        if is_written:
            testing.write_golden(measured, golden)
            written.add(golden)
            return
        try:
            expected = testing.expected_audit(golden)
        except (OSError, ValueError):
            pytest.fail(f"{shown} does not hold an audit: run pytest --weighting-regen.", False)
        if difference := testing.Difference(measured, expected, within):
            pytest.fail(
                f"{measured.title} has changed since {shown} was written:\n{difference}\n"
                "If that is intended, run pytest --weighting-regen and commit the file.",
                False,
            )

    return check
