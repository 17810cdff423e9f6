"""What is imported when: `import elbos` and help are light, and an audit needs no trainer."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from elbos import cli

ROOT = Path(__file__).parents[2]
HEAVY = {"accelerate", "plotly", "torchdiffeq", "safetensors"}
LIGHT = {
    "import elbos": {*HEAVY, "torch", "numpy", "scipy", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['--help'])": {*HEAVY, "torch", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['--version'])": {*HEAVY, "tyro", "jinja2"},
}
OF_TORCH = {
    "import elbos.cli; elbos.cli.app.run(['audit', 'edm'])": HEAVY,
    "import elbos.cli.audit": {*HEAVY, "scipy.interpolate", "scipy.special"},
    "import elbos.cli.compare": {"plotly", "elbos.audit", "scipy.interpolate", "scipy.special"},
    "import elbos; elbos.audit, elbos.Validator, elbos.likelihood": {*HEAVY, "tyro", "PIL", "rich"},
    "import elbos; elbos.fit, elbos.Run": {"accelerate", "plotly", "torchdiffeq"},
    "import elbos; elbos.tracking": {*HEAVY, "PIL", "rich"},
}
FORKED = """
import json, os, sys, torch
for code in sys.argv[1:]:
    if os.fork() == 0:
        exec(code)
        print(json.dumps([*sys.modules]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def run(*words):
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("code", LIGHT)
def test_what_is_not_needed_is_not_imported(code):
    *_, imported = run(f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))")
    assert not LIGHT[code] & set(json.loads(imported))


def test_what_is_not_needed_beside_torch_is_not_imported():
    """Importing torch takes seconds: one process does, and forks for each code."""
    found = [line for line in run(FORKED, *OF_TORCH) if line.startswith('["')]
    for imported, not_needed in zip(found, OF_TORCH.values(), strict=True):
        assert not not_needed & set(json.loads(imported))


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
    assert found == set(extras) - {"bench", "dev", "docs"}
    assert {verb.extra for verb in cli.VERBS.values()} < found
