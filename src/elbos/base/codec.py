"""Conversion of dataclasses to JSON and to text, and back, without executing code.

| | for | `Sigmoid(k=2.0)` is |
|---|---|---|
| `encode`, `decode` | files | `{"type": "Sigmoid", "k": 2.0}` |
| `repr`, `parse` | the command line, reports | `Sigmoid(k=2.0)` |

Only classes that the annotation of a field admits are constructed. An abstract class admits the
dataclasses of a table that is registered here (by `elbos.theory.names`).
"""

import ast
import dataclasses
import functools
import hashlib
import json
import math
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from elbos.base.checks import alternatives, type_names
from elbos.base.errors import shortened, suggestion

LATE = "late"  # metadata key of a field added after objects of the class had been saved
_MAX_LISTED = 8  # numbers in a message
_MAX_TEXT = 200  # characters
_FUNCTION = r"""('[^']*'|"[^"]*")|[^\s'"(),=]+\.py:\w+"""  # a quoted text, or FILE.py:FUNCTION
_tables: dict[Any, Callable[[], tuple[type, ...]]] = {}
_from_file: dict[type, Callable[[str], Any]] = {}


def register(annotation: Any, table: Callable[[], tuple[type, ...]]) -> None:
    """Register the subclasses of an abstract dataclass for use in configurations.

    A configuration may use these for fields annotated with the abstract class.
    """
    _tables[annotation] = table


def register_file_reader(kind: type, read: Callable[[str], Any]) -> None:
    """Register a function that loads objects of a class from Python files.

    Its argument is a text, FILE.py:FUNCTION.
    """
    _from_file[kind] = read


