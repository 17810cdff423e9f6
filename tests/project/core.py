"""The core alone: `PYTHON core.py WHEEL`, run by a Python that has pytest and elbos' dependencies.

Makes an environment that holds the wheel, what it requires without extras, and pytest: links to
this Python's packages, as the metadata name them, so that torch is not installed twice. NumPy and
SciPy are the oldest that the metadata admit, where this Python is the oldest, too: later ones have
no wheels of them. Runs there the tests of what the core can do, and checks that everything else
names the extra to install.
"""

import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TESTS = [
    *(f"audit/test_{name}.py" for name in ("draws", "families", "record")),
    *(f"validation/test_{name}.py" for name in ("by_level", "estimate", "validator")),
]
CHECK = """
import importlib, subprocess, sys, torch, elbos
from pathlib import Path
from elbos.base.extras import MissingExtra

def loss(network, x):
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()

x = torch.rand(64, 3, 8, 8) * 2 - 1
measured = elbos.audit.probe(loss, x, num_samples=400)
assert measured.is_monotone and measured.parameterization == "flow"
print(measured, measured.to_json()[:1])
unit = torch.ones(1)
denoiser = elbos.oracles.GaussianMixture(unit, torch.zeros(1, 2), unit)
result = elbos.Validator(denoiser.sample(100)[0])(denoiser)
result.save("result.json")
assert elbos.validation.Validation.load("result.json").bits_per_dim == result.bits_per_dim

def says(extra, call):
    try:
        call()
    except MissingExtra as error:
        assert str(error).endswith(f"pip install 'elbos[{extra}]'."), error
    else:
        raise AssertionError(extra)

says("train", lambda: elbos.fit)
says("train", lambda: elbos.Run)
says("evaluate", lambda: elbos.compare)
says("report", lambda: measured.to_html("audit.html"))
says("report", result.plot)
verbs = importlib.import_module("elbos.cli").VERBS
command = str(Path(sys.executable).with_name("elbos"))
for verb in verbs:
    done = subprocess.run([command, verb], capture_output=True, text=True)
    expected = f"pip install 'elbos[{verbs[verb].extra}]'."
    assert done.returncode == 1 and done.stderr.count("\\n") == 1 and expected in done.stderr, done
subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
version = subprocess.run([command, "--version"], check=True, stdout=subprocess.PIPE, text=True)
assert "tyro" in version.stdout.partition("not installed: ")[2], version.stdout
"""


def required(names: list[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Collect the distributions of these names and all that they require, by name."""
    for name in names:
        if name.lower() not in found:
            found[name.lower()] = distribution(name)
            requirements = map(Requirement, found[name.lower()].requires or [])
            environment = {"extra": ""}
            needed = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
            required([item.name for item in needed], found)
    return found


def link(one: Distribution, packages: Path) -> None:
    """Link the top folders and modules of a distribution."""
    for name in {path.parts[0] for path in one.files or []} - {"..", "__pycache__"}:
        if not (packages / name).exists():
            (packages / name).symlink_to(Path(str(one.locate_file(name))))


def main(wheel: str) -> None:
    """Make the environment in a temporary folder, and run checks and tests in it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        venv.create(home, with_pip=False)
        python = home / "bin/python"
        install = ["--quiet", "--no-deps", "--no-index", wheel]
        pip = [sys.executable, "-m", "pip", "--python", python, "install"]
        subprocess.run([*pip, *install], check=True)
        (packages,) = home.glob("lib/python*/site-packages")
        wheels = Distribution.at(next(packages.glob("elbos-*.dist-info")))
        requirements = [r for r in map(Requirement, wheels.requires or []) if r.marker is None]
        names = [requirement.name for requirement in requirements]
        if sys.version_info[:2] == (3, 11):
            numeric = [r for r in requirements if r.name in ("numpy", "scipy")]
            oldest = [f"{r.name}=={str(r.specifier).removeprefix('>=')}.*" for r in numeric]
            quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, *quiet, *oldest], check=True)
        for item in required([*names, "pytest", "beartype", "mpmath"], {}).values():
            link(item, packages)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        subprocess.run([python, "-c", CHECK], check=True, cwd=folder, env=environment)
        pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
        subprocess.run(pytest, check=True, cwd=ROOT / "tests", env=environment)


if __name__ == "__main__":
    main(sys.argv[1])
