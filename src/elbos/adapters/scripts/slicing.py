"""Lines of a training script that compute the loss: a backward slice of the syntax tree, found
without running the script.

The slice starts at the expression that `accelerator.backward(loss)` or `loss.backward()`
differentiates, and goes up through the innermost loop around the call: a statement belongs to the
slice if it assigns to, or calls a method of, a name that the slice reads further down. Names that
the loop does not define are looked up above the loop, in the function and then in the module.
Without a call of `backward`, the slice starts at the value returned by a method such as
`training_step`, which another trainer calls (`classes`).
"""

import ast
import builtins
import copy
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from elbos.adapters.scripts.classes import BACKWARD_METHODS, LOSS_METHODS, flattened

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LOOPS = (ast.For, ast.While)
_IMPORTS = (ast.Import, ast.ImportFrom)
_OF_NETWORKS = {"parameters", "named_parameters", "train", "eval", "requires_grad_", "state_dict"}
_NUM_NODES = 2**14  # cache size: more nodes than a script has
SAFE_MODULES = frozenset({*sys.stdlib_module_names, "torch", "numpy", "scipy", "einops"})
CHANGED = "__changed__"  # the arguments of a call after it
_SCHEDULERS = re.compile("(?i)schedule|diffusion")
_LOADERS = {"from_pretrained", "from_single_file", "load_dataset", "DataLoader", "open", "load"}


@dataclass(frozen=True)
class Script:
    """Syntax tree and loss expression of a training script.

    `around` are the nodes that enclose the call of `backward`; `others` are other losses of the
    script, of which it is not known when they are computed.
    """

    tree: ast.Module
    around: list[ast.AST]
    loss: ast.expr
    others: list[ast.expr]

    @classmethod
    def from_source(cls, source: str) -> "Script | None":
        """Parse a training script and find the loss.

        Losses in loops are preferred; None if there is no loss.
        """
        tree = flattened(ast.parse(source))
        found = [(_loss_of(path[-1]), path[:-1]) for path in _paths(tree, [], ast.Call)]
        calls = [(loss, path) for loss, path in found if loss is not None] or _returned(tree)
        in_loops = [call for call in calls if any(isinstance(node, _LOOPS) for node in call[1])]
        if not calls:
            return None
        loss, path = (in_loops or calls)[-1]  # of one loss in two branches the lines of both
        for function in (n for n in path if isinstance(n, ast.FunctionDef)):
            for inner in (one for one in simple(function.body) if type(one) is ast.FunctionDef):
                inner.body = [  # inner functions are run outside of their function
                    ast.copy_location(ast.Global(one.names), one)
                    if isinstance(one, ast.Nonlocal)
                    else one
                    for one in inner.body
                ]
        region = _region(path)
        others = [x for x, around in calls if not _is_same(region, loss, around, x)]
        _Changes(tree, path).visit(tree)
        return cls(tree, path, loss, others)

    @cached_property
    def region(self) -> ast.AST:
        """Innermost loop of a training script that contains the loss.

        Without a loop, it is the function or module that contains the loss.
        """
        return _region(self.around)

    @cached_property
    def lines(self) -> list[ast.stmt]:
        return list(self._before(self.region, self.loss.lineno))

    @cached_property
    def scopes(self) -> list[list[ast.stmt]]:
        """Blocks of code around the training loop.

        They are the statements of the module and of each function. The innermost function is first,
        the module last.
        """
        scopes: list[list[ast.stmt]] = []
        for node in reversed(self.around):
            if isinstance(node, (*_SCOPES, ast.Module)):
                inner = self.region.lineno if isinstance(self.region, ast.stmt) else 0
                end = inner if not scopes and node is not self.region else 10**9
                scopes.append([] if node is self.region else list(self._before(node, end)))
        return scopes

    def _before(self, node: ast.AST, end: int) -> Iterator[ast.stmt]:
        for statement in getattr(node, "body", []):
            if statement.lineno >= end:
                return
            if isinstance(statement, _LOOPS) and statement in self.around:
                yield from self._before(statement, end)
            else:
                yield statement

    @cached_property
    def parameters(self) -> dict[str, ast.expr]:
        """Arguments of the functions that contain the loss.

        They are those of the first call of each function, else the defaults.
        """
        found: dict[str, ast.expr] = {}
        calls = [n for n in ast.walk(self.tree) if isinstance(n, ast.Call)]
        for function in (n for n in self.around if isinstance(n, ast.FunctionDef)):
            names = [argument.arg for argument in function.args.args]
            defaults = function.args.defaults
            found |= dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
            for call in calls:
                if isinstance(call.func, ast.Name) and call.func.id == function.name:
                    found |= dict(zip(names, call.args, strict=False))
                    found |= {key.arg: key.value for key in call.keywords if key.arg}
                    break
        return found

    @cached_property
    def networks(self) -> frozenset[str]:
        """Variables of a script that hold networks.

        They are recognized by calls such as `parameters()` or `train()`.
        """
        attributes = [n for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)]
        return frozenset(
            node.value.id
            for node in attributes
            if node.attr in _OF_NETWORKS and isinstance(node.value, ast.Name)
        )

    def definitions(self, name: str, first: int = 0) -> list[ast.stmt]:
        """Return the statements that define a name.

        The scope is the innermost one that assigns it; those further in may change it.
        """
        found: list[ast.stmt] = []
        for scope in self._index[first:]:
            here = scope.get(name, [])
            found = [*here, *found]
            if any(name in rebound(one) for one in here):
                return found
        return []

    def changes(self, name: str) -> list[ast.stmt]:
        """Return the statements of the innermost function that define or change a name."""
        return self._index[0].get(name, [])

    @cached_property
    def _index(self) -> list[dict[str, list[ast.stmt]]]:
        result: list[dict[str, list[ast.stmt]]] = [{} for _ in self.scopes]
        for index, scope in zip(result, self.scopes, strict=True):
            for statement in simple(scope):
                for name in defined(statement):
                    index.setdefault(name, []).append(statement)
        return result


