"""Image folders as datasets: the images are decoded into the cache once, and read from there."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from elbos.training.data.dataset import SPLITS
from elbos.training.data.pack import EXTENSIONS, Encoded, Pictures


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

    @property
    def place(self) -> str:
        return str(self.root)

    def source(self) -> Any:
        """Return the folder, and names, sizes and times of the images."""
        states: list[list[Any]] = []
        for image in self._listed():
            with suppress(OSError):  # decoding raises the error
                stat = (self.root / image.name).stat()
                # programs cannot set ctime
                states.append([image.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        return [str(self.root.resolve()), states]

    @property
    def has_splits(self) -> bool:
        """Return whether sub-folders divide the pictures into training and test pictures."""
        return {"train", "test"} <= self._folders or self._folders == {"train", "val"}

    @property
    def _folders(self) -> set[str]:
        return {path.name for path in self.root.glob("[!.]*") if path.is_dir()}

    def images(self) -> tuple[Iterator[Encoded], None]:
        return iter(self._listed()), None

    def _listed(self) -> list[Encoded]:
        root = self.root
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
        folders, has_splits = self._folders, self.has_splits
        if folders == {"train"}:
            raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
        images = []
        for split in [name for name in SPLITS if name in folders] if has_splits else [""]:
            for name in _names(root, root / split):
                *classes, _ = name.split("/")[int(has_splits) :]
                label = classes[0] if classes else None
                images.append(Encoded(name, root / name, split, label))
        return images


def measured_split(data: object, *, is_trained_on: bool) -> Literal["test", "all"]:
    """Return "all" for a folder that is undivided and was not trained on, else "test"."""
    is_whole = isinstance(data, Folder) and not data.has_splits and not is_trained_on
    return "all" if is_whole else "test"


def _names(root: Path, folder: Path) -> list[str]:
    """Return the sorted names of images in a folder and its class folders, relative to `root`.

    Class folders may be links; links to folders inside of them are not followed.
    """
    classes = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    walked = [next(os.walk(folder)), *(level for path in classes for level in os.walk(path))]
    paths = [
        Path(parent, name).relative_to(root)
        for parent, _, names in walked
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]
    paths = [path for path in paths if not any(part[0] == "." for part in path.parts)]
    if not paths:
        raise ValueError(
            f"there is no picture in {folder}: looked for files named {' '.join(EXTENSIONS)}"
        )
    if len({root / path.parent == folder for path in paths}) == 2:
        raise ValueError(
            f"{folder} has pictures both directly and in sub-folders: move all into sub-folders, "
            "one per class, or none"
        )
    return [path.as_posix() for path in sorted(paths)]
