"""Loading of functions from the user's files, FILE.py:FUNCTION, without running any other code.

The file is run like a script, except that `__name__` is not `__main__`: it can import its
neighbours, has no arguments, and belongs to its package. Its output goes to stderr. The next file
finds its own neighbours.

No other module of the current folder, which may be a stranger's, is imported: Python puts that
folder first on `sys.path` in processes started with `-c` or `-m`, such as those of
`multiprocessing`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from elbos.base import files
from elbos.base.errors import message

_NAME = "__user_code__"  # name of the module made from a file
_neighbours: set[str] = set()  # modules that the last file imported
_SAFE_PATH = "PYTHONSAFEPATH"
_GUARD = "keep what trains and what reads arguments under `if __name__ == '__main__'`."


@contextlib.contextmanager
def no_modules_here() -> Iterator[None]:
    """Keep subprocesses started in the `with` block from importing modules of this folder."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH)
        if before is not None:
            os.environ[_SAFE_PATH] = before


def code_path(target: str) -> Path:
    """Return the path of the Python file in a target, FILE.py or FILE.py:FUNCTION."""
    return _split(target)[0]


def _split(target: str) -> tuple[Path, str]:
    file, _, name = target.rpartition(":")
    return (Path(file), name) if file.endswith(".py") else (Path(target), "")


@contextlib.contextmanager
def as_script(target: str) -> Iterator[None]:
    """Prepare the interpreter for running the Python file of a target as a script.

    The file's neighbours can be imported, and `sys.argv` has no arguments. Modules that the file
    imports stay until another file is run, for functions that are called later.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the code exits the process.
    """
    path = code_path(target)
    files.read(path)  # raises an error that says why it cannot be read
    folder, _ = _place(path)
    for name in _neighbours:
        sys.modules.pop(name, None)
    modules, saved = set(sys.modules), (sys.argv, sys.path, sys.dont_write_bytecode)
    sys.dont_write_bytecode = True  # a file that changes within a second would not be read again
    sys.argv = [str(path)]
    sys.path = [str(folder), *sys.path, str(path.resolve().parent), str(Path.cwd())]
    try:
        with contextlib.chdir(Path.cwd()), _nothing_on_stdout():
            yield
    except SystemExit as stop:
        raise ValueError(
            f"{target} exits when it is called ({stop.code}): return a result."
        ) from stop
    finally:
        sys.argv, sys.path, sys.dont_write_bytecode = saved
        _neighbours.clear()
        _neighbours.update(n for n in set(sys.modules) - modules if _is_neighbour(n, folder))


def load_function(target: str, arguments: tuple[str, ...], verb: str) -> Callable[..., Any]:
    """Import a function, FILE.py:FUNCTION, within `as_script`, and check that it takes arguments.

    The help of the command `verb` shows an example.

    Raises:
        ValueError: If no such function takes these arguments, or the file fails; the message is one
            line.
    """
    path, name = _split(target)
    module = _run(path)
    defined = ", ".join(
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    )
    try:
        function: Any = operator.attrgetter(name)(module)
    except AttributeError:
        raise ValueError(
            f"{path} has no {name!r}; it defines {defined or 'none'}: name a function, as in "
            f"{path}:FUNCTION."
        ) from None
    wrapped = f"wrap it in a function of ({', '.join(arguments)}), as `elbos {verb} --help` shows."
    if inspect.isclass(function) or not callable(function):
        kind = type(function).__name__
        raise ValueError(f"{target} is no function, but of type {kind}: {wrapped}")
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        raise ValueError(f"{target} takes ({names}): {wrapped}") from error
    return function  # type: ignore[no-any-return]


@contextlib.contextmanager
def naming_line(target: str, file: Path) -> Iterator[None]:
    """Raise an error of a target's function as a ValueError with the line in its file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{target} fails: {described(error, file)}") from error


def described(error: BaseException, file: Path) -> str:
    """Return type, line number and message of an error raised in a user's file."""
    line = line_of(error, file)
    place = f" (line {line})" if line else ""
    return f"{type(error).__name__}{place}: {message(error)}"


def line_of(error: BaseException | None, file: Path) -> int | None:
    """Return the innermost line of a file in the tracebacks of an error and its causes."""
    if error is None:
        return None
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == str(file)]
    return lines[-1] if lines else line_of(error.__cause__, file)


def _run(path: Path) -> ModuleType:
    file = path.resolve()  # the code may change the current directory
    _, names = _place(file)
    try:
        if len(names) > 1:
            return importlib.import_module(".".join(names))
        spec = importlib.util.spec_from_file_location(_NAME, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look for it there
        spec.loader.exec_module(module)
        return module  # noqa: TRY300
    except SystemExit as stop:
        raise ValueError(f"{path} exits when it is run ({stop.code}): {_GUARD}") from stop
    except KeyboardInterrupt as stop:
        raise InterruptedError(f"Interrupted while {path} was run: {_GUARD}") from stop
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {described(error, file)}") from error


def _place(path: Path) -> tuple[Path, list[str]]:
    folder, names = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, names = folder.parent, [folder.name, *names]
    return folder, names


def _is_neighbour(name: str, folder: Path) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return name == _NAME or any(
        Path(place).is_relative_to(folder) and "site-packages" not in place
        for place in places
        if place
    )


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)  # the output of libraries and subprocesses, too: with --json, stdout is JSON
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
