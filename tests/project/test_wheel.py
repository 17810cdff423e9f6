"""The wheel, in an environment of its own: what a user installs, outside the source tree."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_wheel_is_whole(tmp_path):
    """The dependencies are those of this environment; its own elbos is not seen, since a `.pth` in
    a folder that a `.pth` names is not read. CI runs every verb of a wheel on Debian's Python.
    """
    pytest.importorskip("hatchling", reason="needs hatchling, to build offline")
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([*pip, *build, ROOT], check=True)
    (wheel,) = tmp_path.glob("elbos-*.whl")
    home = tmp_path / "home"
    venv.create(home, with_pip=False)
    python = home / "bin/python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, "--python", python, *install], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: word for name, word in os.environ.items() if name != "PYTHONPATH"}
    command = [python, ROOT / "tests/project/every_verb.py", "--light"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
