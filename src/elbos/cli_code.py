"""Functions in files of the user's own: `FILE.py:FUNCTION`.

The file is run as a script is, but for its name: beside its neighbours, without arguments, in the
package that it is in. What it prints goes to stderr, and the process is left as it was, so that the
next file finds its own neighbours.
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_GUARD = "keep what trains and what reads arguments under `if __name__ == '__main__'`."


def is_code(target: str) -> bool:
    """Whether a target is a Python file, with a function or without."""
    return target.endswith(".py") or _split(target)[0].suffix == ".py"


def _split(target: str) -> tuple[Path, str]:
    """The file, and the name of the function; "" if there is none."""
    file, _, name = target.rpartition(":")
    return (Path(file), name) if file.endswith(".py") else (Path(target), "")


def _place(path: Path) -> tuple[Path, list[str]]:
    """The folder that holds a file, or the package that it is in; its name from there."""
    folder, names = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").is_file():
        folder, names = folder.parent, [folder.name, *names]
    return folder, names


@contextlib.contextmanager
def as_script(target: str) -> Iterator[None]:
    """Let a file find what a script would, and leave the process as it was.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the code exits the process.
    """
    path, _ = _split(target)
    with path.open("rb"):  # says in the system's words why it cannot be read
        pass
    folder, _ = _place(path)
    saved = {name: getattr(sys, name) for name in ("argv", "path", "stdin", "dont_write_bytecode")}
    modules = dict(sys.modules)
    sys.argv, sys.stdin, sys.dont_write_bytecode = [str(path)], None, True  # nobody answers
    sys.path = [str(folder), str(Path.cwd()), *sys.path, str(path.resolve().parent)]
    try:
        with _nothing_on_stdout():
            yield
    except SystemExit as stop:
        raise ValueError(
            f"{target} exits when it is called ({stop.code}): return a loss."
        ) from stop
    finally:
        vars(sys).update(saved)
        for name in [name for name in sys.modules if _is_neighbour(name, folder, modules)]:
            del sys.modules[name]


def _is_neighbour(name: str, folder: Path, before: dict[str, ModuleType]) -> bool:
    """Whether a module is new, and one that only scripts in this folder find."""
    if name.partition(".")[0] in before:
        return False
    module = sys.modules[name]
    paths = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    return any(Path(p).is_relative_to(folder) and "site-packages" not in p for p in paths)


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """Send to stderr what code prints, and what the programs print that it starts."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def load_function(target: str) -> Callable[[Any, torch.Tensor], Any]:
    """The function that FILE.py:FUNCTION names; inside of `as_script`.

    Raises:
        ValueError: In one line, if there is none that takes (network, x), or the file fails.
    """
    path, name = _split(target)
    module = _run(path)
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    defined = f"it defines {', '.join(own) or 'none'}."
    if not name:
        raise ValueError(f"{path}: name a function, as in {path}:FUNCTION; {defined}")
    try:
        function = operator.attrgetter(name)(module)
    except AttributeError:
        raise ValueError(f"{path} has no {name!r}; {defined}") from None
    _require_loss(target, function)
    result: Callable[[Any, torch.Tensor], Any] = function
    return result


def _require_loss(target: str, function: Any) -> None:
    wrapped = "wrap it in a function of (network, x), as `elbos audit --help` shows."
    if inspect.isclass(function):
        raise ValueError(f"{target} is a class: {wrapped}")
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"{target} is no function, but of type {kind}.")  # noqa: TRY004
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(f"{target} is a generator or a coroutine: name a function that returns.")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some callables have none
        return
    names = list(signature.parameters)
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(f"{target} takes ({', '.join(names)}): {wrapped}") from error
    if names[0] == "self":
        raise ValueError(f"{target} is a method that takes ({', '.join(names)}): {wrapped}")


def _run(path: Path) -> ModuleType:
    """The module that a file makes."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):  # a parser of arguments prints pages, and exits
            module = _imported(path)
    except SystemExit as stop:
        reason = (printed.getvalue().strip().splitlines() or [str(stop.code)])[-1]
        raise ValueError(f"{path} exits when it is run ({reason}): {_GUARD}") from stop
    except KeyboardInterrupt as stop:
        raise InterruptedError(f"Interrupted while {path} was run: {_GUARD}") from stop
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {_described(error, path)}") from error
    sys.stderr.write(printed.getvalue())
    return module


def _imported(path: Path) -> ModuleType:
    _, names = _place(path)
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    spec = importlib.util.spec_from_file_location("__audited__", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def _described(error: Exception, path: Path) -> str:
    """Type, line of the file and message."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == str(path.resolve())]
    place = f" (line {lines[-1]})" if lines else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{place}: {text[:300] or 'no message'}"
