"""The run-time checker of annotations: beartype, with two of PEP 484's and 544's liberties.

A check costs more than most functions that it checks. Each test has thousands of them, which is
every call of most tests; what a loop calls hundreds of thousands of times is checked at first.
"""

import collections
import functools
import types
import typing

from beartype import BeartypeConf, beartype
from jaxtyping import config

NUM_CHECKS = 10_000  # of arguments or results, in each test: a second or so
NUM_CLOSURES = 3  # of one function inside another, in each process: each costs milliseconds

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
_left = NUM_CHECKS
_closures: collections.Counter[types.CodeType] = collections.Counter()


def begin_test():
    """A test has all of its checks again."""
    global _left
    _left = NUM_CHECKS
    config.update("jaxtyping_disable", False)


def check(function):
    """Check calls of the function; of a protocol, that what is asked for is there."""
    if "<locals>" in function.__qualname__ and isinstance(function, types.FunctionType):
        _closures[function.__code__] += 1
        if _closures[function.__code__] > NUM_CLOSURES:
            return function
    for hint in getattr(function, "__annotations__", {}).values():
        if getattr(hint, "_is_protocol", False):
            typing.runtime_checkable(hint)
    checked = _beartype(function)

    @functools.wraps(checked)
    def counted(*args, **kwargs):
        global _left
        _left -= 1
        if _left < 0:
            config.update("jaxtyping_disable", True)
        return checked(*args, **kwargs)

    return counted
