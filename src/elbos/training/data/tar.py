"""WebDataset tars: images and labels in uncompressed archives.

Files of a tar whose names agree up to the first dot are one sample, which holds one image:
`0012.jpg`, `0012.cls`.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.base.errors import flat
from elbos.training.data.dataset import MAX_CLASSES
from elbos.training.data.pack import EXTENSIONS, SPLIT_WORDS, Encoded, Pictures


@dataclass(frozen=True, kw_only=True)
class Tar(Pictures):
    """Images in WebDataset tar files, decoded to 8-bit RGB of size x size pixels.

    Tars with the words train, val or test in their names are of these splits, else 5 % of the
    pictures are for validation and 5 % for testing, chosen by a hash of their names.
    """

    path: Path
    """The tars: a folder of them, or a pattern, quoted, as 'shards/*.tar', 'train-{000..099}.tar'.
    Stored as an absolute path."""

    label: str = "cls"
    """Extension of the files that hold the class labels, if present."""

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def title(self) -> str:
        return self.path.name if self.path.is_dir() else self.path.parent.name

    def source(self) -> Any:
        """Return paths, sizes and times of the tars, and the extension of labels."""
        tars = map(files.regular, self._tars())
        stats = [(str(tar.resolve()), tar.stat()) for tar in tars]
        return [self.label, [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]]

    def images(self) -> tuple[Iterator[Encoded], None]:
        """Return the images of all tars.

        Raises:
            FileNotFoundError: If there is no tar file.
            ValueError: If a tar is corrupt, a sample holds two images, or a label is no class.
        """
        return (image for tar in self._tars() for image in _images(tar, self.label)), None

    def _tars(self) -> list[Path]:
        pattern = str(self.path / "*.tar") if self.path.is_dir() else str(self.path)
        parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
        ranges = [
            [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
            for first, last in zip(parts[1::3], parts[2::3], strict=True)
        ]
        tars: set[Path] = set()
        for numbers in product(*ranges):
            pairs = zip(parts[::3], (*numbers, ""), strict=True)
            path = Path("".join(text + number for text, number in pairs))
            tars |= set(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not tars:
            raise FileNotFoundError(f"there is no tar {pattern}: give a folder or a pattern")
        return sorted(tars)


def _images(path: Path, label: str) -> Iterator[Encoded]:
    words = re.split(r"[^a-z]+", path.name.lower())
    split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(files.regular(path), "r:") as tar:
            for member in _members(tar, path):
                folder, _, base = member.name.rpartition("/")
                key = f"{folder}/{base.partition('.')[0]}"
                if not member.isreg() or base[:1] == ".":
                    continue
                if base.lower().endswith(EXTENSIONS):
                    if key in pictures:
                        raise ValueError(
                            f"{pictures[key].name} and {member.name} in {path} are one sample, as "
                            "their names agree up to the first dot: give each sample one picture"
                        )
                    pictures[key] = member
                elif base.endswith(f".{label}"):
                    content = _content(tar, member)[:64]
                    if not re.fullmatch(rb"\s*\d+\s*", content) or int(content) >= MAX_CLASSES:
                        raise ValueError(
                            f"{member.name} in {path} holds {content[:20]!r}: give the number of a "
                            f"class, from 0 to {MAX_CLASSES - 1}"
                        )
                    labels[key] = int(content)
            if labels and len(labels.keys() & pictures.keys()) < len(pictures):
                first = next(member for key, member in pictures.items() if key not in labels)
                raise ValueError(f"{first.name} in {path} has no .{label}, unlike others: add it")
            for key, member in pictures.items():
                name = f"{path.name}/{member.name}"
                yield Encoded(name, _content(tar, member), split, labels.get(key))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is corrupt or compressed ({flat(error)}): give a tar") from error


def _members(tar: tarfile.TarFile, path: Path) -> list[tarfile.TarInfo]:
    """Return the members of a tar, of which the last is followed by zeros only.

    Python's reader takes any block of zeros, and any header that is damaged, for the end.
    """
    file, size, end, is_end = tar.fileobj, path.stat().st_size, 0, False
    members: list[tarfile.TarInfo] = []
    assert file is not None
    try:
        while (member := tar.next()) is not None:
            members.append(member)
            if member.size > size or tar.offset <= end:  # a forged size, on which Python may loop
                raise tarfile.ReadError(f"a size of {member.size:,} bytes")  # noqa: TRY301
            end = tar.offset
        file.seek(end)
        while (block := file.read(tarfile.BLOCKSIZE)) and not block.strip(b"\0"):
            is_end = True
        if block or not is_end:
            raise tarfile.ReadError("no end follows")  # noqa: TRY301
    except Exception as error:  # forged headers raise errors of every type
        last = members[-1].name if members else "its start"
        reason = flat(error) or type(error).__name__
        raise tarfile.ReadError(f"near {last}, byte {end:,}: {reason}") from error
    return members


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    return file.read()
