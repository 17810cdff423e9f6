"""A configuration as JSON and back, without running anything that is in the file.

A dataclass is an object with its class's name under "type"; the classes that may stand in a place
are those of the field's annotation and no others.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from elbos import files
from elbos.training.config import Config, Weight
from elbos.weightings import WeightFunction

_MANY = 8  # numbers, which a message does not list


def encode(value: Any) -> Any:
    """A dataclass, or what stands in one, as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, Path) or value in (math.inf, -math.inf):  # JSON has no infinity
        return str(value)
    return value


def digest(value: Any) -> str:
    """What tells a value of JSON from others: the SHA-256 of its text."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def decode(annotation: Any, value: Any, where: str = "config") -> Any:
    """The value of type `annotation` that `encode` made `value` from.

    Raises:
        ValueError: If it is no such value; the message names the place in the file.
    """
    admitted = list(options(annotation))
    if value is None and type(None) in admitted:
        return None
    classes: dict[str, type] = {
        option.__name__: option
        for option in admitted
        if isinstance(option, type) and dataclasses.is_dataclass(option)
    }
    if classes:
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in classes:
            raise ValueError(f"{where} has type {name!r}: expected one of {', '.join(classes)}.")
        return _decode_dataclass(classes[name], value, where)
    for option in admitted:
        if get_origin(option) is tuple and isinstance(value, list):
            first, *others = get_args(option)
            if others == [...] or len(value) == 1 + len(others):
                return tuple(decode(first, item, where) for item in value)
        if get_origin(option) is typing.Literal and value in get_args(option):
            return value
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and (type(value) is int or value in ("inf", "-inf")):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    expected = " or ".join(map(_named, admitted))
    raise ValueError(f"{where} is {value!r}: expected {expected}.")


def read_config(path: Path) -> Config:
    """The configuration in a file: what `elbos train --dry-run` printed, or a run's config.json.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no configuration.
    """
    try:
        config = decode(Config, json.loads(files.read(path, through_links=True)))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a configuration ({error}): `elbos train PRESET --dry-run` prints one."
        ) from error
    assert isinstance(config, Config)
    return config


def _named(option: Any) -> str:
    if get_origin(option) is typing.Literal:
        return " or ".join(map(repr, get_args(option)))
    return str(getattr(option, "__name__", option))


def difference(old: Any, new: Any, where: str = "") -> str | None:
    """The first entry in which two encoded configurations differ, in words; `output` may differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old["type"] == new["type"]:
        for name in old:
            if name != "output":
                found = difference(old[name], new[name], f"{where}.{name}" if where else name)
                if found:
                    return found
        return None
    if old == new:
        return None
    if isinstance(old, list) and len(old) > _MANY:
        return f"other {where}"
    old_name, new_name = (v["type"] if isinstance(v, dict) else v for v in (old, new))
    return f"{where} = {old_name}, not {new_name}"


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as earlier versions wrote it, in today's form: the share of the images that
    their average's half-life was becomes the relative width. With a warning where the share fell
    below the half-life's warm-up: no width is that average.
    """
    averaging, optimizer = config.get("averaging"), config.get("optimizer")
    if not isinstance(averaging, dict) or not isinstance(optimizer, dict):
        return config
    warmup, half_life = averaging.get("warmup"), averaging.get("half_life_images")
    num_images = config.get("num_images")
    if type(warmup) is not float or not 0 < warmup < math.log(2):
        return config
    if type(half_life) is not float or type(num_images) is not int or half_life <= 0:
        return config
    has_ended = half_life < warmup * num_images
    power = math.log(2) * num_images / half_life if has_ended else math.log(2) / warmup
    width = round(math.sqrt(power / (power + 2)) / (power + 1), 3)  # of the exponent, and 1
    if has_ended:
        _warn_once(
            f"An earlier version averaged with a half-life of {half_life:,.0f} of {num_images:,} "
            f"images: taken for the nearest averaging.relative_width, {width}."
        )
    return {
        **config,
        "averaging": {"type": "Averaging", "relative_width": width},
        "optimizer": {"use_decay": True, **optimizer},
        "init": None,
    }


@cache
def _warn_once(message: str) -> None:
    """A command reads the same configuration again and again."""
    warnings.warn(message, stacklevel=3)


def _decode_dataclass(cls: type, value: dict[str, Any], where: str) -> Any:
    if cls is Config:
        value = _upgraded(value)
    hints = get_type_hints(cls, include_extras=True)
    expected = {f.name for f in dataclasses.fields(cls) if f.init}
    given = set(value) - {"type"}
    if given != expected:
        wrong = ", ".join(sorted(given ^ expected))
        raise ValueError(f"{where} has missing or unknown entries: {wrong}.")
    try:
        return cls(
            **{name: decode(hints[name], value[name], f"{where}.{name}") for name in expected}
        )
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{where} is not a valid {cls.__name__}: {error}") from error


def options(annotation: Any) -> Iterator[Any]:
    """The types that an annotation admits, out of unions and Annotated."""
    if annotation == WeightFunction:  # the inner weighting of a wrapper
        annotation = Weight
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        yield from options(get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in get_args(annotation):
            yield from options(member)
    else:
        yield annotation
