"""Stubs for type checkers, which cannot see the lazy short paths: `elbos.weightings`, ..."""

import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from elbos.base import aliases

STUBS = Path(__file__).parents[2] / "src" / "elbos-stubs"


def expected():
    """The text of each stub by its path: a line that imports from today's module."""
    found = {"py.typed": "partial\n"}
    for name in (*aliases.PUBLIC, "analysis"):
        today = import_module(aliases.path_today(f"elbos.{name}"))
        inner = [one.name for one in pkgutil.iter_modules(getattr(today, "__path__", []))]
        place = f"{name}/__init__.pyi" if inner else f"{name}.pyi"
        found[place] = f"from {today.__name__} import *\n"
        for one in inner:
            found[f"{name}/{one}.pyi"] = f"from {today.__name__}.{one} import *\n"
    return found


def test_every_short_path_has_its_stub():
    """STUBS=write writes them."""
    if os.environ.get("STUBS") == "write":
        for name, text in expected().items():
            (STUBS / name).parent.mkdir(parents=True, exist_ok=True)
            (STUBS / name).write_text(text)
    found = {str(p.relative_to(STUBS)): p.read_text() for p in STUBS.rglob("*") if p.is_file()}
    assert found == expected()


@pytest.mark.slow
def test_mypy_sees_the_short_paths(tmp_path):
    pytest.importorskip("mypy")
    names = ["elbos.weightings.Sigmoid", "elbos.analysis.is_monotone", "elbos.schedules.Cosine"]
    lines = [
        f"from {module} import {name}" for module, _, name in (n.rpartition(".") for n in names)
    ]
    (tmp_path / "use.py").write_text("\n".join([*lines, "reveal_type(Sigmoid(k=2.0))", ""]))
    command = [sys.executable, "-m", "mypy", "--strict", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "elbos.theory.weightings.diffusion.Sigmoid" in done.stdout
