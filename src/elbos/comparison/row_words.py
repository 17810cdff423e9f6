"""Rows as they are written on the command line: a built-in row's name, or a row of one's own.

`mine=V(),Adaptive(),Monotone(EDM(mean=2.4))` is a prediction type, a schedule and a weighting, as
they are called in Python. The words are read as `config.json` is, and not run. A weighting may also
be a function in a Python file, `mine=V(),Adaptive(),FILE.py:FUNCTION`: that file is run.
"""

import ast
import dataclasses
import re
from typing import Any, get_type_hints

from elbos.comparison.rows import ROWS, Row
from elbos.runs.codec import decode, encode, options
from elbos.training.config import NoiseSchedule, Prediction, Weight
from elbos.training.own_weighting import tabulated
from elbos.weightings import WeightFunction

_QUOTED_OR_FUNCTION = r"""('[^']*'|"[^"]*")|[^\s'"(),=]+\.py:\w+"""
_MANY = 60  # letters, beyond which words are not repeated
_EXAMPLE = '"mine=V(),Adaptive(),Sigmoid(k=3)"'


def parse_row(words: str) -> Row:
    """The row that some words stand for.

    Raises:
        ValueError: If they stand for none.
    """
    name, equals, text = (part.strip() for part in words.partition("="))
    if not equals:
        if name not in ROWS:
            raise ValueError(
                f"There is no row {_shown(name)!r}: choose from {', '.join(ROWS)}, or write one "
                f"of your own, as {_EXAMPLE}."
            )
        return ROWS[name]
    nodes, where = _calls(text), f"row {_shown(name)!r}"
    if len(nodes) != 3:
        raise ValueError(
            f"In {where} there is {_shown(text)!r}: give a prediction type, a schedule and a "
            f"weighting, as {_EXAMPLE}."
        )
    prediction, schedule, weighting = (
        decode(annotation, _encoded(node, annotation), f"in {where}, the {what}")
        for node, (what, annotation) in zip(
            nodes,
            {"prediction": Prediction, "schedule": NoiseSchedule, "weighting": Weight}.items(),
            strict=True,
        )
    )
    return Row(name=name, parameterization=prediction, schedule=schedule, weighting=weighting)


def _calls(text: str) -> list[ast.expr]:
    """What stands between the commas; functions in files are words."""
    text = re.sub(_QUOTED_OR_FUNCTION, lambda found: found[1] or repr(found[0]), text)
    try:
        parts = ast.parse(f"({text},)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return parts.elts if isinstance(parts, ast.Tuple) else []


def _encoded(node: ast.expr, annotation: Any) -> dict[str, Any]:
    """A call such as `Sigmoid(k=3)`, or a class's bare name, as in a config.json."""
    if annotation is Weight and isinstance(node, ast.Constant) and isinstance(node.value, str):
        return dict(encode(tabulated(node.value)))
    classes = {option.__name__: option for option in options(annotation)}
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name) or function.id not in classes:
        functions = ", nor FILE.py:FUNCTION" if annotation is Weight else ""
        raise ValueError(f"{_shown(node)} is none of {', '.join(classes)}{functions}.")
    cls = classes[function.id]
    fields = [field for field in dataclasses.fields(cls) if field.init]
    values = {f.name: encode(f.default) for f in fields if f.default is not dataclasses.MISSING}
    given = _given(node, [f.name for f in fields if not f.kw_only])
    hints = get_type_hints(cls)
    return {
        "type": function.id,
        **values,
        **{name: _value(value, hints.get(name)) for name, value in given},
    }


def _given(node: ast.expr, positional: list[str]) -> list[tuple[str, ast.expr]]:
    """What stands between the parentheses of a call, by name."""
    if not isinstance(node, ast.Call):
        return []
    names = [*positional[: len(node.args)], *(keyword.arg for keyword in node.keywords)]
    if len(node.args) > len(positional) or None in names or len(set(names)) < len(names):
        raise ValueError(f"{_shown(node)}: write each of its numbers once, with its name.")
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return list(zip(map(str, names), values, strict=True))


def _value(node: ast.expr, annotation: Any) -> Any:
    """A number or a word, or a weighting in another one."""
    if annotation == WeightFunction:
        return _encoded(node, Weight)
    try:
        return encode(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{_shown(node)} is no number.") from None


def _shown(words: ast.expr | str) -> str:
    """What was written, in short."""
    text = words if isinstance(words, str) else ast.unparse(words)
    return text if len(text) <= _MANY else f"{text[:_MANY]}…"
