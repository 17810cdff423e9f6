"""Folders of the Hugging Face Hub, read by the name OWNER/NAME.

The Hub's own client downloads and caches them, and with `HF_HUB_OFFLINE=1` only its cache is read.
"""

import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from elbos.base.errors import flat
from elbos.base.extras import MissingExtra, needs
from elbos.base.progress import LOGGER

_NAME = re.compile(r"([\w.-]+)/([\w.-]+)(?:@(?!.*\.\.)(\w[\w./-]*))?")  # git names no ".." either
_MAX_REASON = 200  # characters
_PATIENCE, _MAX_SECONDS = 10.0, 60.0  # before a message; for all JSON files of a model


def resolved(name: str | Path, patterns: Sequence[str]) -> tuple[Path, str]:
    """Download a model from the Hugging Face Hub unless it is a local folder.

    The folder and the model's name are returned. A path on this machine is returned unchanged.
    OWNER/NAME or OWNER/NAME@REVISION without a folder OWNER here is a repository on the Hub, whose
    name is returned as OWNER/NAME@COMMIT.

    Args:
        name: The path or the repository. A revision is a branch, a tag or a commit.
        patterns: The files to download, such as `*.json`, where `*` also matches folders.

    Raises:
        FileNotFoundError: If the repository cannot be read.
    """
    path, match = Path(name), _NAME.fullmatch(str(name))
    if path.exists() or match is None or Path(match[1]).exists():
        return path, str(path)
    owner, repo, revision = match.groups()
    try:
        folder = _downloaded(f"{owner}/{repo}", revision, patterns)
    except MissingExtra as error:
        raise FileNotFoundError(
            f"there is no folder {name}; for one on the Hub, {error}"
        ) from error
    except Exception as error:  # the library and the network raise any type
        raise FileNotFoundError(
            f"there is no folder {name}, and it cannot be read from the Hub: "
            f"{flat(error)[:_MAX_REASON]}"
        ) from error
    return folder, f"{owner}/{repo}@{folder.name}"


def _downloaded(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    with needs("hub"):
        from huggingface_hub import snapshot_download
    folder: Future[str] = Future()

    def download() -> None:
        try:
            folder.set_result(
                snapshot_download(repo, revision=revision, allow_patterns=[*patterns])
            )
        except Exception as error:
            folder.set_exception(error)

    Thread(target=download, daemon=True).start()  # a thread of a pool would outlive its timeout
    try:
        return Path(folder.result(_PATIENCE))
    except TimeoutError:
        LOGGER.info(f"Waiting for the Hugging Face Hub to send {repo}.")
    are_small = all(pattern.endswith(".json") for pattern in patterns)
    try:
        return Path(folder.result(_MAX_SECONDS if are_small else None))
    except TimeoutError:
        raise TimeoutError(f"no answer in {_MAX_SECONDS:g} seconds, try later") from None