def _paths(node: ast.AST, above: list[ast.AST], kind: type) -> Iterator[list[ast.AST]]:
    for child in ast.iter_child_nodes(node):
        yield from _paths(child, [*above, node], kind)
    if isinstance(node, kind):
        yield [*above, node]


def _region(around: list[ast.AST]) -> ast.AST:
    kinds = (*_LOOPS, *_SCOPES, ast.Module)
    return next(node for node in reversed(around) if isinstance(node, kinds))


def _is_same(region: ast.AST, loss: ast.expr, around: list[ast.AST], other: ast.expr) -> bool:
    """Return whether two losses of a script have one value, as those with and without a scaler."""
    if _region(around) is not region or ast.unparse(loss) != ast.unparse(other):
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


class _Changes(ast.NodeTransformer):
    """Rewriting of calls above the loop that may change their arguments as assignments.

    `to_zero(scheduler)` becomes `scheduler, = __changed__(to_zero(scheduler), scheduler)`. A
    function of the script changes the arguments to whose attributes it assigns; an imported one is
    taken to change schedulers.
    """

    def __init__(self, tree: ast.Module, around: list[ast.AST]) -> None:
        nodes = list(ast.walk(tree))
        functions = [one for one in nodes if isinstance(one, ast.FunctionDef) if one not in around]
        self.functions = {one.name: one for one in functions}
        self.closed = {_region(around), *functions}
        self.imported = {
            (alias.asname or alias.name).partition(".")[0]
            for one in nodes
            if isinstance(one, _IMPORTS)
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


# --- names ---------------------------------------------------------------------------------------


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
    if isinstance(statement, _SCOPES):
        return frozenset({statement.name})
    if isinstance(statement, _IMPORTS):
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
    if isinstance(statement, (*_SCOPES, *_IMPORTS)):
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
    if isinstance(statement, (*_SCOPES, *_IMPORTS)):
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


# --- slice ---------------------------------------------------------------------------------------


def kept(body: list[ast.stmt], names: frozenset[str], end: int) -> set[ast.stmt]:
    """Return the statements that define given names.

    The statements on which these definitions depend are included. Only statements before line `end`
    count.
    """
    needed, found = set(names), set[ast.stmt]()
    lines = [one for one in simple(body) if one.lineno < end]
    while True:
        new = [one for one in lines if one not in found and defined(one) & needed]
        if not new:
            return found
        found.update(new)
        needed |= {name for one in new for name in read(one)}
        needed |= {name for test in tests_around(body, found) for name in read(test)}


def tests_around(body: list[ast.stmt], found: set[ast.stmt]) -> Iterator[ast.expr]:
    for statement in body:
        if isinstance(statement, ast.If | ast.With | ast.Try):
            inner = [*statement.body, *getattr(statement, "orelse", [])]
            if found.isdisjoint(simple(inner)):
                continue
            if isinstance(statement, ast.If):
                yield statement.test
            if isinstance(statement, ast.With):
                yield from (item.context_expr for item in statement.items)
            yield from tests_around(inner, found)


def sliced(
    body: list[ast.stmt], found: set[ast.stmt], written: Callable[[ast.stmt], list[ast.stmt]]
) -> list[ast.stmt]:
    """Reduce a block of code to the given statements.

    The `if` and `with` statements that enclose them stay. `written` returns the replacement of a
    given statement; `raise` statements beside them stay.
    """
    result: list[ast.stmt] = []
    for one in body:
        if isinstance(one, ast.If) and not found.isdisjoint(simple([one])):
            then, otherwise = (sliced(part, found, written) for part in (one.body, one.orelse))
            test = ast.copy_location(ast.If(one.test, then or [ast.Pass()], otherwise), one)
            result.append(test)
        elif isinstance(one, ast.With) and (inner := sliced(one.body, found, written)):
            result.append(ast.copy_location(ast.With(one.items, inner), one))
        elif isinstance(one, ast.Try):
            result += sliced(one.body, found, written)
        elif one in found:
            result += written(one)
        elif isinstance(one, ast.Raise):
            result.append(one)
    return result


# --- rewriting: statements that run without the objects which the script would load ------------


def failing(statement: ast.stmt) -> list[str]:
    """Return the variables that become unknown if a statement fails, or the attributes."""
    match statement:
        case ast.Assign([ast.Attribute(ast.Name()) as target]) | ast.AugAssign(
            ast.Attribute(ast.Name()) as target
        ):
            return [ast.unparse(target)]
    return sorted(defined(statement))


def guarded(statement: ast.stmt, index: int) -> list[ast.stmt]:
    """Wrap a statement in a `try` block.

    If the statement fails, the variables or attributes that it assigns become unknown values.
    """
    targets = failing(statement) or ["__ignored__"]
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
    assign = ast.Assign([ast.Name(name, ast.Store())], value)
    return ast.fix_missing_locations(ast.copy_location(assign, place))


def data_into(name: str, place: ast.AST) -> ast.stmt:
    return assignment(name, ast.parse("__stage__.x", mode="eval").body, place)


def with_stand_ins(statement: ast.stmt, is_known: Callable[[ast.Call], bool]) -> ast.stmt:
    """Replace the results of unknown functions by placeholder networks.

    Calls with `is_known(call)` stay; the statement is copied.
    """

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
