"""What is published: one version, one address, and no page that a command makes."""

import importlib.metadata
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import elbos

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_written_once_and_repeated_where_it_has_to_be():
    assert PROJECT["project"]["dynamic"] == ["readme", "urls", "version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/elbos/__init__.py"
    assert f"\nversion: {elbos.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", elbos.__version__]
    assert importlib.metadata.version("elbos") == elbos.__version__


@pytest.fixture
def built(tmp_path):
    """Names of the files of the sdist, beside those that every sdist has."""
    pytest.importorskip("hatchling")
    from hatchling.builders.sdist import SdistBuilder

    return [str(one.distribution_path) for one in SdistBuilder(str(ROOT)).recurse_included_files()]


def test_the_sdist_holds_sources_tests_and_texts_but_no_generated_page(built):
    ignored = (ROOT / ".gitignore").read_text().split()
    pages = [one.removeprefix("/") for one in ignored if one.endswith(".html")]
    assert pages and not set(pages) & set(built)
    for name in ("NOTICE", "CITATION.cff", "CHANGELOG.md", "Makefile"):
        assert name in built
    for name in ("src/elbos/training/data/digits.npz", "tests/conftest.py", "docs/theory.md"):
        assert name in built
    sizes = {one: (ROOT / one).stat().st_size for one in built}
    assert not {one for one, size in sizes.items() if size > 500_000}
    assert not any(".venv" in one or "__pycache__" in one for one in built)


@pytest.mark.parametrize("home", ["", "https://host/people/elbos"])
def test_links_of_the_published_readme_are_absolute_where_there_is_an_address(home):
    pytest.importorskip("hatchling")
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["Repository"]
    hook(str(ROOT), {"repository": home}).update(metadata := {})
    readme, text = (ROOT / "README.md").read_text(), metadata["readme"]["text"]
    links = re.findall(r'(?:\]\(|src=")([^)"#\s]+)', text)
    assert all("://" in link for link in links) or not home
    for kind in ("raw", "blob"):
        text = text.replace(f"{home}/{kind}/v{elbos.__version__}/", "")
    assert text == readme
    assert all(url.startswith(home) for url in metadata.get("urls", {}).values())
    assert bool(metadata.get("urls")) == bool(home)


def test_files_of_a_newer_format_are_refused_and_of_none_are_read():
    content = elbos.audit.from_recipe("edm").to_dict()
    newer = content["format"] + 1
    with pytest.raises(ValueError, match=str(newer)):
        elbos.audit.Audit.from_dict(content | {"format": newer})
    del content["format"]
    assert elbos.audit.Audit.from_dict(content).closest[0].name


def test_workflows_pin_the_actions_of_others_by_hash():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        uses = re.findall(r"uses: (\S+)", path.read_text())
        assert uses
        for action in uses:
            assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)
