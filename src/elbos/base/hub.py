"""Folders of the Hugging Face Hub, read by the name OWNER/NAME.

The Hub's own client downloads and caches them, and with `HF_HUB_OFFLINE=1` only its cache is read.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from elbos.base.errors import flat
from elbos.base.extras import MissingExtra, needs

_NAME = re.compile(r"([\w.-]+)/([\w.-]+)(?:@([\w./-]+))?")
_MAX_REASON = 200  # characters


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
        with needs("hub"):
            from huggingface_hub import snapshot_download
        folder = Path(
            snapshot_download(f"{owner}/{repo}", revision=revision, allow_patterns=[*patterns])
        )
    except MissingExtra as error:
        raise FileNotFoundError(
            f"there is no folder {name}; for one on the Hub, {error}"
        ) from error
    except Exception as error:  # of the library or the network, of any type
        raise FileNotFoundError(
            f"there is no folder {name}, and it cannot be read from the Hub: "
            f"{flat(error)[:_MAX_REASON]}"
        ) from error
    return folder, f"{owner}/{repo}@{folder.name}"
