"""Execution of the lines of a script that compute the loss, given the variable that holds the clean
data.
"""

import argparse
import ast
import re
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elbos.adapters.scripts.arguments import (
    RefusedArgumentsError,
    arguments_of,
    changed_in_parsing,
    is_parsing,
)
from elbos.adapters.scripts.names import (
    CHANGED,
    IMPORTS,
    SAFE_MODULES,
    assigned,
    defined,
    is_loading,
    read,
    rebound,
    simple,
    stored,
)
from elbos.adapters.scripts.schedulers import MissingError, with_local_configuration
from elbos.adapters.scripts.slicing import (
    Script,
    assignment,
    data_into,
    failing,
    guarded,
    kept,
    sliced,
    tests_around,
    with_stand_ins,
)
from elbos.adapters.scripts.unknown import OnOneDevice, Stage, Unknown, origins
from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.probing.instrument import OutputForm, ProbeNetwork
from elbos.base.errors import message

_TORCH_LOSS = re.compile(r"(torch\.)?nn\.\w*Loss\(|\b(MSE|L1|SmoothL1|Huber)Loss\(")
_NEVER = re.compile(r"Dataset|DataLoader|load_dataset|Accelerator|Tokenizer|optim\.|tqdm|logger")
_OF_AN_ERROR, _OF_NO_NETWORK = 3, 10  # counted as this many unknown names
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


class _Data(NamedTuple):
    after: ast.stmt | None
    name: str
    item: tuple[str, Any] | None = None


class Failure(NamedTuple):
    """Reason why the loss of a script cannot be computed.

    A given variable is taken to hold the clean data.
    """

    line: int
    text: str
    num_unknown: int  # names the loss depends on; fewer make the choice likelier


