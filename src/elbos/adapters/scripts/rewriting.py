"""Rewriting of a script's statements so that they run without the objects the script would load.

`__failed__`, `__seen__` and `__stage__` are names in the namespace of the run.
"""

import ast
import copy
from collections.abc import Callable

from elbos.adapters.scripts.slicing import defined


def guarded(statement: ast.stmt, index: int) -> list[ast.stmt]:
    """Wrap a statement in a `try`, which makes its variables unknown if the statement fails."""
    targets = sorted(defined(statement)) or ["__ignored__"]
    failed = "".join(f"{name} = " for name in targets) + f"__failed__(__error__, {index})"
    handler = ast.parse(f"try: pass\nexcept Exception as __error__: {failed}").body[0]
    assert isinstance(handler, ast.Try)
    handler.body = [statement]
    seen = ast.parse(f"__seen__({index})").body
    result = [ast.copy_location(one, statement) for one in (handler, *seen)]
    for one in result:
        for node in ast.walk(one):
            if not hasattr(node, "lineno") or node.lineno < statement.lineno:
                ast.copy_location(node, statement)
    return result


def assignment(name: str, value: ast.expr, place: ast.AST) -> ast.stmt:
    """Return the statement `name = value`, with the line number of `place`."""
    assign = ast.Assign([ast.Name(name, ast.Store())], value)
    return ast.fix_missing_locations(ast.copy_location(assign, place))


def data_into(name: str, place: ast.AST) -> ast.stmt:
    """Return a statement that assigns the clean data to a variable."""
    return assignment(name, ast.parse("__stage__.x", mode="eval").body, place)


def with_stand_ins(statement: ast.stmt, is_known: Callable[[ast.Call], bool]) -> ast.stmt:
    """Copy a definition, with stand-in networks for calls in its arguments, unless `is_known`."""

    class StandIns(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            if is_known(node):
                return self.generic_visit(node)  # type: ignore[return-value]
            name = ast.unparse(node.func)
            stand_in = ast.parse(f"__stage__.stand_in({name!r})", mode="eval").body
            return ast.copy_location(stand_in, node)

    copied = copy.deepcopy(statement)
    value = getattr(copied, "value", None)
    while isinstance(value, ast.Call):
        value.args = [StandIns().visit(one) for one in value.args]
        for keyword in value.keywords:
            keyword.value = StandIns().visit(keyword.value)
        value = value.func.value if isinstance(value.func, ast.Attribute) else None  # .to(device)
    return ast.fix_missing_locations(copied)
