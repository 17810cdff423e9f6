"""Upload of the folder of an exported model to the Hugging Face Hub, with the user's token."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elbos.base.errors import flat
from elbos.base.extras import needs

_MAX_REASON = 300  # characters of an error of the Hub


def require_pushable(repo: str) -> None:
    hub = _hub()
    owner, _, name = repo.partition("/")
    if not (owner and name):
        raise ValueError(f"{repo!r} is not a repository: give OWNER/NAME.")
    try:
        hub.utils.validate_repo_id(repo)
    except ValueError as error:
        raise ValueError(f"{repo!r} is not a repository: {flat(error)}") from error
    if hub.get_token() is None:
        raise ValueError(
            "a token of the Hub is missing: log in with `hf auth login`, or set HF_TOKEN."
        )


def push(folder: Path, names: Sequence[str], repo: str, api: Any = None) -> str:
    """Upload files to a model repository on the Hugging Face Hub.

    A missing repository is created as private.

    Args:
        folder: The folder.
        names: The files to upload, relative to the folder.
        repo: OWNER/NAME.
        api: A replacement for `huggingface_hub.HfApi()`.

    Returns:
        The URL of the upload.

    Raises:
        OSError: If the Hub refuses the upload or cannot be reached; the folder stays complete, and
            the same command tries again.
        ValueError: If huggingface_hub or a token is missing, or the name is invalid.
    """
    if api is None:
        require_pushable(repo)
        api = _hub().HfApi()
    try:
        api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=list(names),
            commit_message="Export of elbos",
        )
    except Exception as error:  # of the library and of its network, of any type
        raise OSError(
            f"{folder} is written, but not pushed to {repo}: {flat(error)[:_MAX_REASON]} The same "
            "command tries again."
        ) from error
    return str(getattr(done, "commit_url", done))


def _hub() -> Any:
    with needs("hub"):
        return importlib.import_module("huggingface_hub")