def options(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a type annotation allows.

    A registered abstract class is replaced by its concrete dataclasses.
    """
    return _options(annotation, tuple((kind, table()) for kind, table in _tables.items()))


@functools.cache
def _options(annotation: Any, tables: tuple[tuple[Any, tuple[type, ...]], ...]) -> tuple[Any, ...]:
    for kind, table in tables:
        if annotation == kind:
            return table
    members = alternatives(annotation)
    return members if len(members) == 1 else tuple(o for m in members for o in _options(m, tables))


def classes(annotation: Any) -> dict[str, type]:
    return dict(_classes(options(annotation)))


@functools.cache
def _classes(admitted: tuple[Any, ...]) -> dict[str, type]:
    kinds = [o for o in admitted if isinstance(o, type) and dataclasses.is_dataclass(o)]
    return {kind.__name__: kind for kind in kinds}


# --- JSON ----------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Convert a dataclass to JSON values.

    Values of fields are converted likewise. Fields marked `LATE` are omitted at their default, so
    that earlier digests stay valid.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: encode(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.init and not (f.metadata.get(LATE) and getattr(value, f.name) == f.default)
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):  # of names: none is "type"
        return {"type": "dict", **{name: encode(item) for name, item in value.items()}}
    if isinstance(value, Path) or value in (math.inf, -math.inf):  # JSON has no infinity
        return str(value)
    return value


def decode(annotation: Any, value: Any, where: str = "config") -> Any:
    """Convert JSON values back to an object of a given type.

    The values are those of `encode`. A field with a default may be missing, as in a file older than
    the field.

    Raises:
        ValueError: If `value` does not fit the annotation; the message names the place in the file.
    """
    admitted = options(annotation)
    if value is None and type(None) in admitted:
        return None
    if known := classes(annotation):
        name = value.get("type") if isinstance(value, dict) else value
        if isinstance(value, dict) and "type" not in value:
            raise ValueError(f'{where} has no "type", such as "{next(iter(known))}".')
        if not (isinstance(value, dict) and isinstance(name, str) and name in known):
            raise ValueError(f"{where} is {_shown(repr(name))}: {suggestion(str(name), known)}")
        return _decode_fields(known[name], value, where)
    for option in admitted:
        if get_origin(option) is dict and isinstance(value, dict):
            kind = get_args(option)[1]
            named = {name: v for name, v in value.items() if name != "type"}
            return {name: decode(kind, v, f"{where}.{name}") for name, v in named.items()}
        if get_origin(option) is tuple and isinstance(value, list):
            kinds = get_args(option)
            kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
            if len(kinds) == len(value):
                return tuple(decode(kind, v, where) for kind, v in zip(kinds, value, strict=True))
        if get_origin(option) is typing.Literal and value in get_args(option):
            return value
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and (type(value) is int or value in ("inf", "-inf")):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    raise ValueError(f"{where} is {_shown(repr(value))}: expected {type_names(annotation)}.")


def _decode_fields(cls: type, value: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    given = value.keys() - {"type"}
    if unknown := sorted(given - fields.keys()):
        raise ValueError(f"{where} has no entry {unknown[0]!r}: {suggestion(unknown[0], fields)}")
    if missing := sorted(name for name in fields.keys() - given if _is_required(fields[name])):
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    hints = _types(cls)
    try:
        return cls(**{name: decode(hints[name], value[name], f"{where}.{name}") for name in given})
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{where} is not a valid {cls.__name__}: {error}") from error


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def normalize(value: Any) -> None:
    """Store the numbers and lists of a dataclass as a file gives them back, such as 3 as 3.0.

    So that a configuration and its copy from a file have the same digest. Objects stay themselves:
    `Typed` has done the same with theirs.

    Raises:
        ValueError: If a field cannot be stored; the message names it.
    """
    hints = _types(value.__class__)
    for f in dataclasses.fields(value):
        stored = decode(hints[f.name], encode(getattr(value, f.name)), f.name)
        if not dataclasses.is_dataclass(stored):
            object.__setattr__(value, f.name, stored)  # also of a frozen dataclass


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Any, new: Any, where: str = "") -> str | None:
    """Return the first difference between two encoded configurations as text.

    For example, `weighting.k = 2.0, not 3.0`. The result is None if all entries agree, except for
    `output` and `execution`.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old["type"] == new["type"]:
        if old.keys() != new.keys():
            names = (", ".join(name for name in one if name != "type") for one in (old, new))
            return f"{where} = {', not '.join(names)}"
        for name in old:
            if name not in ("output", "execution"):
                found = difference(old[name], new[name], f"{where}.{name}" if where else name)
                if found:
                    return found
        return None
    if old == new:
        return None
    limit = _MAX_TEXT if isinstance(old, str) else _MAX_LISTED
    if isinstance(old, list | str) and len(old) > limit:
        return f"other {where}"
    old_name, new_name = (v["type"] if isinstance(v, dict) else v for v in (old, new))
    return f"{where} = {old_name}, not {new_name}"


# --- text ----------------------------------------------------------------------------------------


def parse(annotation: Any, text: str, where: str = "text", *, runs_files: bool = False) -> Any:
    """Build an object of a given type from the text of a Python expression.

    The expression is parsed, not evaluated. With `runs_files`, a weighting may be a function in a
    Python file, `FILE.py:FUNCTION`, and that file is run.

    Args:
        annotation: The type to parse: a dataclass, a registered abstract class, a union or a tuple
            of those.
        text: Calls, or bare names of classes whose fields have their defaults; a tuple with commas.
        where: Name of the text in error messages.
        runs_files: Whether a Python file named in the text is run. Leave it False for text read
            from a file.

    Raises:
        OSError: If a Python file cannot be read.
        ValueError: If the text is not an expression of this type.

    Examples:
        >>> from elbos.theory.parameterizations import Parameterization
        >>> from elbos.theory.weightings import Weighting
        >>> parse(Weighting, "Monotone(EDM(mean=2))")
        Monotone(inner=EDM(mean=2.0, std=2.4, sigma_data=0.5))
        >>> parse(tuple[Parameterization, Weighting], "V(), Sigmoid")
        (V(), Sigmoid(k=2.0))
    """
    quoted = re.sub(_FUNCTION, lambda found: found[1] or repr(found[0]), text.strip())
    try:
        node = ast.parse(quoted, mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(f"{where} is {_shown(text)!r}: expected a class and its fields.") from None
    return decode(annotation, _as_json(annotation, node, where, runs_files), where)


def _as_json(annotation: Any, node: ast.expr, where: str, runs_files: bool) -> Any:
    if get_origin(annotation) is tuple and ... not in get_args(annotation):
        parts, kinds = node.elts if isinstance(node, ast.Tuple) else [node], get_args(annotation)
        if len(parts) != len(kinds):
            raise ValueError(
                f"{where} is {_shown(node)!r}: expected {', '.join(map(type_names, kinds))}."
            )
        return [_as_json(*one, where, runs_files) for one in zip(kinds, parts, strict=True)]
    if get_origin(annotation) is tuple and classes(get_args(annotation)[0]):
        parts = node.elts if isinstance(node, ast.Tuple) else [node]
        return [_as_json(get_args(annotation)[0], part, where, runs_files) for part in parts]
    if known := classes(annotation):
        return _call_as_json(known, node, where, runs_files)
    if (word := ast.unparse(node)) in ("inf", "-inf"):  # as `repr` writes infinity
        return word
    try:
        return encode(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(f"{_shown(node)} is no number.") from None


def _call_as_json(known: dict[str, type], node: ast.expr, where: str, runs_files: bool) -> Any:
    readers = [read for kind, read in _from_file.items() if runs_files and kind in known.values()]
    if readers and isinstance(node, ast.Constant) and type(node.value) is str:
        return encode(readers[0](node.value))
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name) or function.id not in known:
        files = " and it is no FILE.py:FUNCTION" if readers else ""
        name = function.id if isinstance(function, ast.Name) else ""
        raise ValueError(f"There is no {_shown(node)}{files}: {suggestion(name, known)}")
    cls = known[function.id]
    hints = _types(cls)
    fields = [f for f in dataclasses.fields(cls) if f.init]
    defaults = {f.name: encode(f.default) for f in fields if f.default is not dataclasses.MISSING}
    given = _arguments(node, [f.name for f in fields if not f.kw_only])
    values = {
        name: _as_json(hints.get(name), value, where, runs_files) for name, value in given.items()
    }
    return {"type": function.id, **defaults, **values}


def _arguments(node: ast.expr, positional: list[str]) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Call):
        return {}
    names = [*positional[: len(node.args)], *(keyword.arg for keyword in node.keywords)]
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    if len(names) < len(values) or None in names or len(set(names)) < len(names):
        raise ValueError(f"{_shown(node)}: write each of its numbers once, with its name.")
    return dict(zip(map(str, names), values, strict=True))


def _shown(text: ast.expr | str) -> str:
    return shortened(text if isinstance(text, str) else ast.unparse(text))
