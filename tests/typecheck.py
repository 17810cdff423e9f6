"""Checks annotations at run time, by jaxtyping and beartype, with two of PEP 484's and 544's
liberties.

A check costs more than most functions that it checks. So a call is not checked if one that looks
the same was right: the same function, arguments and result of the same types, tensors of the same
shape and dtype, and the same text. Each test has hundreds of calls that are looked at, which are
all of most tests; what a loop calls hundreds of thousands of times is looked at first.
"""

import collections
import dataclasses
import functools
import itertools
import threading
import types
import typing
from importlib import machinery
from unittest import mock

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

NUM_CALLS = 500  # whose arguments and results are looked at, in each test
NUM_CLOSURES = 3  # of one function inside another, in each process: each costs milliseconds
NUM_ELEMENTS, DEPTH = 10, 4  # of a container, that tell what it looks like; annotations end there
MAX_LITERAL = 40  # characters: longer text is no literal of an annotation

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
_left = NUM_CALLS
_closures: collections.Counter[types.CodeType] = collections.Counter()
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check whatever is imported of elbos from now on."""
    jaxtyping.install_import_hook("elbos", "typecheck.check")
    jaxtyping.jaxtyped = jaxtyped
    _import_hook._JaxtypingLoader.get_code = _get_code
    _import_hook._JaxtypingLoader.exec_module = machinery.SourceFileLoader.exec_module


def _get_code(loader, name):
    """A module's code, from a cache with a name of its own; jaxtyping's loader gives that name also
    to the caches of what the module imports, so that SciPy and plotly are compiled again.
    """
    named = functools.partial(
        _import_hook._optimized_cache_from_source, loader._typechecker.get_hash()
    )
    with mock.patch("importlib._bootstrap_external.cache_from_source", named):
        return machinery.SourceFileLoader.get_code(loader, name)


def begin_test() -> None:
    """A test has all of its checks again."""
    global _left
    _left = NUM_CALLS
    jaxtyping.config.update("jaxtyping_disable", False)


def check(function):
    """Check calls of the function; of a protocol, that what is asked for is there.

    A `Model` is not looked at: looking for its dataset loads it.
    """
    for name, hint in getattr(function, "__annotations__", {}).items():
        if getattr(hint, "_is_protocol", False):
            typing.runtime_checkable(hint)
            if hint.__name__ == "Model":
                function.__annotations__[name] = object
    return _beartype(function)


def look(value, depth=DEPTH):
    """What an annotation can tell of a value."""
    return _look_of(type(value))(value, depth - 1) if depth else type(value)


@functools.cache
def _look_of(kind):
    if issubclass(kind, (torch.Tensor, np.ndarray)):
        return lambda array, _: (kind, array.dtype, array.shape)
    if issubclass(kind, dict):
        return lambda items, depth: (kind, *_looks(items.items(), depth))
    if issubclass(kind, (tuple, list, set, frozenset)):
        return lambda items, depth: (kind, *_looks(items, depth))
    if issubclass(kind, str):
        return lambda text, _: text if len(text) < MAX_LITERAL else kind
    return lambda value, _: kind


def _looks(items, depth):
    return (look(item, depth) for item in itertools.islice(items, NUM_ELEMENTS))


def jaxtyped(*context, typechecker=None):
    """A decorator like jaxtyping's own, that checks what looks new."""
    if context:
        return _jaxtyped(*context)

    def decorate(function):
        if dataclasses.is_dataclass(function):
            if isinstance(vars(function).get("__init__"), types.FunctionType):
                function.__init__ = _checked_once(function.__init__, typechecker)
            return function
        if not isinstance(function, types.FunctionType):
            return _jaxtyped(function, typechecker=typechecker)
        if torch.compiler.is_compiling():
            return function
        if "<locals>" in function.__qualname__:
            _closures[function.__code__] += 1
            if _closures[function.__code__] > NUM_CLOSURES:
                return function
        return _checked_once(function, typechecker)

    return decorate


def _checked_once(function, typechecker):
    """Two functions of jaxtyping's, each made when it is first needed: that takes milliseconds."""
    seen = collections.defaultdict(set)
    returned = threading.local()

    @functools.cache
    def checked():
        return _jaxtyped(function, typechecker=typechecker)

    @functools.cache
    def checked_result():
        again = functools.wraps(function)(lambda *args, **kwargs: returned.result)
        return _jaxtyped(again, typechecker=typechecker)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        global _left
        if torch.compiler.is_compiling() or not _left or jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        _left -= 1
        arguments = look(args), look(kwargs) if kwargs else None
        if arguments not in seen:
            result = checked()(*args, **kwargs)
        else:
            result = function(*args, **kwargs)
            if look(result) in seen[arguments]:
                return result
            returned.result = result
            checked_result()(*args, **kwargs)
        seen[arguments].add(look(result))
        return result

    # as of a library's, its lines are not those of a user that a message names
    wrapper.__code__ = wrapper.__code__.replace(co_filename="<frozen typecheck>")
    return wrapper
