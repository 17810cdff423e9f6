"""First lines of docstrings stand alone: at least four words, first a verb or a textbook noun.
Names of variables say what they hold.
"""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "elbos"
NOT_FIRST = re.compile(r"(What|Whether|Those|These|Of|From|With|In|As|Their|It|They)\b")
NO_NAMES = {"found", "one", "own", "known", "given", "kept", "others"}
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
    assert not failing(module)


@pytest.mark.parametrize("module", MODULES)
def test_names_of_variables_say_what_they_hold(module):
    nodes = ast.walk(ast.parse((SOURCE / module).read_text()))
    stored = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    assert not [f"{module}:{node.lineno}: {node.id}" for node in stored if node.id in NO_NAMES]
