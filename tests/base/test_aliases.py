"""Module paths of before: each is today's module, imported once."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from elbos.base.aliases import PUBLIC, path_today

MOVED = json.loads(Path(__file__).with_name("moved.json").read_text())


@pytest.mark.parametrize("before", MOVED)
def test_a_path_of_before_is_the_module_of_today(before):
    assert path_today(before) == MOVED[before]
    today = importlib.import_module(MOVED[before])
    assert importlib.import_module(before) is today
    assert today.__spec__.name == today.__name__ == MOVED[before]


def test_a_part_of_a_moved_package_is_not_imported_twice():
    from elbos.weightings.flow import InDI

    assert InDI is importlib.import_module("elbos.theory.weightings").InDI
    assert sys.modules["elbos.weightings.flow"] is sys.modules["elbos.theory.weightings.flow"]


def test_other_paths_are_missing_as_before():
    assert path_today("elbos.audit") is path_today("elbos.theory.process") is None
    with pytest.raises(ModuleNotFoundError, match=r"elbos\.weigthings"):
        importlib.import_module("elbos.weigthings")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_modules_are_in_the_rooms(name):
    assert importlib.import_module(f"elbos.{name}").__name__ == f"elbos.{PUBLIC[name]}.{name}"
