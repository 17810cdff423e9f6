"""What users rely on, as lists: Python names, options, and what stands in files.

`CONTRACT=write pytest tests/project/test_contract.py` writes them anew; a change is a decision.
"""

import contextlib
import importlib
import inspect
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import TINY
from comparing import Here
from PIL import Image

from elbos import cli
from elbos.comparison.compare import run_experiment

LISTS = Path(__file__).with_name("contract.json")
MODULES = [
    *("elbos", "elbos.adapters", "elbos.adapters.caches", "elbos.adapters.diffusers"),
    *("elbos.adapters.edm",),
    *("elbos.adapters.flow", "elbos.adapters.trainers", "elbos.adaptive", "elbos.analysis"),
    *("elbos.audit", "elbos.comparison", "elbos.denoiser", "elbos.evaluation", "elbos.export"),
    *("elbos.floor", "elbos.likelihood", "elbos.networks", "elbos.objective", "elbos.oracles"),
    *("elbos.parameterizations", "elbos.process", "elbos.recipes", "elbos.samplers"),
    *("elbos.schedules", "elbos.tabulated", "elbos.tracking", "elbos.training.data"),
    *("elbos.validation", "elbos.weightings"),
]
PAGES = [
    *("train digits", "train fashion-vit"),
    *("sample", "evaluate", "ema", "export", "compare digits", "audit", "weightings"),
    *("data pack", "data verify", "data encode"),
]
OPTION = re.compile(r"^ +(?:-\w, )?(--\w[\w.-]*)(?:[ ]([^ \n]+))?", re.MULTILINE)


def names_of(module):
    """The public names of a module, functions and classes with their parameters."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("elbos")
    ]
    return {name: parameters(getattr(found, name)) for name in sorted(names)}


def parameters(value):
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    try:
        signature = inspect.signature(value)
    except ValueError:
        return None
    return [
        ("*" if one.kind is one.KEYWORD_ONLY else "")
        + one.name
        + ("" if one.default is one.empty else "=")
        for one in signature.parameters.values()
    ]


def options_of(page):
    """The options of a page of help, with the types that they show."""
    return dict(OPTION.findall(elbos(*page.split(), "--help")))


def elbos(*words):
    """What a command prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as shown:
        patch.setattr(sys, "argv", ["elbos", *words])
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, words
    return shown.getvalue()


def keys(value, where=""):
    """The paths of all entries of a JSON value; entries of a list are one."""
    if isinstance(value, dict):
        return {k for name, item in value.items() for k in keys(item, f"{where}.{name}")} | {where}
    if isinstance(value, list):
        return {k for item in value for k in keys(item, f"{where}[]")} | {where}
    return {where}


def files_of(folder):
    """The files in a folder, numbers in their names as N, with the keys of those in JSON."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = re.sub(r"[0-9a-f]{8,}|\d+", "N", str(path.relative_to(folder)))
        if path.suffix == ".json":
            found[name] = sorted(keys(json.loads(path.read_text())))
        elif path.suffix == ".jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = sorted({k for line in lines for k in keys(line)})
        else:
            found.setdefault(name, [])
    return found


def written(folder, experiment):
    """What a training, an evaluation, a pack and a comparison write into `folder`."""
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(new(folder / f"p/{i % 2}/{i}.png"))
    for words in (
        [*TINY, "--precision", "fp32", "--run", "run"],
        [
            *("evaluate", "run", "--num-images", "8", "--num-samples", "24"),
            *("extractor:module", "--extractor.path", "mine.py:features"),
        ],
        ["sample", "run", "--num", "4"],
        ["data", "pack", "p", "packed", "--size", "8", "--jobs", "1"],
    ):
        elbos(*words)
    run_experiment(experiment, folder / "c", Here())
    return {name: files_of(folder / name) for name in ("run", "c", "packed")}


def new(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def stands(found, *place):
    """Whether a list is the stored one; with CONTRACT=write, it is stored."""
    lists = json.loads(LISTS.read_text()) if LISTS.exists() else {}
    *parents, last = place
    here = lists
    for name in parents:
        here = here.setdefault(name, {})
    if os.environ.get("CONTRACT") == "write":
        here[last] = found
        LISTS.write_text(json.dumps(lists, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return found == here[last]


@pytest.mark.parametrize("module", MODULES)
def test_names_stand(module):
    assert stands(names_of(module), "names", module)


def test_documented_imports_stand():
    for line in json.loads(LISTS.read_text())["imports"]:
        module, name = line.split()
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES)
def test_options_stand(page):
    assert stands(options_of(page), "options", page)


@pytest.mark.slow
def test_files_stand(folder, pictures):
    one = replace(pictures, objectives=pictures.objectives[:1])
    assert stands(written(folder, one), "files")
