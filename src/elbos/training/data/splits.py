"""Division of images into training, validation and test images, by their names."""

import hashlib
import os
from collections.abc import Iterable, Mapping

from elbos.training.data.dataset import SPLITS

SPLIT_WORDS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Names of splits in tars and datasets."""

_HELD_OUT = 0.05
_VALIDATION_SHARE = 0.1  # of the images in `val` if there is no `test`


def divided(groups: Mapping[str, list[str]], where: str) -> list[list[str]]:
    """Divide image names into training, validation and test images.

    Returns three sorted lists. Groups `train`, `test` and perhaps `val` are the splits. With
    `train` and `val` alone, as in ImageNet, a tenth of `val` is for validation and the rest for
    testing. Otherwise, as in the group "", 5 % of all images are for validation and 5 % for
    testing. Images are divided by a hash of their names.

    Raises:
        ValueError: If there are too few images; the message names their location `where`.
    """
    train, val, test = (groups.get(name, []) for name in SPLITS)
    if train and test and not val:
        train, val, _ = by_hash(train, with_test=False)
    elif train and val and not test:
        if len(val) < 2:
            raise ValueError(
                f"{where} has {len(val)} picture in val and no test: add more, to be divided for "
                "validation and testing, or a test"
            )
        ranked = sorted(val, key=hashed)
        num_val = sum(hashed(name) < _VALIDATION_SHARE for name in ranked)
        num_val = min(max(1, num_val), len(ranked) - 1)
        val, test = by_path(ranked[:num_val]), by_path(ranked[num_val:])
    elif not (train and val and test):
        return by_hash([name for group in groups.values() for name in group], with_test=True)
    return [train, val, test]


def by_hash(names: list[str], with_test: bool) -> list[list[str]]:
    """Divide image names into three splits by a hash of the name.

    The splits are for training, validation and testing. Validation and, if `with_test`, test have
    at least one image each; else test is empty.
    """
    if len(names) < 2 + with_test:
        raise ValueError(
            f"only {len(names)} pictures for training, validation and testing: add some"
        )
    ranked = sorted(names, key=hashed)
    num_val = max(1, sum(hashed(name) < _HELD_OUT for name in ranked))
    num_test = max(1, sum(hashed(name) >= 1 - _HELD_OUT for name in ranked)) if with_test else 0
    stop = len(ranked) - num_test
    return [by_path(part) for part in (ranked[num_val:stop], ranked[:num_val], ranked[stop:])]


def hashed(name: str) -> float:
    """Return a number in [0, 1) from a hash of a name, equal on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def by_path(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name.split("/"))
