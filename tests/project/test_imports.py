"""The order of the house: a module imports only from its own group, or from those before it."""

import ast
import graphlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "elbos"
GROUPS = [
    {"arrays", "checks", "errors", "files", "philox", "progress", "records", "user_code"},
    {
        *("process", "schedules", "adaptive", "parameterizations", "extrema", "weightings"),
        *(
            "tabulated",
            "recipes",
            "analysis",
            "conditions",
            "items",
            "denoiser",
            "oracles",
            "floor",
            "objective",
        ),
    },
    {"samplers", "likelihood", "networks"},
    {"codec"},
    {"audit", "adapters"},
    {"validation"},
    {"tracking"},
    {"runs"},
    {"training"},
    {"evaluation"},
    {"comparison"},
    {"report"},
    {"export"},
    {"cli"},
]
RANKS = {name: rank for rank, group in enumerate(GROUPS) for name in group}


def name_of(path):
    names = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
PLACED = [name for name in MODULES if name not in ("elbos", "elbos.__main__")]


def imported(name):
    """The modules of the library that a module imports when it is imported."""
    found = set()
    for node in top_level(ast.parse(MODULES[name].read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{name} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = names & set(MODULES)
            found |= inner | ({node.module} if len(inner) < len(names) else set())
    return {one for one in found & set(MODULES) if one != "elbos"}


def top_level(nodes):
    """The statements that import, but for those in functions and those for type checkers."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from top_level(node.orelse)
        elif not isinstance(node, ast.FunctionDef):
            for field in ("body", "orelse", "handlers", "finalbody"):
                yield from top_level(getattr(node, field, []))


def place(name):
    return name.split(".")[1]


def rank(name):
    return RANKS[place(name)]


def test_every_module_has_a_place():
    assert {place(name) for name in PLACED} == set(RANKS)


@pytest.mark.parametrize("name", PLACED)
def test_imports_go_upward(name):
    assert not {one for one in imported(name) if rank(one) > rank(name)}


def test_there_are_no_cycles():
    graph = {name: imported(name) for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_map_of_the_house_names_every_module():
    text = ast.get_docstring(ast.parse(MODULES["elbos"].read_text()))
    assert all(f"`{name}`" in text for name in RANKS)
