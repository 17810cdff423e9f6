"""The table of docs/theory.md: every equation has a module and a test of that name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELL = r"`([^`]+)`"
ROW = re.compile(rf"^\| \d\S* \| .* \| {CELL} \| {CELL} \| {CELL} \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs/theory.md").read_text())


@pytest.mark.parametrize(("module", "tests", "name"), ROWS)
def test_an_equation_has_its_module_and_its_test(module, tests, name):
    assert (ROOT / "src/elbos" / module).exists()
    assert f"def {name}(" in (ROOT / "tests" / tests).read_text()


def test_every_section_has_rows():
    assert len(ROWS) >= 30
