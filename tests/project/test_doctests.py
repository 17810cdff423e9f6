"""The examples in docstrings."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text()
}


class Finder(doctest.DocTestFinder):
    """Finds the examples of functions that the run-time checker has wrapped, too."""

    def _from_module(self, module, item):
        return super()._from_module(module, inspect.unwrap(item))


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    runner = doctest.DocTestRunner()
    for test in Finder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(test)
    assert runner.failures == 0
    lines = [line for line in MODULES[name].read_text().splitlines() if ">>> " in line]
    tried = runner.tries - getattr(runner, "skips", 0)  # which Python 3.13 counts, too
    assert tried == sum("+SKIP" not in line for line in lines)  # none was missed
