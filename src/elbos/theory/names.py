"""Names of the theory's objects, as code and as labels; registration of their classes.

| | for | `Sigmoid(k=3.0)` is |
|---|---|---|
| `code` | reports | `Sigmoid(k=3.0)` |
| `label` | tables and figures | `sigmoid(3)` |

A new class is registered by an entry in its table, such as `weightings.WEIGHTINGS`. A recipe's name
stands for its weighting, in text and as a label.
"""

import dataclasses
import functools
from typing import Any

from elbos.base import codec
from elbos.theory import adaptive, parameterizations, schedules, weightings
from elbos.theory.parameterizations import Parameterization
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Mixture, Schedule
from elbos.theory.weightings import Implied, Tabulated, WeightFunction, Weighting

_ENDS = ("logsnr_min", "logsnr_max")
_LABELS = {
    "Adaptive": "adaptive",
    "Cosine": "cosine",
    "EDMSampling": "EDM sampling",
    "Eps": "ε",
    "Exponential": "exponential",
    "Flow": "flow",
    "FlowTimes": "flow times",
    "Linear": "linear",
    "MinSNR": "Min-SNR",
    "Score": "score",
    "Sigmoid": "sigmoid",
    "StableDiffusion": "Stable Diffusion",
    "UShape": "U-shape",
    "V": "v",
    "X": "x",
    "ZeroTerminal": "zero-terminal",
}
"""Display names that differ from the class names in Python."""


def code(value: object, *, has_defaults: bool = False, has_modules: bool = False) -> str:
    """Return the constructor call of an object as text.

    Numbers are rounded to four digits; fields at their default are omitted unless `has_defaults`.
    With `has_modules` the classes have their module, `weightings.EDM()`.

    Examples:
        >>> code(weightings.Monotone(weightings.EDM(mean=2.0)))
        'Monotone(EDM(mean=2.0))'
        >>> code(schedules.Normal(), has_defaults=True)
        'Normal(mean=2.4, std=2.4)'
    """
    inner = functools.partial(code, has_defaults=has_defaults, has_modules=has_modules)
    if isinstance(value, tuple):
        return f"({', '.join(map(inner, value))}{',' * (len(value) == 1)})"
    if not dataclasses.is_dataclass(value):
        return _rounded(value)
    parts = []
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item) and isinstance(value, Weighting):
            parts.append(inner(item))
        elif dataclasses.is_dataclass(item) or isinstance(item, tuple):
            parts.append(f"{field.name}={inner(item)}")
        elif not _is_default(value, field) or (has_defaults and field.name not in _ENDS):
            parts.append(f"{field.name}={_rounded(item)}")
    kind = type(value)
    module = f"{kind.__module__.split('.')[2]}." if has_modules else ""
    return f"{module}{kind.__name__}({', '.join(parts)})"


def _is_default(value: Any, field: "dataclasses.Field[Any]") -> bool:
    default: Any = field.default
    if isinstance(value, Schedule) and field.name in _ENDS:
        default = getattr(dataclasses.replace(value, **{field.name: default}), field.name)
    return default is not dataclasses.MISSING and _rounded(getattr(value, field.name)) == _rounded(
        default
    )


def _rounded(value: object) -> str:
    if not isinstance(value, int | float):
        return repr(value)
    return repr(float(f"{round(value, 12):.4g}") + 0.0)  # no minus before zero


def label(value: object) -> str:
    """Return the short display name of a configured object.

    The object is a weighting, schedule, prediction type or sampler. Ends of schedules are left out,
    since compared objectives share them; so are settings at their defaults, but for the one or two
    that a weighting or a distribution is known by.

    Examples:
        >>> from elbos.theory.schedules import Cosine, Normal
        >>> label(weightings.Sigmoid(k=3)), label(weightings.Monotone(weightings.EDM()))
        ('sigmoid(3)', 'EDM-monotonic')
        >>> label(Normal(logsnr_max=13.3)), label(Cosine()), label(parameterizations.Eps())
        ('Normal(2.4, 2.4)', 'cosine', 'ε')
    """
    if isinstance(value, weightings.Monotone):
        return f"{label(value.inner)}-monotonic"
    if isinstance(value, weightings.Shifted):
        return f"{label(value.inner)} shifted by {_plain(value.shift)}"
    if isinstance(value, Mixture):
        return f"mixture of {', '.join(map(label, value.schedules))}"
    if isinstance(value, Tabulated):
        return value.name
    if isinstance(value, Implied):
        parts = label(value.schedule), label(value.parameterization), value.coefficient
        return _recipe_names().get(value) or " × ".join(parts).removesuffix(" × 1")
    if not dataclasses.is_dataclass(value):
        return str(getattr(value, "__name__", value))
    settings = {
        f.name: (_plain(getattr(value, f.name)), _plain(f.default))
        for f in dataclasses.fields(value)
        if f.init and f.name not in _ENDS
    }
    changed = {name: text for name, (text, default) in settings.items() if text != default}
    shown = list(changed.values())
    if len(settings) > 2:
        shown = [f"{name} {text}" for name, text in changed.items()]
    elif isinstance(value, Weighting) or (isinstance(value, Schedule) and "shift" not in settings):
        shown = [text for text, _ in settings.values()]
    name = _LABELS.get(type(value).__name__, type(value).__name__)
    return f"{name}({', '.join(shown)})" if shown else name


def _plain(value: object) -> str:
    if isinstance(value, Schedule):
        return label(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value + 0.0:g}" if is_number else str(value)  # type: ignore[operator]  # no minus before zero


@functools.cache
def _recipe_names() -> dict[Weighting, str]:
    """Return the name of each recipe's weighting, the first of several."""
    return {recipe.weighting: name for name, recipe in reversed(RECIPES.items())}


def _weightings() -> tuple[type, ...]:
    return (*weightings.WEIGHTINGS, Implied, *weightings.WRAPPERS, Tabulated)


@functools.cache
def _named() -> dict[str, Weighting]:
    return {name: recipe.weighting for name, recipe in RECIPES.items()}


codec.register(Weighting, _weightings, _named)
codec.register(WeightFunction, _weightings, _named)  # the inner weighting of a wrapper
codec.register(Schedule, lambda: (*adaptive.SCHEDULES, *schedules.WRAPPERS))
codec.register(Parameterization, lambda: parameterizations.PARAMETERIZATIONS)