@dataclass
class Run:
    """Lines of a script that compute the loss.

    A given variable is taken to hold the clean data.
    """

    script: Script
    path: Path
    flags: Sequence[str]
    x: Tensor
    data: _Data | None = None
    known: set[str] = field(default_factory=set)
    never: set[str] = field(default_factory=set)  # names whose definition fails
    wrappers: set[str] = field(default_factory=set)  # objects that hold the network, and the loss
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)  # name: line, reason
    assumed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.body = self.script.lines
        self.kept = kept(self.body, read(self.script.loss), self.script.loss.lineno)
        self.tests = list(tests_around(self.body, self.kept))
        loop = self.script.region
        targets = ast.walk(loop.target) if isinstance(loop, ast.For) else []
        self.of_the_loop = {n.id for n in targets if isinstance(n, ast.Name)}
        if isinstance(loop, ast.FunctionDef):
            self.of_the_loop = {one.arg for one in loop.args.args}
        self.form, self.is_refused = OutputForm(), False

    def candidates(self) -> list[_Data]:
        self._try()
        found = []
        for statement, values in self.values.items():
            names = [name for name, value in values.items() if isinstance(value, Unknown)]
            if statement in self.kept and not isinstance(statement, ast.Expr):
                found += [_Data(statement, name) for name in names]
        items = set[tuple[str, Any]]()
        for node in (node for one in self.kept for node in ast.walk(one)):
            match node:
                case ast.Subscript(ast.Name(name), ast.Constant(key)):
                    items.add((name, key))
        found += [_Data(None, name) for name in self.of_the_loop]
        return found + [_Data(None, f"{name}[{key!r}]", (name, key)) for name, key in items]

    def resolve(self) -> Failure | None:
        """Execute definitions of a script until the loss can be computed.

        Returns None on success, else the reason for the failure. Names that only conditions depend
        on stay unknown if their definitions fail.
        """
        optional = set[str]()
        while True:
            failure, wanted = self._try()
            if failure:
                self.wrappers |= self.stage.wrapping
                wanted |= self.stage.wrapping
            if failure and failure.num_unknown in (0, _OF_AN_ERROR) and optional:
                self.known -= optional
                self.never |= optional
                optional = set()
                continue
            new = {name for name in wanted - self.known if self._is_definable(name)}
            if not new:
                return failure
            optional = set() if failure else new
            self.known |= new

    def _try(self) -> tuple[Failure | None, frozenset[str]]:
        self.is_refused = False
        result = self._run()
        if result[0] and self.is_refused and self.form.multiple == 1:
            self.form = OutputForm(multiple=2)  # noise and a learned variance
            second = self._run()
            if second[0] is None or second[1] - result[1]:
                return second
            self.form = OutputForm()
        return result

    def _run(self) -> tuple[Failure | None, frozenset[str]]:
        nodes = [node for one in self.kept for node in ast.walk(one)]
        attributes = frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute))
        item, network = self.data.item if self.data else None, ProbeNetwork(self.x, self.form)
        self.stage = Stage(str(self.path), attributes, network, self.x, item=item)
        self.values: dict[ast.stmt, dict[str, Any]] = {}
        try:
            with OnOneDevice(self.x.device), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # failed attempts warn too
                self._compile()
                exec(self.code, self.space)  # noqa: S102
                loss = self.space["__loss__"]
                if unknown := origins(loss):
                    return self._where_unknown(unknown), unknown
                decisive = {name for name in self.stage.deciding if self._is_definable(name)}
                first = self.stage.network.calls
                if getattr(loss, "requires_grad", False) and first:
                    self.stage.network = ProbeNetwork(self.x, self.form)
                    self.space.update(self.initial)
                    exec(self.code, self.space)  # noqa: S102, again, with other random numbers
                    pairs = zip(first, self.stage.network.calls, strict=False)
                    if not any(torch.equal(one.z, other.z) for one, other in pairs):
                        return None, frozenset(decisive)
                self.stage.wrapping |= {name.partition(".")[0] for name in self.stage.networks}
                text = "no network is called with noisy data."
                failure = Failure(self.script.loss.lineno, text, _OF_NO_NETWORK)
                return failure, frozenset(decisive)
        except RefusedArgumentsError:
            raise
        except Exception as error:
            trace = traceback.walk_tb(error.__traceback__)
            lines = [line for frame, line in trace if frame.f_code.co_filename == str(self.path)]
            line = lines[-1] if lines else self.script.loss.lineno
            if isinstance(error, MissingError):
                return Failure(error.line or line, message(error), 0), frozenset()
            self.is_refused |= bool(self.stage.network.calls)
            failure = Failure(line, f"{type(error).__name__}: {message(error)}.", _OF_AN_ERROR)
            if names := [name for name in self.stage.decisive if name in self.reasons]:
                failure = Failure(*self.reasons[min(names)], 0)
            return failure, self.stage.decisive

    def _where_unknown(self, names: frozenset[str]) -> Failure:
        after = self.data.after.lineno if self.data and self.data.after else 0
        culprits = {name for name in names if not self._is_definable(name)} or names
        line = self.script.loss.lineno
        for statement, values in self.values.items():
            made_of = origins(list(values.values())) & culprits
            if statement.lineno > after and made_of:
                line, culprits = statement.lineno, made_of
                break
        what = " and ".join(sorted(culprits))
        text = f"the loss depends on {what}, which is not known without running the script."
        if reasons := [self.reasons[name] for name in sorted(culprits) if name in self.reasons]:
            line, reason = reasons[0]
            text = f"{reason}; the loss depends on it."
        num_of_data = 2 * len(culprits & self.of_the_loop)  # other data of the loop
        return Failure(line, text, len(culprits) + num_of_data)

    def __call__(self, network: Any, x: Tensor) -> Any:
        self.stage.network, self.stage.x = network, x
        self.space.update(self.initial)
        with OnOneDevice(x.device):
            exec(self.code, self.space)  # noqa: S102, the user's own script
        return self.space["__loss__"]

    def diagnostics(self) -> list[Diagnostic]:
        values = {one: list(values.values()) for one, values in self.values.items()}
        used = [one for one in values if values[one] and not origins(values[one])]
        names = self._read(self.script.loss, *used)
        functions = [one for one in self.definitions if isinstance(one, _DEFINITIONS)]
        used += [one for one in functions if one.name in names]
        lines = {n for one in used for n in range(one.lineno, (one.end_lineno or one.lineno) + 1)}
        data = self.data or _Data(None, "its own")
        where = f" (line {data.after.lineno})" if data.after else ""
        networks = " and ".join(sorted(self.stage.networks))
        lines_run = _ranges(lines | {self.script.loss.lineno})
        found: list[Diagnostic] = [kinds.Script(lines_run, f"{data.name}{where}", networks)]
        if self.stage.conditions:
            found.append(kinds.ScriptConditions(_ranges(self.stage.conditions)))
        if self.assumed:
            found.append(kinds.ScriptScheduler(", ".join(dict.fromkeys(self.assumed))))
        return found

    def _definitions(self, name: str) -> list[ast.stmt]:
        given, definitions = self.script.parameters.get(name), self.script.definitions
        if given is None:
            found = definitions(name)
        elif isinstance(given, ast.Name) and given.id == name:
            found = definitions(name, first=1) + self.script.changes(name)
        else:
            found = [assignment(name, given, given), *self.script.changes(name)]
        if name in self.wrappers:  # without loading weights or wrapping for processes
            kinds = (*_DEFINITIONS, *IMPORTS, ast.Assign)
            again = [one for one in found if name in rebound(one) & read(one)]
            found = [one for one in found if isinstance(one, kinds) and one not in again]
        return found

    def _is_definable(self, name: str) -> bool:
        """Return whether a definition can be executed without loading data or building networks."""
        found = self._definitions(name)
        never = self.never | self.of_the_loop | (self.script.networks - self.wrappers)
        if not found or name in never or any(map(is_loading, found)):
            return False
        if any(isinstance(one, (*_DEFINITIONS, *IMPORTS)) for one in found):
            return "download" not in name
        return not any(_NEVER.search(ast.unparse(one)) for one in found)

    def _compile(self) -> None:
        self.statements: list[ast.stmt] = []
        self.definitions: list[ast.stmt] = []
        self.space = {
            "__name__": "__main__",
            "__file__": str(self.path),
            "__failed__": self._failed,
            "__seen__": self._succeeded,
            "__stage__": self.stage,
            CHANGED: _changed,
        }
        names = {name for one in self.kept for name in read(one) | defined(one)}
        names |= read(self.script.loss)
        self._define(names | {name for test in self.tests for name in read(test)})
        lines = sliced(self.body, self.kept, self._written)
        if self.data and not self.data.after and not self.data.item:
            lines.insert(0, data_into(self.data.name, self.script.loss))
        lines += self._written(assignment("__loss__", self.script.loss, self.script.loss))
        self.code = self._compiled(lines)
        names = {name for one in self.kept for name in stored(one)}
        self.initial = {name: self.space[name] for name in names if name in self.space}

    def _define(self, names: set[str]) -> None:
        seen, found = set(self.space), set[ast.stmt]()
        todo = names - seen
        changes: dict[ast.stmt, str] = {}  # of the script's arguments
        while todo:
            name = todo.pop()
            seen.add(name)
            definitions = self._definitions(name)
            self.space[name] = Unknown(self.stage, frozenset({name}), name)
            arguments = arguments_of(self.script.tree, definitions, self.flags, self.path)
            if arguments is not None:
                self.space[name] = self._parsed(name, arguments, definitions)
                others = [one for one in definitions if not is_parsing(self.script.tree, one)]
                changes |= dict.fromkeys(others, name)
            elif name.rpartition(".")[2] == "device":
                self.space[name] = self.x.device
            else:
                if any(_TORCH_LOSS.search(ast.unparse(one)) for one in definitions):
                    self.known |= {name} if self._is_definable(name) else set()
                for one in definitions:
                    if isinstance(one, IMPORTS):
                        self._import(one, name)
                    elif isinstance(one, _DEFINITIONS) or name in self.known:
                        found.add(one)
            while new := {x for x, of in changes.items() if self._is_read(x, of, found)} - found:
                found |= new
            tests = [test for scope in self.script.scopes for test in tests_around(scope, found)]
            todo |= {name for one in (*found, *tests) for name in read(one)} - seen
        definitions = sorted(found, key=lambda one: one.lineno)
        self.definitions += definitions
        # Functions and classes run first, then the scopes, the module's first.
        rest = {one for one in found if not isinstance(one, _DEFINITIONS)}
        self._execute([one for one in definitions if one not in rest])
        in_scopes = {one for scope in self.script.scopes for one in simple(scope)}
        for one in rest - in_scopes:  # arguments of the function around the loop
            self._execute(self._written(one))
        for scope in reversed(self.script.scopes):
            self._execute(sliced(scope, rest, self._written))

    def _parsed(
        self, name: str, arguments: argparse.Namespace, definitions: list[ast.stmt]
    ) -> argparse.Namespace:
        """Return arguments; those that the script's parsing function assigns are unknown."""
        for statement in definitions:
            for attribute, line in changed_in_parsing(self.script.tree, statement).items():
                key = f"{name}.{attribute}"
                setattr(arguments, attribute, Unknown(self.stage, frozenset({key}), key))
                self.reasons[key] = line, f"{key} is assigned where the arguments are parsed"
        return arguments

    def _is_read(self, change: ast.stmt, name: str, found: set[ast.stmt]) -> bool:
        """Return whether the loss may read what a statement changes of the script's arguments."""
        if name not in assigned(change) or (is_loading(change) and name not in stored(change)):
            return False
        called = [one for other in read(change) for one in self._definitions(other)]
        functions = [one for one in called if isinstance(one, ast.FunctionDef)]
        nodes = [node for one in (change, *functions) for node in ast.walk(one)]
        attributes = [one for one in nodes if isinstance(one, ast.Attribute)]
        changed = {one.attr for one in attributes if isinstance(one.ctx, ast.Store)}
        tests = (test for scope in self.script.scopes for test in tests_around(scope, found))
        used = [node for one in (*self.kept, *self.tests, *found, *tests) for node in ast.walk(one)]
        own = [one for one in used if isinstance(one, ast.Attribute) and _is_name(one.value, name)]
        if sum(_is_name(one, name) for one in used) > len(own):
            return True  # the arguments as a whole, as in `vars(args)`
        return not changed or not changed.isdisjoint(one.attr for one in own)

    def _import(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in statement.names if name == (a.asname or a.name).partition(".")[0])
        module = getattr(statement, "module", None) or alias.name
        self.space[name] = Unknown(self.stage, frozenset({name}), name, is_method=True)
        if name not in self.known and module.partition(".")[0] not in SAFE_MODULES:
            return
        try:
            self._execute([type(statement)(**{**vars(statement), "names": [alias]})])
        except Exception as error:
            self._forget(name, statement, f"{name} cannot be imported: {error}")
            return
        value = self.space[name]
        if missing := [one for one in getattr(value, "_backends", []) if not find_spec(one)]:
            text = f"{name} needs {' and '.join(missing)}: install what is missing."
            raise MissingError(text, statement.lineno)
        if isinstance(value, type) and "Scheduler" in name and hasattr(value, "from_pretrained"):
            self.space[name] = with_local_configuration(value, self.script.tree, self.assumed)

    def _written(self, statement: ast.stmt) -> list[ast.stmt]:
        if isinstance(statement, (*_DEFINITIONS, *IMPORTS)):
            return [statement]
        is_built = statement not in self.kept and CHANGED not in read(statement)
        if is_built and defined(statement) & self.wrappers:
            statement = with_stand_ins(statement, self._is_safe)
        self.statements.append(statement)
        result = guarded(statement, len(self.statements) - 1)
        if self.data and self.data.after is statement:
            result.append(data_into(self.data.name, statement))
        return result

    def _is_safe(self, call: ast.Call) -> bool:
        root = ast.unparse(call.func).partition(".")[0]
        return all(
            isinstance(one, IMPORTS)
            and (getattr(one, "module", None) or root).partition(".")[0] in SAFE_MODULES
            for one in self._definitions(root)
        )

    def _compiled(self, body: list[ast.stmt]) -> Any:
        module = ast.fix_missing_locations(ast.Module(body, []))
        return compile(module, str(self.path), "exec", dont_inherit=True)

    def _execute(self, body: list[ast.stmt]) -> None:
        exec(self._compiled(body), self.space)  # noqa: S102

    def _failed(self, error: Exception, index: int) -> Unknown:
        statement = self.statements[index]
        names = origins([self.space.get(name) for name in self._read(statement)])
        self.is_refused |= bool(self.stage.network.calls)
        if isinstance(error, MissingError | RefusedArgumentsError):
            raise error
        if not names and statement in self.kept:
            raise error
        if not names:
            names = frozenset(failing(statement))
            for name in names:
                self._forget(name, statement, f"{name} fails, {type(error).__name__}: {error}")
        return Unknown(self.stage, names)

    def _forget(self, name: str, statement: ast.stmt, reason: str) -> None:
        self.never.add(name)
        self.reasons[name] = statement.lineno, " ".join(reason.split())[:200]

    def _read(self, *nodes: ast.AST) -> set[str]:
        todo, seen = {name for node in nodes for name in read(node)}, set[str]()
        while todo:
            name = todo.pop()
            seen.add(name)
            functions = [one for one in self.definitions if name in stored(one)]
            todo |= {n for one in functions for n in read(one)} - seen
        return seen

    def _succeeded(self, index: int) -> None:
        statement = self.statements[index]
        self.values[statement] = {name: self.space.get(name) for name in defined(statement)}


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _changed(result: Any, *values: Any) -> tuple[Any, ...]:
    """Return the arguments of a function after its call: unknown if the function is."""
    return tuple(result if isinstance(result, Unknown) else value for value in values)


def _ranges(lines: set[int]) -> str:
    starts = sorted(n for n in lines if n - 1 not in lines)
    ends = sorted(n for n in lines if n + 1 not in lines)
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True))
