"""Fixtures of small comparisons."""

from dataclasses import replace
from pathlib import Path

import pytest
from comparing import Here, folder, own_folder, picture_experiment, pictures, small  # noqa: F401

from elbos.comparison.compare import run_experiment
from elbos.comparison.variants import VARIANTS


@pytest.fixture(scope="session")
def scored(tmp_path_factory):
    """The folder of a comparison `c` of three objectives and two seeds with samples; its result."""
    with own_folder(tmp_path_factory.mktemp("scored")) as path:
        experiment = picture_experiment()
        objectives = (*experiment.objectives, VARIANTS["iddpm"])
        experiment = replace(experiment, objectives=objectives, seeds=(0, 1))
        return path, run_experiment(experiment, Path("c"), Here())
