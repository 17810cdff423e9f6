"""Conversion of dataclasses to JSON and to text, and back, without executing code.

| | for | `Sigmoid(k=2.0)` is |
|---|---|---|
| `encode`, `decode` | files | `{"type": "Sigmoid", "k": 2.0}` |
| `repr`, `parse` | the command line, reports | `Sigmoid(k=2.0)` |

Only classes that the annotation of a field admits are constructed. An abstract class admits the
dataclasses of a table that is registered here (by `elbos.theory.names`). The same interpreter of
annotations, `decode`, checks the arguments of functions and the fields of objects (`base.checks`).
"""

import ast
import dataclasses
import functools
import hashlib
import json
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from torch import Tensor

from elbos import __version__
from elbos.base import files
from elbos.base.errors import MAX_SHOWN, shortened, suggestion

MAX_INT = 2**63 - 1  # largest integer of a tensor
# A quoted text, or what is no Python: FILE.py:FUNCTION, and names with dashes, as cogvideox-2b.
_TEXT = r"""('[^']*'|"[^"]*")|[^\s'"(),=][^'"(),=]*\.py:\w+|(?<![\w.])[A-Za-z]\w*(?:-[\w.]+)+"""
_MISFIT: Any = object()
_tables: dict[Any, Callable[[], tuple[type, ...]]] = {}
_names: dict[Any, Callable[[], Mapping[str, Any]]] = {}
_S = TypeVar("_S", bound="Stored")


class WrongTypeError(TypeError, ValueError):
    """Error: a value does not match its type annotation."""


