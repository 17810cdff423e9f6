r"""Formulas in the signal-to-noise ratio, as text: the coefficients of published losses.

A formula is parsed, not executed, so that a configuration of somebody else may hold one. It has
numbers, `+ - * / **`, `min`, `max`, `sqrt`, `exp`, `snr`, and the time of rectified flow, `t =
1/(1 + sqrt(snr))`. `1 - t` is computed without cancellation.
"""

import ast
import functools
import operator
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.errors import shortened

_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def evaluate(formula: str, names: Mapping[str, Any]) -> Any:
    """Compute a formula from the values of its names and functions.

    A difference that is itself among the names, such as `1 - t`, has that value.

    Raises:
        ValueError: If the text is not a formula of these names.

    Examples:
        >>> evaluate("min(snr, 5)/(snr + 1)", {"snr": 9.0, "min": min})
        0.5
    """
    try:
        return _value(_parsed(formula), names)
    except (SyntaxError, KeyError, TypeError, ArithmeticError, MemoryError, RecursionError):
        raise ValueError(
            f"{shortened(repr(formula))} is not a formula of {', '.join(names)}."
        ) from None


def evaluate_at(formula: str, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Compute a formula in the SNR at given log-SNRs, in their dtype.

    Examples:
        >>> evaluate_at("(1 - t)/t", torch.tensor([0.0]))
        tensor([1.])
    """

    def tensors(*values: Any) -> list[Tensor]:
        return [torch.as_tensor(value, dtype=logsnr.dtype) for value in values]

    names = {
        "snr": logsnr.exp(),
        "t": torch.sigmoid(-logsnr / 2),
        "1 - t": torch.sigmoid(logsnr / 2),
        "min": lambda a, b: torch.minimum(*tensors(a, b)),
        "max": lambda a, b: torch.maximum(*tensors(a, b)),
        "sqrt": lambda a: torch.sqrt(*tensors(a)),
        "exp": lambda a: torch.exp(*tensors(a)),
        "expm1": lambda a: torch.expm1(*tensors(a)),
    }
    value: Tensor = evaluate(formula, names) * torch.ones_like(logsnr)
    return value


@functools.lru_cache
def _parsed(formula: str) -> ast.expr:
    return ast.parse(formula.strip(), mode="eval").body


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)  # integers could be raised to powers that fill the memory
        case ast.Name(id=name) if not callable(names[name]):
            return names[name]
        case ast.BinOp(left=left, op=op, right=right):
            if isinstance(op, ast.Sub) and (text := ast.unparse(node)) in names:
                return names[text]
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return names[name](*(_value(argument, names) for argument in args))
    raise TypeError(node)
