"""Losses of a script: what it differentiates, or what a method returns to another trainer."""

import ast
from collections.abc import Iterator

from elbos.adapters.scripts.classes import BACKWARD_METHODS, LOSS_METHODS
from elbos.adapters.scripts.names import SCOPES, defined, read, simple

LOOPS = (ast.For, ast.While)


def losses_of(tree: ast.Module) -> list[tuple[ast.expr, list[ast.AST]]]:
    """Return the losses of a script with the nodes that enclose each, those in loops last.

    They are what `backward` differentiates, else what a method such as `training_step` returns.
    """
    found = [(_loss_of(path[-1]), path[:-1]) for path in _paths(tree, [], ast.Call)]
    losses = [(loss, path) for loss, path in found if loss is not None] or _returned(tree)
    return sorted(losses, key=lambda one: any(isinstance(node, LOOPS) for node in one[1]))


def _paths(node: ast.AST, above: list[ast.AST], kind: type) -> Iterator[list[ast.AST]]:
    for child in ast.iter_child_nodes(node):
        yield from _paths(child, [*above, node], kind)
    if isinstance(node, kind):
        yield [*above, node]


def region_of(around: list[ast.AST]) -> ast.AST:
    """Return the innermost loop, function or class around a loss, else the module."""
    kinds = (*LOOPS, *SCOPES, ast.Module)
    return next(node for node in reversed(around) if isinstance(node, kinds))


def is_same(region: ast.AST, loss: ast.expr, around: list[ast.AST], other: ast.expr) -> bool:
    """Return whether two losses of a script have one value, as those with and without a scaler."""
    if region_of(around) is not region or ast.unparse(loss) != ast.unparse(other):
        return False
    first, last = sorted([loss.lineno, other.lineno])
    lines = [one for one in simple(getattr(region, "body", [])) if not isinstance(one, ast.Expr)]
    lines = [one for one in lines if defined(one) & read(loss)]
    before = {ast.unparse(one) for one in lines if one.lineno < first}
    return before >= {ast.unparse(one) for one in lines if first < one.lineno < last}


def _returned(tree: ast.Module) -> list[tuple[ast.expr, list[ast.AST]]]:
    paths = [path for path in _paths(tree, [], ast.FunctionDef) if len(path) == 3]
    for name in LOSS_METHODS:
        methods = [(p[-1], p) for p in paths if getattr(p[-1], "name", "") == f"self.{name}"]
        losses = [
            (_first(one.value), path)
            for method, path in methods
            for one in simple(getattr(method, "body", []))
            if isinstance(one, ast.Return) and not isinstance(one.value, ast.Constant | None)
        ]
        if losses:
            return losses
    return []


def _first(value: ast.expr) -> ast.expr:
    """Return the loss of what a method returns."""
    match value:
        case ast.Tuple([loss, *_]):
            return loss
        case ast.Dict(keys, values):
            items = zip(keys, values, strict=True)
            return next((v for k, v in items if getattr(k, "value", "") == "loss"), value)
    return value


def _loss_of(call: ast.AST) -> ast.expr | None:
    match call:
        case ast.Call(ast.Name(name), [loss, *_]):
            return loss if name == "self.manual_backward" else None
        case ast.Call(ast.Attribute(owner, name), arguments) if name in BACKWARD_METHODS:
            is_method = not arguments or isinstance(arguments[0], ast.Constant)
            loss = owner if is_method else arguments[0]
        case _:
            return None
    match loss:
        case ast.Call(ast.Attribute(_, "scale" | "scale_loss"), [scaled, *_]):
            return scaled
    return loss
