"""Directories of results, each of which belongs to one evaluation, named in its model.json."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.base.formats import read_object, write_object

STOPPED = "Stopped: the measurements are stored, and the same command resumes."
_FILE = "model.json"


def require_own(out: Path, models: Iterable[str], owner: dict[str, Any]) -> None:
    """Raise a ValueError unless a directory is new or holds results of this evaluation.

    It has to be outside of the folders of the models, by the `absolute` paths. `owner` is what is
    evaluated.
    """
    for name in models:
        if Path(name) in (out.resolve(), *out.resolve().parents):
            raise ValueError(
                f"{out} is in the model's own folder: name another directory with --out."
            )
    files.require_folder_of(out, _FILE, "--out")
    if (out / _FILE).exists() and (stored := read_object(out / _FILE)) != owner:
        evaluated = " on ".join(map(str, stored.values()))
        raise ValueError(f"{out} holds the evaluation of {evaluated}: name another with --out.")


def claim(out: Path, owner: dict[str, Any]) -> None:
    """Create a directory of results and record what is evaluated."""
    out.mkdir(parents=True, exist_ok=True)
    write_object(out / _FILE, owner)


def absolute(path: Path | str) -> str:
    return str(Path(path).resolve())
