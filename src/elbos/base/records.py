"""Conversion of results, which are frozen dataclasses, to JSON values and back.

None is null, tuples are lists, and keys of mappings are strings. A field's metadata may say
otherwise than by default:

- `json`: the name of the field in JSON;
- `is_flat`: its entries are merged into those of the parent;
- `encode`, `decode`: functions to its JSON values and back.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from elbos import __version__


def to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        entries: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            entry = f.metadata.get("encode", to_json)(getattr(value, f.name))
            entries |= entry if _is_flat(f) else {_key(f): entry}
        return entries
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(annotation: Any, value: Any) -> Any:
    """Convert JSON values back to an object of a given type.

    The values are those of `to_json`; unknown entries are ignored.

    Raises:
        TypeError: If a field without default is missing, or a value is of another type.
    """
    kinds, origin = get_args(annotation), get_origin(annotation)
    if isinstance(annotation, types.UnionType):  # of a type and None
        return None if value is None else from_json(kinds[0], value)
    if dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        hints = get_type_hints(annotation)
        fields = {
            f.name: _decoded(f, hints[f.name], value)
            for f in dataclasses.fields(annotation)
            if _is_flat(f) or _key(f) in value
        }
        return annotation(**fields)  # type: ignore[operator]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(from_json(kinds[0], item) for item in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {kinds[0](key): from_json(kinds[1], item) for key, item in value.items()}
    is_known = value in kinds if origin is Literal else not origin and _is_of(annotation, value)
    if not is_known:
        raise TypeError(f"{value!r} is no {getattr(annotation, '__name__', annotation)}")
    return value


def require_format(content: Mapping[str, Any], latest: int) -> None:
    """Raise a ValueError if JSON values are of a newer format than is read here.

    Values without the entry `format` count as format 1.
    """
    if (version := content.get("format", 1)) not in range(1, latest + 1):
        raise ValueError(f"its format is {version}, and elbos {__version__} reads up to {latest}")


def _is_of(annotation: Any, value: Any) -> bool:
    kinds = float | int if annotation is float else annotation
    return isinstance(value, kinds) and isinstance(value, bool) == (annotation is bool)


def _decoded(f: "dataclasses.Field[Any]", annotation: Any, data: Mapping[str, Any]) -> Any:
    entry = data if _is_flat(f) else data[_key(f)]
    return f.metadata["decode"](entry) if "decode" in f.metadata else from_json(annotation, entry)


def _is_flat(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("is_flat"))


def _key(f: "dataclasses.Field[Any]") -> str:
    name: str = f.metadata.get("json", f.name)
    return name
