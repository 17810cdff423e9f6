"""Pytest plugin: the fixture `weighting_regression` and the option `--weighting-regen`.

pytest loads this module in every run where elbos is installed; torch is imported when the fixture
is first used.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import pytest


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
    test = re.sub(r"\W+", "-", request.node.nodeid.partition("::")[2]).strip("-")
    is_written = request.config.getoption("--weighting-regen")

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

        golden = folder / f"{test}{name and '-' + name}.json"
        shown = os.path.relpath(golden)
        measured = audit.probe(loss_fn, x, num_samples, seed, title=golden.stem)
        if is_written:
            testing.write_golden(measured, golden)
        elif not golden.is_file():
            pytest.fail(f"{shown} does not exist: run pytest --weighting-regen.", False)
        elif difference := testing.Difference.between(
            measured, testing.expected_audit(golden), within
        ):
            pytest.fail(
                f"{measured.title} has changed since {shown} was written:\n{difference}\n"
                "If that is intended, run pytest --weighting-regen and commit the file.",
                False,
            )

    return check
