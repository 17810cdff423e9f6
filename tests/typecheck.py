"""The run-time checker of annotations: beartype, with two of PEP 484's and 544's liberties."""

import typing

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function):
    """Check calls of the function; of a protocol, that what is asked for is there."""
    for hint in getattr(function, "__annotations__", {}).values():
        if getattr(hint, "_is_protocol", False):
            typing.runtime_checkable(hint)
    return _beartype(function)
