"""Rows as they are written on the command line: a built-in row's name, or a row of one's own.

`mine=V(),Adaptive(),Monotone(EDM(mean=2.4))` is a prediction type, a schedule and a weighting, as
they are called in Python. The words are read as `config.json` is, and not run. A weighting may also
be a function in a Python file, `mine=V(),Adaptive(),FILE.py:FUNCTION`: that file is run.
"""

import ast
import dataclasses
import re
from typing import Any

from elbos.compare.rows import ROWS, Row
from elbos.training.config import NoiseSchedule, Prediction, Weight
from elbos.training.config_json import decode, encode, options
from elbos.training.own_weighting import tabulated
from elbos.user_code import is_code

_QUOTED_OR_FUNCTION = r"""('[^']*'|"[^"]*")|[^\s'"(),=]+\.py:\w+"""
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
                f"There is no row {name!r}: choose from {', '.join(ROWS)}, or write one of your "
                f"own, as {_EXAMPLE}."
            )
        return ROWS[name]
    nodes = _calls(text)
    if len(nodes) != 3:
        raise ValueError(
            f"The row {name!r} is {text!r}: give a prediction type, a schedule and a weighting, as "
            f"{_EXAMPLE}."
        )
    prediction, schedule, weighting = (
        decode(annotation, _encoded(node, annotation), f"in row {name!r}, the {what}")
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
        raise ValueError(f"{ast.unparse(node)} is none of {', '.join(classes)}.")
    fields = [field for field in dataclasses.fields(classes[function.id]) if field.init]
    values = {f.name: encode(f.default) for f in fields if f.default is not dataclasses.MISSING}
    if isinstance(node, ast.Call):
        positional = [f.name for f in fields if not f.kw_only]
        if len(node.args) > len(positional):
            raise ValueError(f"{ast.unparse(node)}: write its numbers with their names.")
        values |= {name: _value(arg) for name, arg in zip(positional, node.args, strict=False)}
        values |= {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    return {"type": function.id, **values}


def _value(node: ast.expr) -> Any:
    """A number or a word, or else another weighting."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return _encoded(node, Weight)
    return _encoded(node, Weight) if isinstance(value, str) and is_code(value) else value
