"""Image folders as datasets: the images are decoded into the cache once, and read from there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.training.data.dataset import SPLITS
from elbos.training.data.images import EXTENSIONS
from elbos.training.data.pack import Encoded, Pictures
from elbos.training.data.splits import by_path


@dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """Images in a folder, decoded to 8-bit RGB of size x size pixels.

    Classes are the sub-folders of the first level; pictures directly in the folder have none. With
    sub-folders `train`, `test` and perhaps `val`, those are the splits (and others are ignored).
    With `train` and `val` alone, a tenth of `val` is for validation and the rest for testing.
    Otherwise 5 % of the pictures are for validation and 5 % for testing, chosen by a hash of their
    relative name: adding pictures does not move the others, as long as each split has one.

    Pictures are bmp, gif, jpeg, png, ppm, pgm, tiff and webp, by the ending of their name; hidden
    and other files are ignored. Each is rotated as its EXIF tag says, laid on white where it is
    transparent, resized to `size` at its short side and cropped at the centre.
    """

    root: Path
    """Folder of pictures with sub-folders train and test; else 5 % of the pictures are for testing.
    Stored as an absolute path."""

    size: int = 32
    """Height and width after resizing and cropping, in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # absolute: the run may be sampled and evaluated from other folders
        object.__setattr__(self, "root", files.expanded(self.root))

    @property
    def place(self) -> str:
        return str(self.root)

    def source(self) -> Any:
        """Return the folder, and names, sizes and times of the images."""
        return [
            str(self.root.resolve()),
            [[image.name, *_state(image)] for image in self._listed()],
        ]

    def images(self) -> tuple[Iterator[Encoded], None]:
        return iter(self._listed()), None

    def _listed(self) -> list[Encoded]:
        root = self.root
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
        folders = {path.name for path in root.glob("[!.]*") if path.is_dir()}
        if folders == {"train"}:
            raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
        has_splits = {"train", "test"} <= folders or folders == {"train", "val"}
        images = []
        for split in [name for name in SPLITS if name in folders] if has_splits else [""]:
            for name in by_path(_names(root, root / split)):
                *classes, _ = name.split("/")[int(has_splits) :]
                label = classes[0] if classes else None
                images.append(Encoded(name, root / name, split, label))
        return images


def _state(image: Encoded) -> list[int]:
    try:
        stat = Path(image.content).stat()  # type: ignore[arg-type]
    except OSError:
        return []  # decoding raises the error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # programs cannot set ctime


def _names(root: Path, folder: Path) -> list[str]:
    """Return the names of the images in a folder and its class folders, relative to `root`.

    Each folder is visited once; links to folders are followed last, in order.
    """
    classes = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    direct = [path.name for path in folder.glob("[!.]*") if path.name not in classes]
    names = [f"{name}" for name in direct if name.lower().endswith(EXTENSIONS)]
    visited = {folder.resolve(), *folder.resolve().parents}
    num_of_class = dict.fromkeys(classes, 0)
    waiting = [*classes]
    while waiting:
        place = waiting.pop(0)
        if (folder / place).resolve() in visited:
            continue
        for parent, inner, entries in os.walk(folder / place):  # follows no link
            path = Path(parent)
            visited.add(path.resolve())
            inner[:] = sorted(name for name in inner if name[0] != ".")
            waiting += sorted(
                (path / name).relative_to(folder).as_posix()
                for name in inner
                if (path / name).is_symlink()
            )
            for name in entries:
                if name[0] != "." and name.lower().endswith(EXTENSIONS):
                    names.append((path / name).relative_to(folder).as_posix())
                    num_of_class[names[-1].split("/")[0]] += 1
    if names and len(names) > sum(num_of_class.values()) > 0:
        raise ValueError(
            f"{folder} has pictures both directly and in sub-folders: "
            "move them into sub-folders, one per class, or all into the folder itself"
        )
    if not names:
        raise ValueError(
            f"there is no picture in {folder}: looked for files named {' '.join(EXTENSIONS)}"
        )
    empty = [label for label, num in num_of_class.items() if num == 0]
    if empty and len(empty) < len(classes):
        raise ValueError(
            f"there is no picture in {folder / empty[0]}: add some or remove the folder"
        )
    prefix = folder.relative_to(root).as_posix()
    return [name if prefix == "." else f"{prefix}/{name}" for name in names]
