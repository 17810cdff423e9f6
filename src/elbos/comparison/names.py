"""Short names of weightings, schedules and prediction types, from their reprs.

A report holds reprs: they are the identity of an object, and too long for a table. Ends of
schedules are left out, since all rows share them; so are settings at their defaults where there are
many.
"""

import ast
import dataclasses
from types import ModuleType

from elbos import adaptive, parameterizations, schedules, weightings

_ENDS = ("logsnr_min", "logsnr_max")
_WORDS = {
    "Adaptive": "adaptive",
    "CosMap": "cos-map",
    "Cosine": "cosine",
    "EDMSampling": "EDM sampling",
    "Eps": "ε",
    "Exponential": "exponential",
    "Flow": "flow",
    "Linear": "linear",
    "LogitNormalFlow": "logit-normal",
    "MinSNR": "Min-SNR",
    "Score": "score",
    "ShiftedFlow": "shifted flow",
    "Sigmoid": "sigmoid",
    "SoftMinSNR": "soft Min-SNR",
    "TruncatedSNR": "truncated SNR",
    "V": "v",
    "X": "x",
}
_MANY = 3  # settings, of which only those that are changed are named


def short_weighting(text: str) -> str:
    """A weighting's name.

    Examples:
        >>> short_weighting("Sigmoid(k=2.0)"), short_weighting("Monotone(inner=EDM())")
        ('sigmoid(2)', 'EDM-monotonic')
        >>> short_weighting("Tabulated('mine', '1f2e3d4c')")  # its name, and what tells it apart
        'mine'
    """
    return _short(text, weightings)


def short_schedule(text: str) -> str:
    """A schedule's name.

    Examples:
        >>> short_schedule("Normal(logsnr_min=-10.0, logsnr_max=13.3, mean=2.4, std=2.4)")
        'Normal(2.4, 2.4)'
    """
    return _short(text, schedules, adaptive)


def short_prediction(text: str) -> str:
    """The name of what a network predicts.

    Examples:
        >>> short_prediction("Eps()"), short_prediction("EDM(sigma_data=0.5)")
        ('ε', 'EDM')
    """
    return _short(text, parameterizations)


def family(weighting: str) -> str:
    """A weighting's class, or its own name, without what is wrapped around it.

    Examples:
        >>> family("Monotone(inner=EDM())"), family("Sigmoid(k=2.0)")
        ('EDM', 'Sigmoid')
    """
    node = _parsed(weighting)
    while isinstance(node, ast.Call) and (inner := _settings(node).get("inner")):
        node = inner
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return weighting
    return ast.unparse(node if node.args else node.func)


def _short(text: str, *modules: ModuleType) -> str:
    node = _parsed(text)
    return text if node is None else _named(node, modules)


def _parsed(text: str) -> ast.expr | None:
    """The expression, or none if it is not one."""
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _settings(call: ast.Call) -> dict[str, ast.expr]:
    return {word.arg: word.value for word in call.keywords if word.arg}


def _named(node: ast.expr, modules: tuple[ModuleType, ...]) -> str:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return _value(node)
    name, settings = node.func.id, _settings(node)
    if node.args:  # a table of numbers: its name
        return _value(node.args[0])
    if (inner := settings.pop("inner", None)) is not None:
        of = _named(inner, modules)
        shift = settings.get("shift")
        return f"{of}-monotonic" if shift is None else f"{of} shifted by {_value(shift)}"
    given = {key: _value(value) for key, value in settings.items() if key not in _ENDS}
    word = _WORDS.get(name, name)
    defaults = _defaults(name, modules)
    changed = {key: value for key, value in given.items() if value != defaults.get(key)}
    if len(given) >= _MANY:
        shown = ", ".join(f"{key} {value}" for key, value in changed.items())
    elif (set(given) == {"shift"} and schedules in modules) or parameterizations in modules:
        shown = ", ".join(changed.values())
    else:
        shown = ", ".join(given.values())
    return f"{word}({shown})" if shown else word


def _defaults(name: str, modules: tuple[ModuleType, ...]) -> dict[str, str]:
    for module in modules:
        if dataclasses.is_dataclass(found := getattr(module, name, None)):
            return {field.name: _plain(field.default) for field in dataclasses.fields(found)}
    return {}


def _value(node: ast.expr) -> str:
    try:
        return _plain(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _plain(value: object) -> str:
    return f"{value + 0.0:g}" if isinstance(value, float) else str(value)  # no minus before zero
