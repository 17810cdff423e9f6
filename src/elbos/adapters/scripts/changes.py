"""Calls above the loop that may change their arguments, rewritten as assignments."""

import ast
import re
from typing import Any

from elbos.adapters.scripts.losses import region_of
from elbos.adapters.scripts.names import CHANGED, IMPORTS, SAFE_MODULES, assigned, simple

_SCHEDULERS = re.compile("(?i)schedule|diffusion")


class Changes(ast.NodeTransformer):
    """Rewriting of calls above the loop that may change their arguments as assignments.

    `to_zero(scheduler)` becomes `scheduler, = __changed__(to_zero(scheduler), scheduler)`. A
    function of the script changes the arguments to whose attributes it assigns; an imported one is
    taken to change schedulers.
    """

    def __init__(self, tree: ast.Module, around: list[ast.AST]) -> None:
        nodes = list(ast.walk(tree))
        functions = [one for one in nodes if isinstance(one, ast.FunctionDef) if one not in around]
        self.functions = {one.name: one for one in functions}
        self.closed = {region_of(around), *functions}
        self.imported = {
            (alias.asname or alias.name).partition(".")[0]
            for one in nodes
            if isinstance(one, IMPORTS)
            for alias in one.names
            if (getattr(one, "module", None) or alias.name).partition(".")[0] not in SAFE_MODULES
        }

    def visit(self, node: ast.AST) -> Any:
        return node if node in self.closed else super().visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if not isinstance(call := node.value, ast.Call):
            return node
        given = dict(enumerate(call.args)) | {one.arg: one.value for one in call.keywords}
        names = {key: one.id for key, one in given.items() if isinstance(one, ast.Name)}
        name = ast.unparse(call.func)
        if name in self.functions:
            function = self.functions[name]
            arguments = [one.arg for one in function.args.args]
            changed = {one for line in simple(function.body) for one in assigned(line)}
            keys = {i for i, one in enumerate(arguments) if one in changed} | changed
            names = {key: one for key, one in names.items() if key in keys}
        elif name.partition(".")[0] in self.imported:
            names = {key: one for key, one in names.items() if _SCHEDULERS.search(one)}
        else:
            return node
        if not names:
            return node
        once = dict.fromkeys(names.values())
        target = ast.Tuple([ast.Name(name, ast.Store()) for name in once], ast.Store())
        values: list[ast.expr] = [ast.Name(name, ast.Load()) for name in once]
        value = ast.Call(ast.Name(CHANGED, ast.Load()), [call, *values], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Assign([target], value), node))
