"""Downloads: of data that a user names, and never of those that the files of a run name."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ARE_ALLOWED = ContextVar("are_downloads_allowed", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Load data of this machine alone within the `with` block: a run may be a stranger's."""
    token = _ARE_ALLOWED.set(False)
    try:
        yield
    finally:
        _ARE_ALLOWED.reset(token)


def are_allowed() -> bool:
    """Return whether data may be downloaded here."""
    return _ARE_ALLOWED.get()
