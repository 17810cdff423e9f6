"""Imports of a script: resolution as in the script, and stand-ins for packages that are not
installed.

The script's own changes of `sys.path` are applied. If a module of its project imports a package
that is not installed, a stand-in takes the package's place, so that code independent of the package
can run; any computation with a stand-in fails.
"""

import ast
import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from elbos.adapters.scripts.names import defined, read
from elbos.base import files

_ROOTS = (".git", "pyproject.toml", "setup.py", "setup.cfg")  # files at the root of a project


@contextlib.contextmanager
def own_modules(path: Path) -> Iterator[None]:
    """Context manager that resolves imports as in a given script."""
    tree = ast.Module([], [])
    with contextlib.suppress(SyntaxError, UnicodeDecodeError):  # reported by `script_loss`
        tree = ast.parse(files.read(path).decode("utf-8-sig"))
    folder = path.resolve().parent
    root = next((one for one in folder.parents if any((one / n).exists() for n in _ROOTS)), folder)
    others = [one for one in sys.path if Path(one).resolve() != Path.cwd()]
    modules, sys.path[:] = set(sys.modules), [""]  # "" marks where additions go in front and behind
    code = compile(ast.Module(_path_statements(tree), []), str(path), "exec", dont_inherit=True)
    with contextlib.suppress(Exception):  # such as missing environment variables
        exec(code, {"__file__": str(path.resolve()), "__name__": "__main__"})  # noqa: S102
    at = sys.path.index("") if "" in sys.path else 0
    first, last = sys.path[:at], [*sys.path[at + 1 :], str(root)]
    sys.path[:] = [str(folder), *first, *others, *last]
    folders = [str(Path(one).resolve()) for one in (str(folder), *first, *last)]
    finder = _StandInFinder(str(path), folders)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        own = [
            name
            for name in set(sys.modules) - modules
            if isinstance(sys.modules[name], StandIn)
            or any(map(finder.is_own, places(sys.modules[name])))
        ]
        for name in own:  # only now: a submodule's path depends on its parent package
            del sys.modules[name]


def _path_statements(tree: ast.Module) -> list[ast.stmt]:
    body = list[ast.stmt]()
    for statement in tree.body:
        modules = list[str]()
        if isinstance(statement, ast.Import):
            modules = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            modules = [str(statement.module)]
        elif not isinstance(statement, ast.Assign | ast.Expr | ast.For | ast.If):
            continue
        if all(module.partition(".")[0] in sys.stdlib_module_names for module in modules):
            body.append(statement)
    found = {
        one
        for one in body
        if any(isinstance(n, ast.Attribute) and ast.unparse(n) == "sys.path" for n in ast.walk(one))
    }
    while True:
        needed = {name for one in found for name in read(one)}
        new = {one for one in body if defined(one) & needed} - found
        if not new:
            return [one for one in body if one in found]
        found |= new


class StandIn(ModuleType):
    """Stand-in for a missing Python module.

    Attributes and call results are stand-ins, too. A stand-in as decorator returns the function
    unchanged, and as base class adds no base.
    """

    __path__: list[str] = []  # noqa: RUF012, of a package

    def __getattr__(self, name: str) -> "StandIn":
        if name.startswith("_"):
            raise AttributeError(name)
        return StandIn(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        is_decorator = len(args) == 1 and not kwargs and callable(args[0])
        return args[0] if is_decorator else StandIn(self.__name__)

    def __getitem__(self, _: object) -> "StandIn":
        return self

    def __or__(self, _: object) -> Any:
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import finder that replaces missing packages by stand-ins.

    Imports by the project's modules are replaced, but not imports by the script.
    """

    def __init__(self, script: str, folders: list[str]) -> None:
        self.script, self.folders = script, folders

    def is_own(self, file: str) -> bool:
        path = Path(file).resolve()
        is_inside = any(path.is_relative_to(one) for one in self.folders)
        return is_inside and "site-packages" not in path.parts

    def find_spec(
        self,
        fullname: str,
        path: Any,  # noqa: ARG002
        target: Any = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if not isinstance(sys.modules.get(fullname.rpartition(".")[0]), StandIn):
            frame: FrameType | None = sys._getframe()
            for is_importing in (False, True):  # out to importlib, and on to its caller
                while frame and ("importlib" in frame.f_code.co_filename) == is_importing:
                    frame = frame.f_back
            file = frame.f_code.co_filename if frame else self.script
            if "." in fullname or file == self.script or not self.is_own(file):
                return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def places(module: ModuleType) -> list[str]:
    contents = vars(module)  # not getattr, which some modules override
    paths = [contents.get("__file__"), *(contents.get("__path__") or ())]
    return [path for path in paths if isinstance(path, str)]