def register(
    annotation: Any,
    table: Callable[[], tuple[type, ...]],
    names: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Register the classes that a configuration may use for fields of an abstract class.

    In text, each of `names` stands for an object of these classes.
    """
    _tables[annotation], _names[annotation] = table, names


# --- annotations ---------------------------------------------------------------------------------


@functools.cache
def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or any other type alone, without `Annotated`."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(o for member in get_args(annotation) for o in alternatives(member))
    return (annotation,)


def classes(annotation: Any) -> dict[str, type]:
    """Return the dataclasses that an annotation admits, those registered for an abstract class."""
    kinds = [
        kind
        for option in ([annotation] if annotation in _tables else alternatives(annotation))
        for kind in (_tables[option]() if option in _tables else [option])
    ]
    return {k.__name__: k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)}


@functools.cache
def hints(annotated: Any) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def type_names(annotation: Any) -> str:
    names: list[str] = []
    for option in alternatives(annotation):
        if get_origin(option) is Literal:
            names += map(repr, get_args(option))
        elif get_origin(option) in (tuple, Sequence):
            names.append(f"{get_origin(option).__name__} of {type_names(get_args(option)[0])}")
        else:
            kind = getattr(option, "array_type", option)  # jaxtyping's
            names.append("None" if kind is type(None) else getattr(kind, "__name__", str(kind)))
    more = f" or {len(names) - 5} more" if len(names) > 6 else ""
    return " or ".join(names[:5] if more else names) + more


# --- JSON ----------------------------------------------------------------------------------------


def encode(value: Any, *, has_defaults: bool = True, has_types: bool = True) -> Any:
    """Convert a dataclass to JSON values.

    Values of fields are converted likewise, but for fields whose metadata say `is_stored=False`.

    Args:
        value: The dataclass.
        has_defaults: Whether fields at their default are included. A configuration's identity, of
            which digests are made, is without them, so that a new option changes no identity.
        has_types: Whether the names of classes are included. Results are without them, since their
            annotations admit one class each.
    """

    def inner(item: Any) -> Any:
        return encode(item, has_defaults=has_defaults, has_types=has_types)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {
            f.name: inner(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.init
            and f.metadata.get("is_stored", True)
            and (has_defaults or not _is_default(f, getattr(value, f.name)))
        }
        return {"type": type(value).__name__, **entries} if has_types else entries
    if isinstance(value, Tensor):
        return inner(value.tolist())
    if hasattr(value, "_asdict"):
        return inner(value._asdict())
    if isinstance(value, tuple | list):
        return [inner(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): inner(item) for name, item in value.items()}
    is_special = isinstance(value, float) and not math.isfinite(value)  # JSON has none
    return str(value) if is_special or isinstance(value, Path) else value


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def decode(annotation: Any, value: Any, where: str = "config") -> Any:
    """Convert JSON values, or an object, to a given type: 3 to 3.0 for a float, a list to a tuple.

    The JSON values are those of `encode`. A field with a default may be missing, as in a file older
    than the field. An object of the type stays itself.

    Raises:
        WrongTypeError: If `value` does not fit the annotation; the message names the place.
        ValueError: If a dataclass lacks a field, has an unknown one, or refuses a value.
    """
    if type(value) is annotation and annotation is not int:  # an int has to fit in a tensor
        return value
    kinds = classes(annotation) if isinstance(value, dict | str) else {}
    if kinds and isinstance(value, dict):
        name = value.get("type", next(iter(kinds)) if len(kinds) == 1 else None)
        if name is None:
            raise ValueError(f'{where} has no "type", such as "{next(iter(kinds))}".')
        if not isinstance(name, str) or name not in kinds:
            raise ValueError(f"{where} is {shortened(repr(name))}: {suggestion(str(name), kinds)}")
        return _decode_fields(kinds[name], value, where)
    for option in alternatives(annotation):
        if (converted := _converted(option, value, where)) is not _MISFIT:
            return converted
    if kinds:
        raise WrongTypeError(f"{where} is {shortened(repr(value))}: {suggestion(value, kinds)}")
    what = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    if len(what) > MAX_SHOWN or not what.isprintable():
        is_text = isinstance(value, str)
        what = shortened(what) if is_text else f"of type {type(value).__name__}"
    raise WrongTypeError(f"{where} is {what}: give an object of type {type_names(annotation)}.")


def _converted(option: Any, value: Any, where: str) -> Any:
    """Return a value as one member of a union says, or `_MISFIT`."""
    origin, kinds = get_origin(option) or option, get_args(option)
    origin = getattr(origin, "array_type", origin)  # jaxtyping's
    if origin is Literal:
        is_listed = any(type(value) is type(item) and value == item for item in kinds)
        return value if is_listed else _MISFIT
    if origin is int:
        is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return int(value) if is_int and -MAX_INT <= value <= MAX_INT else _MISFIT
    if origin is float:
        is_special = isinstance(value, str) and value in ("inf", "-inf", "nan")  # JSON has none
        is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return float(value) if is_special or is_real else _MISFIT
    if hasattr(origin, "_fields") and isinstance(value, dict) and {*value} == {*origin._fields}:
        return origin(**{n: decode(hints(origin)[n], v, f"{where}.{n}") for n, v in value.items()})
    if origin in (tuple, list, Sequence):
        admitted = Sequence if origin is Sequence else tuple | list
        if not isinstance(value, admitted) or isinstance(value, str | bytes):
            return _MISFIT
        items = kinds[:1] * len(value) if ... in kinds or origin is not tuple else kinds
        if len(items) != len(value):
            return _MISFIT
        try:
            converted = tuple(map(decode, items, value, (where,) * len(items)))
        except WrongTypeError:
            return _MISFIT
        return value if origin is Sequence else origin(converted)
    if origin in (dict, Mapping) and kinds and isinstance(value, Mapping):
        return {key: decode(kinds[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Path:  # absolute: what is stored is read from other folders
        return files.expanded(value) if isinstance(value, str | Path) else _MISFIT
    if origin is Callable or getattr(origin, "_is_protocol", False):
        is_function = origin is Callable or "__call__" in vars(origin)
        return value if callable(value) or not is_function else _MISFIT
    if option is Any or not isinstance(origin, type | UnionType):
        return value
    return value if isinstance(value, origin) else _MISFIT


def _decode_fields(cls: type, value: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    names = value.keys() - {"type"}
    if unknown := sorted(names - fields.keys()):
        raise ValueError(f"{where} has no entry {unknown[0]!r}: {suggestion(unknown[0], fields)}")
    absent = (f for name, f in fields.items() if name not in names)
    if missing := sorted(
        f.name for f in absent if f.default is f.default_factory is dataclasses.MISSING
    ):
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    try:
        return cls(**{n: decode(hints(cls)[n], value[n], f"{where}.{n}") for n in names})
    except (TypeError, OverflowError) as error:
        if isinstance(error, WrongTypeError):
            raise
        raise ValueError(f"{where} is not a valid {cls.__name__}: {error}") from error


def normalize(value: Any) -> None:
    """Store the numbers and lists of a dataclass as a file gives them back, such as 3 as 3.0.

    A configuration and its copy from a file then have the same digest. Objects stay themselves:
    `Typed` has done the same with theirs.

    Raises:
        ValueError: If a field cannot be stored; the message names it.
    """
    kinds = hints(value.__class__)
    for f in dataclasses.fields(value):
        stored = decode(kinds[f.name], encode(getattr(value, f.name)), f.name)
        if not dataclasses.is_dataclass(stored):
            object.__setattr__(value, f.name, stored)  # works on frozen dataclasses


def without_format(content: Mapping[str, Any], latest: int) -> dict[str, Any]:
    """Return JSON values without their entry `format`, the version of their format.

    Raises:
        ValueError: If it is newer than the latest that is read here.
    """
    version = content.get("format", 1)
    if version not in range(1, latest + 1):
        raise ValueError(f"its format is {version}, and elbos {__version__} reads up to {latest}")
    return {name: value for name, value in content.items() if name != "format"}


class Stored:
    """Mixin for dataclasses of results: JSON values with the version of their format, and back.

    Properties in `DERIVED` are written, too, first, and computed again from what is read.
    """

    FORMAT: ClassVar[int] = 1
    DERIVED: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        derived = {name: encode(getattr(self, name), has_types=False) for name in self.DERIVED}
        return {"format": self.FORMAT, **derived, **encode(self, has_types=False)}

    @classmethod
    def from_dict(cls: type[_S], data: Any) -> _S:
        """Restore a result from the JSON values of `to_dict`.

        Raises:
            ValueError: If an entry is missing or damaged, or the format is newer.
        """
        content = without_format(decode(Mapping[str, Any], data, "data"), cls.FORMAT)
        stored = {name: value for name, value in content.items() if name not in cls.DERIVED}
        result: _S = decode(cls, stored, "it")
        return result


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Any, new: Any, where: str = "") -> str | None:
    """Return the first difference between two encoded configurations, `weighting.k = 2.0, not 3.0`.

    The entries `output` and `execution` may differ.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        if old.keys() != new.keys():
            return f"{where} = {', '.join(old)}, not {', '.join(new)}"
        for name in old:
            if name not in ("output", "execution"):
                inner = f"{where}.{name}" if where else name
                if different := difference(old[name], new[name], inner):
                    return different
        return None
    if old == new:
        return None
    old_name, new_name = (str(v["type"] if isinstance(v, dict) else v) for v in (old, new))
    return f"{where} = {shortened(old_name)}, not {shortened(new_name)}"


# --- text ----------------------------------------------------------------------------------------


def parse(annotation: Any, text: str, where: str = "text", *, runs_files: bool = False) -> Any:
    """Build an object of a given type from the text of a Python expression.

    The expression, of calls and of bare names of classes whose fields have their defaults, is
    parsed, not evaluated. The type is a dataclass, a registered abstract class, a union or a tuple
    of those; a registered name, such as that of a recipe, is its object. With `runs_files`, which
    is not for text read from a file, a weighting may be a function in a Python file,
    `FILE.py:FUNCTION`, and that file is run.

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
    quoted = re.sub(_TEXT, lambda match: match[1] or repr(match[0]), text.strip())
    try:
        node = ast.parse(quoted, mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{where} is {shortened(text)!r}: expected a class and its fields."
        ) from None
    return decode(annotation, _built(annotation, node, where, runs_files), where)


def _built(annotation: Any, node: ast.expr, where: str, runs_files: bool) -> Any:
    """Return what an expression stands for, to be decoded by the annotation."""
    kinds = get_args(annotation)
    if get_origin(annotation) is tuple:
        parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
        kinds = kinds[:1] * len(parts) if ... in kinds else kinds
        if len(parts) != len(kinds):
            expected = ", ".join(map(type_names, kinds))
            raise ValueError(f"{where} is {_shown(node)!r}: expected {expected}.")
        return [_built(*pair, where, runs_files) for pair in zip(kinds, parts, strict=True)]
    if not (admitted := classes(annotation)):
        if ast.unparse(node) in ("inf", "-inf"):  # `repr` writes infinity so
            return ast.unparse(node)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError):
            raise ValueError(f"{_shown(node)} is no number.") from None
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    word = str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)
    for objects in _names.values():
        if type(value := objects().get(word)) in admitted.values():
            return value
    readers = [k.from_file for k in admitted.values() if runs_files and hasattr(k, "from_file")]
    if readers and is_text and ":" in word:
        return readers[0](word)
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name) or function.id not in admitted:
        files = " and it is no FILE.py:FUNCTION" if readers else ""
        name = function.id if isinstance(function, ast.Name) else ""
        raise ValueError(f"There is no {_shown(node)}{files}: {suggestion(name, admitted)}")
    cls = admitted[function.id]
    positional = [f.name for f in dataclasses.fields(cls) if f.init and not f.kw_only]
    args, keywords = (node.args, node.keywords) if isinstance(node, ast.Call) else ([], [])
    names = [*positional[: len(args)], *(str(keyword.arg) for keyword in keywords)]
    parts = [*args, *(keyword.value for keyword in keywords)]
    if len(names) < len(parts) or len(set(names)) < len(names):
        raise ValueError(f"{_shown(node)}: write each of its numbers once, with its name.")
    entries = {
        name: _built(hints(cls).get(name), part, where, runs_files)
        for name, part in zip(names, parts, strict=True)
    }
    return {"type": function.id, **entries}


def _shown(node: ast.expr) -> str:
    return shortened(ast.unparse(node))
