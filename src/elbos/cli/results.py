"""Directories of results, each of which belongs to one evaluation, named in its model.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elbos.base import files, hub
from elbos.training.directory import RunDirectory

_FILE = "model.json"


@dataclass(frozen=True)
class Results:
    """Directory of the results of one evaluation.

    Attributes:
        path: The directory.
        models: The evaluated models, which the directory must be outside of.
        owner: What is evaluated, as JSON values, stored in model.json.
    """

    path: Path
    models: tuple[Path, ...]
    owner: dict[str, Any]

    def require_own(self) -> None:
        """Raise a ValueError if the directory holds anything but results of this evaluation.

        Nothing is written.
        """
        out = self.path
        for folder in self.models:
            if folder.resolve() in (out.resolve(), *out.resolve().parents):
                raise ValueError(
                    f"{out} is in the model's own folder: name another directory with --out."
                )
        if out.is_symlink():
            raise ValueError(
                f"{out} is a link, which is not followed: name a directory with --out."
            )
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: name a directory with --out.")
        files.require_plain(out)
        stored = RunDirectory(out).read(_FILE)
        foreign = [path.name for path in out.glob("*") if not path.name.startswith(".")]
        if stored is None and foreign:
            raise ValueError(
                f"{out} holds {foreign[0]} but no {_FILE}, of an evaluation: "
                "name a new one with --out."
            )
        if stored is not None and stored != self.owner:
            values = (value if isinstance(value, list) else [value] for value in stored.values())
            shown = " on ".join(", ".join(map(str, value)) for value in values)
            raise ValueError(f"{out} holds the evaluation of {shown}: name another with --out.")

    def claim(self) -> None:
        """Create the directory and record what is evaluated."""
        self.path.mkdir(parents=True, exist_ok=True)
        RunDirectory(self.path).write(_FILE, self.owner)


def named(path: Path) -> Path:
    """Return the path of a model, or OWNER/NAME@COMMIT on the Hugging Face Hub."""
    return Path(hub.resolved(path, ["*.json"])[1])
