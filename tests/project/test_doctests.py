"""The examples in the docstrings of the mathematical core."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

MODULES = [
    "adaptive",
    "analysis",
    "audit",
    "audit.declare",
    "audit.matching",
    "checks",
    "cli.long_help",
    "cli.parse",
    "errors",
    "denoiser",
    "evaluation.words",
    "extrema",
    "adapters.diffusers",
    "likelihood",
    "objective",
    "oracles",
    "parameterizations",
    "process",
    "recipes",
    "report.audit",
    "report.audit_terminal",
    "report.colors",
    "report.html",
    "report.numbers",
    "samplers",
    "schedules",
    "weightings",
]


class Finder(doctest.DocTestFinder):
    """Finds the examples of functions that the run-time checker has wrapped, too."""

    def _from_module(self, module, item):
        return super()._from_module(module, inspect.unwrap(item))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    module = importlib.import_module(f"elbos.{name}")
    runner = doctest.DocTestRunner()
    for test in Finder(exclude_empty=True).find(module):
        runner.run(test)
    assert runner.failures == 0
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert runner.tries == source.count(">>> ")  # none was missed
