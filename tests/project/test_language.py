"""First lines of docstrings stand alone: at least four words, first a verb or a textbook noun."""

import ast
import json
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "elbos"
COUNTS = Path(__file__).with_name("language.json")
"""Docstrings of each module that still fail; numbers only fall: `python test_language.py`."""
NOT_FIRST = re.compile(r"(What|Whether|Those|These|Of|From|With|In|As|Their|It|They)\b")
MODULES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py"))


def first_lines(tree):
    """The first lines of the docstrings of a module and of all in it, by line number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                line = node.lineno if hasattr(node, "lineno") else 1
                yield line, " ".join(text.split("\n\n")[0].split())


def is_plain(line):
    return not NOT_FIRST.match(line) and len(line.split()) >= 4


def failing(module):
    lines = first_lines(ast.parse((SOURCE / module).read_text()))
    return [f"{module}:{number}: {line}" for number, line in lines if not is_plain(line)]


@pytest.mark.parametrize("module", MODULES)
def test_first_lines_stand_alone(module):
    found, known = failing(module), json.loads(COUNTS.read_text()).get(module, 0)
    assert len(found) <= known, "\n".join(found)


if __name__ == "__main__":
    known = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    counts = {module: len(failing(module)) for module in MODULES}
    least = {name: min(num, known.get(name, num)) for name, num in counts.items() if num}
    COUNTS.write_text(
        json.dumps({name: num for name, num in least.items() if num}, indent=1) + "\n"
    )
