"""What is imported when: `import elbos` and help are light, and an audit needs no trainer."""

import json
import subprocess
import sys

import pytest

HEAVY = {"accelerate", "plotly", "torchdiffeq", "safetensors"}
LIGHT = {
    "import elbos": {*HEAVY, "torch", "numpy", "scipy", "tyro", "rich"},
    "import elbos.cli; elbos.cli.app.run(['--help'])": {*HEAVY, "torch", "tyro", "rich"},
    "import elbos.cli; elbos.cli.app.run(['--version'])": {*HEAVY, "tyro"},
}
OF_TORCH = {
    "import elbos.cli; elbos.cli.app.run(['audit', 'edm'])": HEAVY,
    "import elbos.cli.audit": {*HEAVY, "scipy.interpolate", "scipy.special"},
    "import elbos.cli.compare": {"plotly", "elbos.audit", "scipy.interpolate", "scipy.special"},
    "import elbos; elbos.audit, elbos.Validator, elbos.likelihood": {*HEAVY, "tyro", "PIL", "rich"},
    "import elbos; elbos.fit, elbos.Run": {"accelerate", "plotly", "torchdiffeq"},
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
    actual = [line for line in run(FORKED, *OF_TORCH) if line.startswith('["')]
    for imported, not_needed in zip(actual, OF_TORCH.values(), strict=True):
        assert not not_needed & set(json.loads(imported))
