"""Directory of a comparison: the run directories, and the settings with which it was started.

DIR/
    compare.json            the settings that all runs share, and the objectives
    runs/OBJECTIVE-SEED/    a run directory, with scores.json once the run is scored
    report.json, report.md, report.html

A directory belongs to one configuration and one way of scoring; objectives and seeds may be added.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from elbos.base import files
from elbos.base.codec import decode, difference, encode
from elbos.comparison.experiment import Scoring
from elbos.comparison.variants import Variant
from elbos.training.config import Config

_FILE = "compare.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a comparison that later calls in the same directory must share.

    `data` is a digest of the dataset; `features` is the name of the extractor, None for points.
    """

    config: Config
    scoring: Scoring
    data: str
    features: str | None
    objectives: dict[str, Variant]


def stored_settings(path: Path) -> Settings | None:
    """Return the stored settings of a comparison, or None if the directory is new."""
    if not (path / _FILE).exists():
        return None
    try:
        settings = decode(Settings, files.read_json(path / _FILE), "comparison")
    except ValueError as error:
        raise ValueError(
            f"{path / _FILE} is damaged ({error}): restore it, or name another with --out."
        ) from error
    assert isinstance(settings, Settings)
    return settings


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a comparison's directory, which is created if it is missing."""
    files.require_folder_of(path, _FILE, "--out")
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / ".lock"):
        files.remove_leftovers(path, min_age=0)
        yield


def claim(path: Path, settings: Settings) -> None:
    """Store the settings of a comparison, with the objectives of all its commands.

    A ValueError is raised if other settings, or another objective of the same name, are stored.
    """
    if stored := stored_settings(path):
        if stored.data != settings.data:
            raise ValueError(
                f"{path} was started with other data: restore them, or give another --out."
            )
        objectives = {**stored.objectives, **settings.objectives}
        before = {name: objectives[name] for name in stored.objectives}
        changed = difference(encode(stored), encode(replace(settings, objectives=before)))
        if changed:
            raise ValueError(
                f"{path} holds a comparison with {changed}: name another one with --out."
            )
        settings = replace(settings, objectives=objectives)
    files.write(path / _FILE, (json.dumps(encode(settings), indent=2) + "\n").encode())
    (path / "runs").mkdir(exist_ok=True)  # `_run_here` fails on machines that do not see it
