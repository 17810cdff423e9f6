"""Parts of other trainers' files, run without what these trainers depend on, and what they draw.

It is foreign code, to be read before it is run.
"""

import ast
import functools
import itertools
import logging
import math
import operator
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

import torch

NUM_WEIGHED = 1000  # samples whose coefficient is compared
SIDE = 512  # pixels of square images
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
INSTALLED = sys.stdlib_module_names | {"torch", "numpy", "scipy", "diffusers", "accelerate"}


def run(path: Path, /, **given: Any) -> Space:
    """Run the definitions of a file, with some of its names given.

    Imports of packages other than `INSTALLED` are left out, and so are bases and decorators of a
    class that need more.
    """
    names = _names() | given
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text()).body:
        try:
            if isinstance(node, kinds) and _is_there(node):
                _execute([node], names)
        except Exception:  # a name of an import that failed
            if isinstance(node, ast.ClassDef):
                node.bases, node.keywords, node.decorator_list = [], [], []
                node.body = [one for one in node.body if _is_defined(one, names)] or [
                    ast.parse("pass").body[0]
                ]
                _execute([node], names)
    names.update(given)
    return Space(**names)


def lines(path: Path, function: str, first: str, last: str, /, **given: Any) -> Space:
    """Run the statements of a function from the one that begins with a text to the next one that
    begins with another; return all names.
    """
    names = _names() | given
    _execute(_statements(path, function, first, last), names)
    return Space(**names)


@functools.cache
def _statements(path: Path, function: str, first: str, last: str) -> list[ast.stmt]:
    text = path.read_text()
    rows = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.FunctionDef) and node.name == function):
            continue
        for block in ast.walk(node):
            for part in ("body", "orelse"):
                body = getattr(block, part, None)
                body = body if isinstance(body, list) else []
                code = [rows[one.lineno - 1].strip() for one in body]
                start = next((i for i, one in enumerate(code) if one.startswith(first)), len(code))
                end = next((i for i in range(start, len(code)) if code[i].startswith(last)), None)
                if end is not None:
                    return body[start : end + 1]
    raise ValueError(f"{path}: {function} has no {first!r} before {last!r}")


def _is_defined(method: ast.stmt, names: dict[str, Any]) -> bool:
    try:
        return isinstance(method, ast.FunctionDef) and _execute([method], dict(names)) is None
    except Exception:
        return False


def _is_there(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return True
    modules = (
        [node.module or "."] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return all(one.split(".")[0] in INSTALLED for one in modules)


def _names() -> dict[str, Any]:
    return {"__name__": __name__, "torch": torch, "math": math, "logger": logging.getLogger()}


def _execute(body: list[Any], names: dict[str, Any]) -> None:
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *body], []), "foreign", "exec"), names)  # noqa: S102


Cases = Iterator[tuple[Any, "Draws"]]


@dataclass(frozen=True)
class Draws:
    """Log-SNRs that a trainer drew, and the loss coefficients of the first of them."""

    logsnr: torch.Tensor
    coefficient: torch.Tensor


def draws_of(t: torch.Tensor, weight: Any = torch.ones_like) -> Draws:
    """Draws of flow-matching times."""
    return Draws(-2 * torch.logit(t.double()), weight(t[:NUM_WEIGHED].float()))


def draws_of_steps(scheduler: Any, step: torch.Tensor, weight: Any = torch.ones_like) -> Draws:
    """Draws of steps of a table of betas."""
    logsnr = torch.logit(scheduler.alphas_cumprod.double())
    first = step[:NUM_WEIGHED].long()
    return Draws(logsnr[step.long()], weight(first).float())


def some(num: int, *choices: Any) -> list[Any]:
    """Return combinations of the choices, at random if there are more than `num`."""
    every = list(itertools.product(*choices))
    return random.Random(0).sample(every, min(num, len(every)))  # noqa: S311


def words(flags: dict[str, Any]) -> list[str]:
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]


def joined(parts: Any) -> dict[str, Any]:
    return functools.reduce(operator.or_, parts, {})
