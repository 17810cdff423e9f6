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


@pytest.mark.parametrize("module", MODULES)
def test_first_lines_stand_alone(module):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (n for n in ast.walk(ast.parse((SOURCE / module).read_text())) if isinstance(n, kinds))
    texts = filter(None, map(ast.get_docstring, nodes))
    lines = [" ".join(text.split("\n\n")[0].split()) for text in texts]
    assert not [line for line in lines if NOT_FIRST.match(line) or len(line.split()) < 4]


@pytest.mark.parametrize("module", MODULES)
def test_names_of_variables_say_what_they_hold(module):
    nodes = ast.walk(ast.parse((SOURCE / module).read_text()))
    stored = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    assert not [f"{module}:{node.lineno}: {node.id}" for node in stored if node.id in NO_NAMES]
