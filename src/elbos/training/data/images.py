"""Images of a user: a folder of pictures, of tars or of parquet files, or a dataset of the Hub.

Pictures in a folder need nothing but Pillow. Everything else is read by Hugging Face's `datasets`,
which only feeds the decoder: a training reads random rows of arrays, 60 times as fast.
"""

import itertools
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from elbos.base import files
from elbos.base.cache import build_once, cache_dir
from elbos.base.checks import Typed, require_positive
from elbos.base.codec import digest
from elbos.base.errors import flat
from elbos.base.extras import MissingExtra, imported
from elbos.base.formats import CorruptFile
from elbos.base.progress import at_level
from elbos.training.data import packed
from elbos.training.data.dataset import SPLITS, Dataset, require_download
from elbos.training.data.pack import Sample, first_of, pack, report_left_out

_ENDINGS = ("bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
_KINDS = {
    "pictures": tuple(f".{ending}" for ending in _ENDINGS),
    "webdataset": (".tar",),
    "parquet": (".parquet",),
}
_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_IN_TARS = (*_ENDINGS, *map(str.upper, _ENDINGS))
_MAX_RANGE = 100_000  # files; longer numbers are dates or times
_FORMAT = 3  # increment when decoded pixels change, so that old caches are not used


@dataclass(frozen=True, kw_only=True)
class Images(Typed):
    """Images of a folder or of the Hugging Face Hub, decoded to 8-bit RGB of size x size pixels.

    The folder holds pictures, WebDataset's tars or parquet files: those of the three that are most
    are read, and one line counts each kind of file that is left out. Other than pictures needs
    `pip install 'elbos[datasets]'`.

    Classes of pictures are the sub-folders of the first level. With sub-folders `train`, `test` and
    perhaps `val`, those are the splits, and the classes are below them. Tars and parquet files with
    one of these words in their names belong to that split. See `pack.divided` for what is missing.

    Pictures are bmp, gif, jpeg, png, ppm, pgm, tiff and webp, by the ending of their name. Each is
    rotated as its EXIF tag says, laid on white where it is transparent, resized to `size` at its
    short side and cropped at the centre.
    """

    path: str
    """A folder, stored as an absolute path, or the name of a dataset on the Hub."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that is trained on, at another place in each epoch;
    validation and test use the centre. Default: the entire picture."""

    skip_bad: bool = False
    """Leave out pictures that cannot be decoded, with a warning, instead of stopping."""

    name: str | None = None
    """Name of the configuration of a dataset on the Hub, if it has several."""

    image: str = "image"
    """The column of pictures in parquet files and on the Hub."""

    label: str | None = "label"
    """The column of class labels in parquet files and on the Hub; in tars the ending of the files
    that hold them, by default cls. None ignores classes, those of a folder of pictures, too."""

    def __post_init__(self) -> None:
        require_positive(size=self.size)
        if Path(self.path).expanduser().is_dir():  # runs resume from other folders
            object.__setattr__(self, "path", str(files.expanded(self.path)))

    def load(self) -> Dataset:
        """Return the dataset of the images, which the first call decodes into the user's cache.

        The cache is `~/.cache/elbos` (or `$XDG_CACHE_HOME/elbos`), under a digest of the source: of
        a folder, the names, sizes and times of its files; of the Hub, the name alone.
        """

        def read(folder: Path) -> Dataset:
            try:
                return packed.load(folder)
            except (OSError, ValueError) as error:
                raise CorruptFile(f"the cache {folder} is corrupt") from error

        place = cache_dir() / f"images-{self._digest()[:20]}"
        dataset = build_once(place, self._build, read)
        return dataset.with_augmentation(flip=self.flip, crop=self.crop)

    def pack(self, out: Path, *, jobs: int | None = None) -> None:
        """Decode the images into a folder of arrays, one per split, for `Packed`.

        A folder that is complete is not changed, and refused if the images have changed since. One
        thread per core decodes by default.
        """
        source = self._digest()  # fails before anything is written
        with suppress(OSError):
            out.rmdir()  # an empty folder
        if os.path.lexists(out) and not (out / packed.INDEX).exists():
            raise ValueError(f"{out} exists, and holds no packed data: name a new folder.")
        index = build_once(out, partial(self._build, jobs=jobs), packed.Index.read)
        if index.source != source:
            raise ValueError(
                f"{out} holds other data or sizes than {self.path} now: pack into a new folder."
            )

    @property
    def is_undivided(self) -> bool:
        """Return whether the data are pictures in a folder without sub-folders for splits."""
        return not self._has_splits and self._listed()[0] == "pictures"

    def _build(self, folder: Path, *, jobs: int | None = None) -> None:
        source, (kind, names) = self._digest(), self._listed()
        if kind == "pictures":
            samples, class_names = self._pictures(names), None
        else:
            samples, class_names = self._rows(kind, names)
        pack(
            samples,
            folder,
            name=Path(self.path).name,
            size=self.size,
            source=source,
            class_names=class_names,
            skip_bad=self.skip_bad,
            jobs=jobs,
        )

    def _digest(self) -> str:
        kind, names = self._listed()
        states: list[list[Any]] = []
        for name in names:
            with suppress(OSError):  # decoding raises the error
                stat = Path(self.path, name).stat()
                # programs cannot set ctime
                states.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
        columns = [self.name, self.image, self.label]
        return digest([_FORMAT, kind, self.size, self.skip_bad, self.path, columns, states])

    # --- what is there ---------------------------------------------------------------------------

    def _listed(self) -> tuple[str, list[str]]:
        """Return "hub", or what most of the files in a folder are, and the names of all files."""
        root = Path(self.path)
        if not root.is_dir():
            if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", self.path):
                raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
            return "hub", []
        names = list(_walk(root, 1 + self._has_splits))
        kinds = Counter(kind for name in names if (kind := _kind_of(name)))
        if not kinds:
            endings = " ".join(ending for endings in _KINDS.values() for ending in endings)
            raise ValueError(f"there is no picture in {root}: looked for files named {endings}")
        return kinds.most_common(1)[0][0], names

    @property
    def _has_splits(self) -> bool:
        folders = {path.name for path in Path(self.path).glob("[!.]*") if path.is_dir()}
        return {"train", "test"} <= folders or "train" in folders <= {"train", "val"}

    def _of_kind(self, kind: str, names: list[str]) -> list[str]:
        """Return the names of the files of a kind, and report other files."""
        passed_over = [name for name in names if _kind_of(name) != kind]
        report_left_out(self.path, f"file(s) that are hidden or no {kind}", passed_over)
        return [name for name in names if _kind_of(name) == kind]

    # --- samples ---------------------------------------------------------------------------------

    def _pictures(self, names: list[str]) -> Iterator[Sample]:
        has_splits, samples, outside = self._has_splits, list[Sample](), list[str]()
        for name in self._of_kind("pictures", names):
            parts = name.split("/")
            if has_splits and parts[0] not in SPLITS:
                outside.append(name)
                continue
            folders = parts[int(has_splits) : -1]
            label = folders[0] if folders and self.label is not None else None
            split = parts[0] if has_splits else "train"
            samples.append(Sample(name, Path(self.path, name), label, split))
        report_left_out(self.path, "picture(s) outside of train, val and test", outside)
        return iter(samples)

    def _rows(self, kind: str, names: list[str]) -> tuple[Iterator[Sample], tuple[str, ...] | None]:
        """Return the samples that `datasets` reads, and the names of the classes if it has any."""
        if kind == "hub":
            require_download(self.path, f"data:images --data.path {self.path}")
        is_tar = kind == "webdataset"
        pictures = _IN_TARS if is_tar else (self.image,)
        label = "cls" if is_tar and self.label == "label" else self.label
        labels = [] if label is None else [label]
        files_of = {} if kind == "hub" else self._by_split(kind, names)
        with _in_one_line(
            f"there is no folder {self.path}, and it" if kind == "hub" else self.path
        ):
            datasets = imported("datasets")
            picture, features = datasets.Image(decode=False), None
            if is_tar:  # by default, samples unlike the first ones are an error
                features = dict.fromkeys(("__key__", "__url__"), datasets.Value("string"))
                features |= dict.fromkeys(pictures, picture)
                features = datasets.Features(
                    features | dict.fromkeys(labels, datasets.Value("int64"))
                )
            where = (
                {"path": self.path, "name": self.name}
                if kind == "hub"
                else {"path": kind, "data_files": files_of, "features": features}
            )
            # Without a network, each retry is a warning.
            with at_level(logging.getLogger("huggingface_hub"), logging.ERROR):
                parts = dict(datasets.load_dataset(**where, streaming=True))
            splits = {name: parts[name] for name in parts if name in _SPLIT_WORDS}
            splits = splits or dict(itertools.islice(parts.items(), 1))
            if not is_tar:
                for name, part in splits.items():
                    columns = part.select_columns([self.image, *labels])
                    splits[name] = columns.cast_column(self.image, picture)
        passed_over = [name for name in parts if name not in splits]
        report_left_out(self.path, "split(s) of other names", passed_over)

        def samples() -> Iterator[Sample]:
            by_split = [(_SPLIT_WORDS.get(name, "train"), part) for name, part in splits.items()]
            rows = (
                (split, row)
                for split, part in sorted(by_split, key=lambda pair: SPLITS.index(pair[0]))
                for row in part
            )
            with _in_one_line(self.path):
                for number, (split, row) in enumerate(rows):
                    columns = (row[column] for column in pictures)
                    image: dict[str, Any] = next(filter(None, columns), {})
                    key = f"{number:09d}"
                    if is_tar:
                        key = f"{Path(row['__url__']).name}/{image.get('path') or row['__key__']}"
                    # A path without bytes is not opened: it may lead to any file.
                    yield Sample(key, image.get("bytes"), label and row[label], split)

        features = next(iter(splits.values())).features or {}
        class_names = getattr(features.get(label), "names", None)
        return samples(), class_names and tuple(class_names)

    def _by_split(self, kind: str, names: list[str]) -> dict[str, list[str]]:
        by_split: defaultdict[str, list[str]] = defaultdict(list)
        names = self._of_kind(kind, names)
        if missing := _missing(names):
            if not self.skip_bad:
                raise ValueError(
                    f"{self.path} lacks {len(missing):,} file(s) of a numbered range: "
                    f"{first_of(missing)}; add them, or pass --skip-bad (--data.skip-bad)"
                )
            report_left_out(self.path, "missing file(s) of a numbered range", missing)
        for name in names:
            words = re.split(r"[^a-z]+", name.lower())
            split = next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")
            by_split[split].append(str(files.regular(Path(self.path, name))))
        return dict(by_split)


@contextmanager
def _in_one_line(place: str) -> Iterator[None]:
    """Convert errors of `datasets` and the network, which are of any type, into a ValueError."""
    try:
        yield
    except MissingExtra as error:
        raise MissingExtra(f"{place} cannot be read: {error}", name=error.name) from error
    except Exception as error:
        raise ValueError(f"{place} cannot be read: {flat(error)[:300]}") from error


def _kind_of(name: str) -> str | None:
    """Return what a file is by the ending of its name, or None if it is hidden or of no kind."""
    if any(part.startswith(".") for part in name.split("/")):
        return None
    kinds = (kind for kind, endings in _KINDS.items() if name.lower().endswith(endings))
    return next(kinds, None)


def _missing(names: list[str]) -> list[str]:
    """Return the names that are missing between the first and the last file of a numbered range, as
    that of s-000.tar and s-002.tar with leading zeros, or of 00000-of-00002.parquet.
    """
    ranges: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
    for name in names:
        if part := re.fullmatch(r"(.*?)(\d+)((?:-of-\d+)?(?:\.[a-z]+)+)", name, re.IGNORECASE):
            before, number, after = part.groups()
            ranges[before, len(number), after].add(int(number))
    missing = []
    for (before, width, after), numbers in ranges.items():
        first, last = min(numbers), max(numbers)
        if total := re.match(r"-of-(\d+)", after):
            first = int(last >= int(total[1]))
            last = int(total[1]) - 1 + first
        if (total or first < 10 ** (width - 1)) and last - first < _MAX_RANGE:
            places = sorted(set(range(first, last + 1)) - numbers)
            missing += [f"{before}{number:0{width}d}{after}" for number in places]
    return missing


def _walk(folder: Path, num_links: int) -> Iterator[str]:
    """Yield the sorted names of all files in a folder, relative to it.

    Links to folders are followed in the first `num_links` levels, as classes may be links. Below,
    where they may lead in circles, they are yielded as files.
    """
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir() and (num_links > 0 or not entry.is_symlink()):
            inner = _walk(Path(entry.path), num_links - 1)
            yield from (f"{entry.name}/{name}" for name in inner)
        else:
            yield entry.name


_Data = TypeVar("_Data")


def fitted(data: _Data, size: int) -> _Data:
    """Return images in the size that a network takes, unless one was given; other data as is."""
    if isinstance(data, Images) and data.crop is None and data.size == Images.size:
        return replace(data, size=size)
    return data


def measured_split(data: object, *, is_trained_on: bool) -> Literal["test", "all"]:
    """Return "all" for a folder that is undivided and was not trained on, else "test"."""
    is_whole = isinstance(data, Images) and data.is_undivided and not is_trained_on
    return "all" if is_whole else "test"
