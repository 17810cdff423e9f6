"""Default names of run directories: name of the preset, and all settings that differ from the
preset.

Names are short where the differences are: `digits`, `fashion-eps-normal`, `digits-lr-0.001`. Where
they are many, or hold a path or a function, the name ends in a digest of the configuration.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from elbos.adapters.diffusers.network import DiffusersConfig
from elbos.base.codec import digest, options
from elbos.theory.tabulated import Tabulated
from elbos.training.config import Config
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling

_MAX_LENGTH, _DIGEST_LENGTH = 60, 8
_SHORT = {"optimizer.learning_rate": "lr"}
_PLAIN_GROUPS = ("optimizer", "averaging", "sampling")  # left out before the names of their fields


def default_name(config: Config, preset: str) -> str:
    """Return the default name of a training run.

    The name is the preset, followed by the settings that differ from the preset. The name has
    lower-case letters, digits, dots and dashes. Configurations that differ in more than `output`
    and `execution` have different names.

    Examples:
        >>> default_name(PRESETS["digits"], "digits")
        'digits'
        >>> default_name(dataclasses.replace(PRESETS["digits"], num_images=512), "digits")
        'digits-num-images-512'
    """
    parts = [preset, *_differences(config, PRESETS[preset])]
    name = "-".join(parts)
    if len(name) <= _MAX_LENGTH and re.fullmatch(r"[a-z0-9.-]+", name):
        return name
    short = re.sub(r"[^a-z0-9.-]+", "-", name.lower())[: _MAX_LENGTH - _DIGEST_LENGTH - 1]
    whole = digest(config.identity())
    return f"{short.rstrip('-.')}-{whole[:_DIGEST_LENGTH]}"


def nearest_preset(config: Config) -> str:
    return min(PRESETS, key=lambda name: len(list(_differences(config, PRESETS[name]))))


def _differences(new: Any, old: Any, label: str = "") -> Iterator[str]:
    # a word with a space cannot be part of a name, which then ends in a digest
    if not dataclasses.is_dataclass(new):
        if new != old or type(new) is not type(old):
            yield _valued(label, new)
        return
    if type(new) is type(old):
        for f in dataclasses.fields(new):
            if f.init and not (label == "" and f.name in ("output", "execution")):
                path = f"{label}.{f.name}" if label else f.name
                yield from _differences(getattr(new, f.name), getattr(old, f.name), path)
        return
    if isinstance(new, DiffusersConfig):
        yield new.class_name
        return
    if isinstance(new, Tabulated):
        yield f"own {new.name.rpartition(':')[2]}"
        return
    word = _word(type(new).__name__)
    is_inner = label.endswith(" inner")  # part of the object that the previous word names
    yield (
        word
        if is_inner or _NAMES[type(new).__name__] == 1
        else f"{label.rpartition('.')[-1]}-{word}"
    )
    for f in dataclasses.fields(new):
        if f.init:
            value, default = getattr(new, f.name), f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            is_part = dataclasses.is_dataclass(value)
            path = f"{word} inner" if is_part else f"{word}.{f.name}"
            yield from _differences(value, default, path)


def _valued(label: str, value: Any) -> str:
    group, _, name = label.rpartition(".")
    label = _SHORT.get(label, name if group in _PLAIN_GROUPS else label).replace("_", "-")
    if isinstance(value, bool):
        return label if value else f"no-{label}"
    values = value if isinstance(value, tuple) else (value,)
    if all(isinstance(v, int | float) for v in values):
        return "-".join([label, *(str(v).removesuffix(".0").replace("+", "") for v in values)])
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9-]*", value):
        return f"{label}-{value}"
    return f"{label} {value.name if isinstance(value, Path) else value}"


def _word(name: str) -> str:
    name = name.replace("ViT", "Vit")  # one word
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)
    return words.removesuffix("-Config").lower()


# by class name, the number of places of a configuration and presets that use the name
_NAMES = Counter(preset.capitalize() for preset in PRESETS)
for _part in (Config, Sampling):
    for _hint in get_type_hints(_part, include_extras=True).values():
        _classes = [one for one in set(options(_hint)) if isinstance(one, type)]
        _NAMES.update(cls.__name__ for cls in _classes if dataclasses.is_dataclass(cls))
