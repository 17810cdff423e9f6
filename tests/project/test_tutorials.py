"""Tutorials: what `make docs` runs cell by cell is a notebook."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "docs/tutorials").glob("*.py"))


@pytest.fixture
def tutorials(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    import tutorials

    return tutorials


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_runs_as_a_notebook(script: Path, tutorials, tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    content = json.dumps(tutorials.notebook(tutorials.cells(script.read_text())))
    notebook = nbformat.reads(content, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
