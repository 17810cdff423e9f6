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
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from elbos.adapters.scripts.changes import Changes
from elbos.adapters.scripts.classes import flattened
from elbos.adapters.scripts.losses import LOOPS, is_same, losses_of, region_of
from elbos.adapters.scripts.names import SCOPES, defined, read, rebound, simple

_OF_NETWORKS = {"parameters", "named_parameters", "train", "eval", "requires_grad_", "state_dict"}


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
        losses = losses_of(tree)
        if not losses:
            return None
        loss, path = losses[-1]  # of one loss in two branches the lines of both
        for function in (n for n in path if isinstance(n, ast.FunctionDef)):
            for inner in (one for one in simple(function.body) if type(one) is ast.FunctionDef):
                inner.body = [  # inner functions are run outside of their function
                    ast.copy_location(ast.Global(one.names), one)
                    if isinstance(one, ast.Nonlocal)
                    else one
                    for one in inner.body
                ]
        region = region_of(path)
        others = [x for x, around in losses if not is_same(region, loss, around, x)]
        Changes(tree, path).visit(tree)
        return cls(tree, path, loss, others)

    @cached_property
    def region(self) -> ast.AST:
        """Innermost loop of a training script that contains the loss.

        Without a loop, it is the function or module that contains the loss.
        """
        return region_of(self.around)

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
            if isinstance(node, (*SCOPES, ast.Module)):
                inner = self.region.lineno if isinstance(self.region, ast.stmt) else 0
                end = inner if not scopes and node is not self.region else 10**9
                scopes.append([] if node is self.region else list(self._before(node, end)))
        return scopes

    def _before(self, node: ast.AST, end: int) -> Iterator[ast.stmt]:
        for statement in getattr(node, "body", []):
            if statement.lineno >= end:
                return
            if isinstance(statement, LOOPS) and statement in self.around:
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
