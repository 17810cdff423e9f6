"""Error classes, and conversion of any error to one line: what is wrong, where, and what to do."""

import errno
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

MAX_SHOWN = 60  # characters of a text that a message repeats
MAX_WORD = 300  # characters of a word, such as a path, that is repeated whole
LIBRARIES = (  # beginnings of the paths of code that is not the user's
    *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
    f"{Path(__file__).parents[1]}{os.sep}",
    "<frozen ",
)


class UsageError(Exception):
    """Error: the command line has invalid arguments."""


class Diverged(ArithmeticError):
    """Error: a loss or a gradient in training is not finite."""


class Interrupted(Exception):
    """Error: the user interrupted the program, whose finished work has been saved."""


_ADVICE = {
    errno.ENOSPC: "make room, and run the same command again",
    errno.EDQUOT: "make room, and run the same command again",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.ENOLCK: "the file system has no locks, name a path on another",
    errno.EOPNOTSUPP: "the file system has no locks, name a path on another",
    errno.EIO: "the disk or its server fails, name a path on another",
    errno.EROFS: "name a path that can be written",
    errno.ENOTDIR: "a file is where a folder should be, move it away",
}


def explained(error: BaseException) -> str:
    """Return an error's message on one line, of an OSError with the file's path and advice.

    Examples:
        >>> explained(OSError(errno.ENOSPC, "No space left on device", "runs/digits"))
        'runs/digits: No space left on device: make room, and run the same command again.'
        >>> explained(KeyboardInterrupt())
        'KeyboardInterrupt'
    """
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _ADVICE):
        advice = _ADVICE.get(error.errno or 0)
        name = "standard output" if error.filename is None else error.filename
        return flat(f"{name}: {error.strerror}" + (f": {advice}." if advice else "."))
    return flat(error) or type(error).__name__


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the innermost line on the stack that is the user's."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_code.co_filename.startswith(LIBRARIES):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def message(error: BaseException) -> str:
    """Return the message of an error in user code on one line of at most 300 characters.

    Builds of torch word a missing device differently; all of them raise the error in `_lazy_init`.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and frames[-1].f_code.co_name == "_lazy_init":
        device = frames[-1].f_globals["__name__"].rpartition(".")[2]
        return (
            f"this machine has no {device} device: compute on the device of the data, x.device, or "
            "make the device a parameter"
        )
    return flat(error)[:300] or "no message"


def suggestion(word: str, names: Iterable[str]) -> str:
    """Suggest similar known words in place of an unknown word, or any if none is similar.

    Examples:
        >>> suggestion("emd", ["elbo", "edm", "flow"])
        'did you mean edm?'
        >>> suggestion("nope", map(str, range(28)))
        'choose from 0, 1, 2, 3, 4 and 23 more.'
    """
    choices = list(names)
    lower = {name.lower(): name for name in choices}
    if close := get_close_matches(word.lower(), lower, cutoff=0.6):
        return f"did you mean {' or '.join(lower[name] for name in close)}?"
    num = len(choices) if len(choices) <= 8 else 5
    more = f" and {len(choices) - num} more" if num < len(choices) else ""
    return f"choose from {', '.join(choices[:num])}{more}."


def is_out_of_memory(error: BaseException) -> bool:
    is_torch = isinstance(error, RuntimeError) and "alloc" in str(error)
    return isinstance(error, MemoryError) or is_torch


def flat(message: object) -> str:
    """Return a message on one line with long words shortened and control characters escaped."""
    return printable(" ".join(shortened(word, MAX_WORD) for word in str(message).split()))


def shortened(text: str, above: int = MAX_SHOWN) -> str:
    return text if len(text) <= above else f"{text[:MAX_SHOWN]}…"


def printable(text: str) -> str:
    r"""Escape the non-printable characters of a text.

    Examples:
        >>> printable("a\x1b[31m b")
        'a\\x1b[31m b'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
