"""Tutorials: what `make docs` runs cell by cell is a notebook, and a script."""

import json
import runpy
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


def test_a_page_has_what_is_printed_and_drawn(tutorials, tmp_path: Path) -> None:
    script = tmp_path / "one.py"
    script.write_text(
        "# # One\n\nimport matplotlib.pyplot as plt\n\nprint(6 * 7)\nplt.plot([1, 2])\n"
    )
    tutorials.write_page(script, tmp_path)
    page = (tmp_path / "one.md").read_text()
    assert page.startswith("# One\n")
    assert "```text\n42\n```" in page
    (figure,) = tmp_path.glob("one-*.svg")
    assert f"]({figure.name})" in page
    assert json.loads((tmp_path / "one.ipynb").read_text())["cells"][1]["cell_type"] == "code"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_runs_as_a_script(script: Path, monkeypatch, unchecked) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_runs_as_a_notebook(script: Path, tutorials, tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    content = json.dumps(tutorials.notebook(tutorials.cells(script.read_text())))
    notebook = nbformat.reads(content, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
