"""Small comparisons for tests, stored scores, and an executor that works in this process."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import DIGITS

from elbos.base.codec import decode
from elbos.base.errors import explained
from elbos.comparison import experiment
from elbos.comparison.compare import summarize
from elbos.comparison.executors import Executor
from elbos.comparison.experiment import Experiment, Scoring
from elbos.comparison.job import work
from elbos.comparison.scores import RunScores
from elbos.comparison.variants import VARIANTS
from elbos.evaluation.features import Module
from elbos.models.networks import MLPConfig
from elbos.models.samplers import Ancestral, Heun
from elbos.theory import weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.parameterizations import V
from elbos.training.config import Config
from elbos.training.data import Toy
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling

USERS = """
def features(images): return images.float().flatten(1)[:, ::48] / 255
def ramp(logsnr): return (6 - logsnr).clamp(0, 9)
def negative(logsnr): return logsnr
def constant(logsnr): return 1.0
def fails(logsnr): return logsnr[None, 9000]
"""


class Here(Executor):
    """Does jobs in this process, one at a time."""

    num_workers = num_threads = 1

    def __init__(self, before=lambda number, job: None):
        self.made, self.before = [], before

    def precision(self):
        return "fp32"

    def do(self, job, stopping):
        self.before(len(self.made), job)
        self.made.append(job.path.name)
        try:
            work(job)
        except Exception as error:
            return explained(error)


@contextlib.contextmanager
def own_folder(path):
    """A folder as the current directory, also for cached features."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        monkeypatch.setattr(experiment, "NUM_VALIDATIONS", 1)
        (path / "mine.py").write_text(USERS)
        yield path


@pytest.fixture
def folder(tmp_path):
    with own_folder(tmp_path) as path:
        yield path


def small_experiment():
    """Three objectives, one seed, points in the plane, a second of work; they have no samples."""
    config = Config(
        data=Toy(num_train=1000),
        network=MLPConfig(num_features=16, num_blocks=1),
        parameterization=V(),
        schedule=Adaptive(logsnr_min=-10.0, logsnr_max=10.0),
        weighting=weightings.ELBO(),
        num_images=320,
        batch_size=64,
        sampling=DIGITS.sampling,
        precision="fp32",
    )
    objectives = tuple(VARIANTS[name] for name in ("iddpm", "edm", "v-adaptive-sigmoid-2"))
    scoring = Scoring(num_images=20)
    return Experiment(config=config, scoring=scoring, objectives=objectives, seeds=(0,))


@pytest.fixture
def small(folder):
    return small_experiment()


def picture_experiment():
    """Two objectives and one seed of digits, with samples."""
    scoring = Scoring(
        num_images=20,
        num_samples=24,
        extractor=Module(path="mine.py:features"),
        samplings={
            "ancestral": Sampling(sampler=Ancestral(), num_steps=2),
            "heun": Sampling(sampler=Heun(), num_steps=2),
        },
    )
    config = replace(DIGITS, num_images=48, precision="fp32")
    objectives = (VARIANTS["edm-adaptive"], VARIANTS["edm-adaptive-monotonic"])
    return Experiment(config=config, scoring=scoring, objectives=objectives, seeds=(0,))


@pytest.fixture
def pictures(folder):
    return picture_experiment()


STORED = Path(__file__).parent / "comparison" / "scores.json"


def stored_comparison(seeds=(0, 1, 2, 3)):
    """Twelve objectives: the likelihood of one diverged, one lacks a seed, the last has none."""
    stored = json.loads(STORED.read_text())
    scores = {
        (item["objective"], item["seed"]): decode(RunScores, item["scores"])
        for item in stored
        if item["seed"] in seeds
    }
    names = [*dict.fromkeys(item["objective"] for item in stored), "p2"]
    reasons = {
        (name, seed): "the loss is not finite at step 812"
        for name in names
        for seed in seeds
        if (name, seed) not in scores
    }
    objectives = tuple(VARIANTS[name] for name in names)
    experiment = Experiment(config=PRESETS["fashion-small"], objectives=objectives, seeds=seeds)
    about = {"name": "runs/stored", "command": "elbos compare fashion-small", "features": "Lite0"}
    return summarize(experiment, scores, reasons, **about)
