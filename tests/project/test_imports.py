"""The order of the house: a module imports only from its own room, or from those before it."""

import ast
import graphlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "elbos"
ROOMS = [
    *("base", "theory", "models", "audit", "validation", "adapters", "training", "evaluation"),
    *("runs", "comparison", "cli"),
]
RANKS = {name: rank for rank, name in enumerate(ROOMS)}


def name_of(path):
    names = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
PROGRAMS = ("elbos", "elbos.__main__", "elbos.record")
PLACED = [name for name in MODULES if name not in PROGRAMS]


def imported(name):
    """The modules of the library that a module imports, in functions and for type checkers, too."""
    actual = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            actual |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = names & set(MODULES)
            actual |= inner | ({node.module} if len(inner) < len(names) else set())
    return {item for item in actual & set(MODULES) if item != "elbos"}


def place(name):
    return name.split(".")[1]


def rank(name):
    return RANKS[place(name)]


def test_every_module_has_a_place():
    assert {place(name) for name in PLACED} == set(RANKS)


@pytest.mark.parametrize("name", PLACED)
def test_imports_go_upward(name):
    assert not {item for item in imported(name) if rank(item) > rank(name)}


def test_there_are_no_cycles():
    graph = {name: imported(name) for name in PLACED}
    graphlib.TopologicalSorter(graph).prepare()
