"""What is imported when: `import elbos` and help are light, and an audit needs no trainer."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import elbos
from elbos import cli

ROOT = Path(__file__).parents[2]
HEAVY = {"accelerate", "plotly", "torchdiffeq", "safetensors"}
NOT_NEEDED = {
    "import elbos": {*HEAVY, "torch", "numpy", "scipy", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['--help'])": {*HEAVY, "torch", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['train', '-h'])": {*HEAVY, "torch", "tyro", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['audit', 'edm'])": HEAVY,
    "import elbos; elbos.audit, elbos.Validator, elbos.likelihood": {*HEAVY, "tyro", "PIL", "rich"},
    "import elbos; elbos.fit, elbos.Run": {"accelerate", "plotly", "torchdiffeq"},
    "import elbos; elbos.tracking": {*HEAVY, "PIL", "rich"},
}


def run(code):
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", NOT_NEEDED)
def test_what_is_not_needed_is_not_imported(code):
    *_, imported = run(f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))").splitlines()
    assert not NOT_NEEDED[code] & set(json.loads(imported))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_core_is_light():
    """CI runs the audit, the validator and every message in an environment of the core alone."""
    names = {re.match(r"[\w-]+", one)[0] for one in project()["dependencies"]}
    assert names == {"torch", "numpy", "scipy", "jaxtyping"}


def test_all_holds_every_extra():
    extras = project()["optional-dependencies"]
    found, queue = set(), ["all"]
    while queue:
        name = queue.pop()
        found.add(name)
        for one in extras[name]:
            if inner := re.match(r"elbos\[(.*)\]", one):
                queue += inner[1].split(",")
    assert found == set(extras) - {"bench", "dev"}
    assert {verb.extra for verb in cli.VERBS.values()} < found


@pytest.mark.parametrize("name", [name for name in elbos.__all__ if name != "__version__"])
def test_public_names_are_there(name):
    assert name in dir(elbos)
    value = getattr(elbos, name)
    if name in elbos._MODULES:
        assert value is importlib.import_module(f"elbos.{name}")
    else:
        assert value.__name__ == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="nothing"):
        _ = elbos.nothing
