"""Every module and every verb of the elbos that this interpreter has: `PYTHON every_verb.py`.

It needs nothing else, and works in a temporary folder: for wheels, and for other Pythons.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.resources
import io
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

COMMAND = str(Path(sysconfig.get_path("scripts")) / "elbos")
OPTIONAL = ("lightning", "pytest", "torchmetrics", "transformers")
DATA = (
    "py.typed",
    *("training/data/digits.npz", "training/data/digits.txt"),
    "base/report.css",
)
SMALL = [
    *("--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"),
    *("--num-images", "32"),
]
MINE = """
def loss(network, x):
    t = x.new_empty(len(x)).uniform_()[:, None, None, None]
    eps = x.new_empty(x.shape).normal_()
    y = network((1 - t) * x + t * eps, t.flatten())
    return (eps - x - y).square().flatten(1).mean(1)

def features(images):
    return images.float().flatten(1)[:, ::48] / 255
"""


def elbos(*words: str) -> str:
    """What the installed command says on stdout, in this process: starting one takes seconds."""
    begin = time.perf_counter()
    sys.argv = [COMMAND, *words]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            runpy.run_path(COMMAND, run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, (words, stop.code)
    print(f"{time.perf_counter() - begin:5.1f} s  elbos {' '.join(words[:2])}", flush=True)  # noqa: T201
    return shown.getvalue()


def import_every_module() -> None:
    with warnings.catch_warnings(action="error"):
        package = importlib.import_module("elbos")
        assert Path(package.__path__[0]).is_relative_to(sys.prefix), package  # no source tree
        for module in pkgutil.walk_packages(package.__path__, "elbos."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:  # of a plugin for another library
                if error.name not in OPTIONAL:
                    raise
    for name in DATA:
        assert importlib.resources.files("elbos").joinpath(name).is_file(), name


def show_every_help() -> None:
    version = subprocess.run([COMMAND, "--version"], stdout=subprocess.PIPE, check=True, text=True)
    assert version.stdout.startswith(f"elbos {importlib.metadata.version('elbos')}\n")
    for verb in importlib.import_module("elbos.cli").VERBS:
        assert f"usage: elbos {verb}" in elbos(verb, "--help")


def compute_features() -> None:
    """The default ones, of two images: of those of a comparison they take a minute."""
    torch = importlib.import_module("torch")
    lite0 = importlib.import_module("elbos.evaluation.features").Lite0(size=32)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert lite0.load(torch.device("cpu")).compute(images).pooled.shape == (2, 1280)


def make_pictures(folder: Path) -> None:
    image = importlib.import_module("PIL.Image")
    folder.mkdir()
    for i in range(200):
        image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")


def run_every_verb() -> None:
    Path("mine.py").write_text(MINE)
    audits = elbos("audit", "mine.py:loss", "min-snr-5", "--shape", "3", "8", "8", "--json")
    assert json.loads(audits)
    assert json.loads(elbos("weightings", "--json"))
    make_pictures(Path("pictures"))
    elbos("data", "pack", "pictures", "packed", "--size", "8", "--jobs", "2")
    elbos(
        "train",
        "digits",
        "data:packed",
        "--data.path",
        "packed",
        "--run",
        "run",
        *SMALL,
        "--sampling.num-steps",
        "2",
    )
    drawn = json.loads(elbos("sample", "run", "--num", "4", "--json"))
    assert all(Path(path).is_file() for path in drawn.values())
    few = ["--num-images", "4", "--num-samples", "0", "--ode.num-images", "2"]
    assert json.loads(elbos("evaluate", "run", *few, "--json"))
    assert Path("run/eval.html").is_file()
    scoring = ["--scoring.num-images", "20", "--scoring.num-samples", "24"]
    steps = ["--samplers", "ancestral=Ancestral(),2", "heun=Heun(),2"]
    features = ["scoring.extractor:module", "--scoring.extractor.path", "mine.py:features"]
    rows = ["--objectives", "edm", "--seeds", "0", "--workers", "2"]  # of one thread
    elbos("compare", "digits", "--out", "comparison", *rows, *SMALL, *scoring, *steps, *features)
    assert Path("comparison/report.html").is_file()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    os.environ["PYTHONWARNINGS"] = "error::DeprecationWarning"  # of the processes of `compare`
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        import_every_module()
        with warnings.catch_warnings(action="error", category=DeprecationWarning):
            show_every_help()
            run_every_verb()
            compute_features()
    print(f"Every module and every verb runs on Python {sys.version.split()[0]}.")  # noqa: T201
