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

ROOT = Path(__file__).parents[2]
HEAVY = {"accelerate", "plotly", "torchvision", "sklearn", "torchdiffeq", "safetensors"}
NOT_NEEDED = {
    "import elbos": {*HEAVY, "torch", "numpy", "scipy", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['--help'])": {*HEAVY, "torch", "tyro", "rich", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['train', '-h'])": {*HEAVY, "torch", "tyro", "jinja2"},
    "import elbos.cli; elbos.cli.app.run(['audit', 'edm'])": HEAVY,
    "import elbos; elbos.audit": {*HEAVY, "tyro", "jinja2", "rich"},
}
AUDIT = """
import sys
sys.modules.update(dict.fromkeys({missing}))  # None: importing it fails
import torch, elbos

def loss(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

measured = elbos.audit.probe(loss, torch.rand(64, 3, 8, 8) * 2 - 1, num_samples=400)
declared = elbos.audit.from_recipe("flow")
assert measured.parameterization == declared.parameterization == "flow"
assert measured.is_monotone and declared.is_monotone
"""


def run(code):
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", NOT_NEEDED)
def test_what_is_not_needed_is_not_imported(code):
    *_, imported = run(f"{code}\nimport json, sys\nprint(json.dumps([*sys.modules]))").splitlines()
    assert not NOT_NEEDED[code] & set(json.loads(imported))


def test_the_audit_works_on_a_light_install():
    """On what README names, without any other dependency."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    all_names = {re.match(r"[\w-]+", one)[0] for one in dependencies}
    (light,) = re.findall(r"^pip install (torch .*)", (ROOT / "README.md").read_text(), re.M)
    assert set(light.split()) < all_names
    modules = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
    missing = {modules.get(name, name).replace("-", "_") for name in all_names - set(light.split())}
    assert len(missing) > 8
    run(AUDIT.format(missing=sorted(missing)))


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
