"""CONTRIBUTING names the place of each task, and what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
TASKS = [
    line.strip("| ").split(" | ") for line in LINES if re.match(r"\| (add|change|read) ", line)
]


@pytest.mark.parametrize(("task", "change", "place"), TASKS, ids=[task[0] for task in TASKS])
def test_a_task_has_its_place(task: str, change: str, place: str) -> None:
    """The file or folder exists and defines the names that are to be changed."""
    path = ROOT / "src/elbos" / place.strip("`")
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    code = "\n".join(file.read_text() for file in files)
    for name in re.findall(r"`(\w+)`", change):
        assert re.search(rf"(\b(def|class) {name}\b|\b{name}\b.* = |class.*\b{name}\b)", code), task
    for other in re.findall(r"`(\w+/[\w./]+)`", change):
        assert (ROOT / "src/elbos" / other).exists(), task


def test_it_is_short() -> None:
    assert len(TASKS) >= 10
    assert len(LINES) < 50
