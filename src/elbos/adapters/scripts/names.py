"""Names in the syntax tree of a script: which a statement assigns, changes or reads."""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
SAFE_MODULES = frozenset({*sys.stdlib_module_names, "torch", "numpy", "scipy", "einops"})
CHANGED = "__changed__"  # returns the arguments of a call after it
_NUM_NODES = 2**14  # cache size: more nodes than a script has
_LOADERS = {"from_pretrained", "from_single_file", "load_dataset", "DataLoader", "open", "load"}


def simple(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a function or module.

    Statements inside `if`, `with` and `try` blocks are included.
    """
    for statement in body:
        if isinstance(statement, ast.If):
            yield from simple([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With | ast.Try):
            yield from simple(statement.body)
        else:
            yield statement


@lru_cache(_NUM_NODES)
def stored(statement: ast.stmt) -> frozenset[str]:
    if isinstance(statement, SCOPES):
        return frozenset({statement.name})
    if isinstance(statement, IMPORTS):
        return frozenset((one.asname or one.name).partition(".")[0] for one in statement.names)
    names = [n for n in ast.walk(statement) if isinstance(n, ast.Name)]
    return frozenset(n.id for n in names if isinstance(n.ctx, ast.Store)) - _inner(statement)


def rebound(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that a statement gives another object."""
    return frozenset() if CHANGED in read(statement) else stored(statement)


def _inner(node: ast.AST) -> set[str]:
    loops = [n.target for n in ast.walk(node) if isinstance(n, ast.comprehension)]
    return {n.id for target in loops for n in ast.walk(target) if isinstance(n, ast.Name)}


@lru_cache(_NUM_NODES)
def assigned(statement: ast.stmt) -> frozenset[str]:
    """Return the names of the variables that a statement assigns, or an item or attribute of.

    `setattr(x, ...)` and `vars(x).update(...)` are such assignments.
    """
    if isinstance(statement, (*SCOPES, *IMPORTS)):
        return stored(statement)
    roots = set[str]()
    for node in ast.walk(statement):
        match node:
            case (
                ast.Call(ast.Name("setattr"), [inner, *_])
                | ast.Subscript(ast.Call(ast.Name("vars"), [inner]), _, ast.Store())
                | ast.Attribute(ast.Call(ast.Name("vars"), [inner]), "update")
                | ast.Attribute(ast.Attribute(inner, "__dict__"), "update")
                | ast.Attribute(inner, _, ast.Store())
                | ast.Subscript(inner, _, ast.Store())
            ):
                roots |= _root(inner)
    return stored(statement) | roots


@lru_cache(_NUM_NODES)
def defined(statement: ast.stmt) -> frozenset[str]:
    """Return the names of the variables that a statement may change.

    Changes are assignments, and those by an item, an attribute or a method call.
    """
    if isinstance(statement, (*SCOPES, *IMPORTS)):
        return stored(statement)
    values = [node.value for node in ast.walk(statement) if isinstance(node, ast.Expr)]
    methods = [one.func for one in values if isinstance(one, ast.Call)]
    roots = (_root(one.value) for one in methods if isinstance(one, ast.Attribute))
    return assigned(statement).union(*roots)


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


@lru_cache(_NUM_NODES)
def read(node: ast.AST) -> frozenset[str]:
    """Return the names that a syntax node reads.

    For a function, these are only names defined outside the function.
    """
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    used = {name.id for name in names if not isinstance(name.ctx, ast.Store)}
    own = _inner(node)
    if isinstance(node, ast.FunctionDef):
        own |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        own |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
        outer = [n for n in ast.walk(node) if isinstance(n, ast.Global | ast.Nonlocal)]
        used |= (declared := {name for one in outer for name in one.names})
        own -= declared
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        used.add(node.target.id)
    return frozenset(name for name in used - own if not hasattr(builtins, name))


def is_loading(statement: ast.stmt) -> bool:
    """Return whether a statement loads data or a network.

    False if it loads a scheduler configuration.
    """
    for call in (n for n in ast.walk(statement) if isinstance(n, ast.Call)):
        name = ast.unparse(call.func)
        if name.rpartition(".")[2] in _LOADERS and "cheduler" not in name:
            return True
    return False
