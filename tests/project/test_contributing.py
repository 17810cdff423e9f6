"""CONTRIBUTING names the place of each task; what it and the other texts name is there."""

import re
from pathlib import Path

import pytest

import elbos

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


TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PATH = r"(?:tests|docs|benchmarks|examples|src)/[\w./-]+\.\w+"


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_text_names_are_there(text: Path) -> None:
    words = text.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", words) if "://" not in link]
    images = re.findall(r'src="([^"]+)"', words)
    missing = [name for name in (*links, *images) if not (text.parent / name).exists()]
    missing += [name for name in re.findall(rf"\b{PATH}", words) if not is_there(text, name)]
    assert not missing


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_calls_is_there_after_import_elbos(text: Path) -> None:
    called = re.findall(r"\belbos\.(\w+)[\w.]*\(", text.read_text())
    assert set(called) <= set(elbos.__all__)


def is_there(text: Path, name: str) -> bool:
    return (ROOT / name).exists() or (text.parent / name).exists()
