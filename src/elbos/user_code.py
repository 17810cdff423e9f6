"""Functions in files of the user's own: `FILE.py:FUNCTION`.

The file is run as a script is, but for its name: beside its neighbours, without arguments, in the
package that it is in. What it prints goes to stderr, and the process is left as it was, its current
directory included, so that the next file finds its own neighbours.
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import torch

from elbos import files

_NAME = "__user_code__"  # of the module that a file makes
_CHANGED = ("argv", "path", "stdin", "stderr", "dont_write_bytecode")
_GUARD = "keep what trains and what reads arguments under `if __name__ == '__main__'`."


def is_code(target: str) -> bool:
    """Whether a target is a Python file, with a function or without."""
    return target.endswith(".py") or code_path(target).suffix == ".py"


def code_path(target: str) -> Path:
    """The file of a target that is code."""
    return _split(target)[0]


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
    _require_readable(path)
    folder, _ = _place(path)
    saved = {name: getattr(sys, name) for name in _CHANGED}
    modules, current, dtype = dict(sys.modules), Path.cwd(), torch.get_default_dtype()
    sys.argv, sys.stdin, sys.dont_write_bytecode = [str(path)], None, True  # nobody answers
    sys.path = [str(folder), *sys.path, str(path.resolve().parent), str(current)]
    try:
        with _nothing_on_stdout():
            yield
    except (Exception, KeyboardInterrupt):
        raise
    except SystemExit as stop:
        raise ValueError(
            f"{target} exits when it is called ({stop.code}): return a result."
        ) from stop
    except BaseException as error:  # of the code's own making
        raise ValueError(f"{target} raised {type(error).__name__}.") from error
    finally:
        vars(sys).update(saved)
        torch.set_default_dtype(dtype)
        with contextlib.suppress(OSError):
            os.chdir(current)
        for name in [name for name in [*sys.modules] if _is_neighbour(name, folder, modules)]:
            del sys.modules[name]


def require_target(target: str, arguments: tuple[str, ...], verb: str) -> None:
    """Fail where a target cannot be a function, as far as that shows without running its file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If what follows it is no name; it says which names there are.
    """
    path, name = _split(target)
    _require_readable(path)
    if not all(part.isidentifier() for part in name.split(".")):
        with as_script(target):
            load_function(target, arguments, verb)


def _require_readable(path: Path) -> None:
    """Read a file, which says why it cannot be read."""
    files.read(path, through_links=True)


def _is_neighbour(name: str, folder: Path, before: dict[str, ModuleType]) -> bool:
    """Whether a module is new, and one that only scripts in this folder find."""
    if name.partition(".")[0] in before:
        return False
    if name == _NAME:
        return True
    paths = [path for path in _paths(sys.modules[name]) if isinstance(path, str)]
    return any(Path(p).is_relative_to(folder) and "site-packages" not in p for p in paths)


def _paths(module: object) -> list[object]:
    """Where a module is from; no `__getattr__` is run, of its own or of what is in its place."""
    content = vars(module) if isinstance(module, ModuleType) else {}
    folders = content.get("__path__")
    return [content.get("__file__"), *(folders if isinstance(folders, Iterable) else [])]


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


def load_function(target: str, arguments: tuple[str, ...], verb: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names; inside of `as_script`.

    Args:
        target: What is named.
        arguments: What it is going to be called with.
        verb: The command whose help shows such a function.

    Raises:
        ValueError: In one line, if there is none that takes these arguments, or the file fails.
    """
    path, name = _split(target)
    file = path.resolve()  # which code may change, as it may the current directory
    module = _run(path)
    if not name:
        raise ValueError(f"{path}: name a function, as in {path}:FUNCTION; {_defined(module)}")
    try:
        function = operator.attrgetter(name)(module)
    except AttributeError:
        raise ValueError(f"{path} has no {name!r}; {_defined(module)}") from None
    except Exception as error:  # of a `__getattr__` of the module's own
        raise ValueError(f"{target} cannot be looked up: {described(error, file)}") from error
    _require_takes(target, function, arguments, verb)
    result: Callable[..., Any] = function
    return result


def _defined(module: ModuleType) -> str:
    """What there is to name."""
    own = [
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]
    return f"it defines {', '.join(own) or 'none'}."


def _require_takes(target: str, function: Any, arguments: tuple[str, ...], verb: str) -> None:
    wanted = ", ".join(arguments)
    wrapped = f"wrap it in a function of ({wanted}), as `elbos {verb} --help` shows."
    if inspect.isclass(function):
        raise ValueError(f"{target} is a class: {wrapped}")
    if not callable(function):
        kind = type(function).__name__
        raise ValueError(f"{target} is no function, but of type {kind}.")  # noqa: TRY004
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(f"{target} is a generator or a coroutine: name a function that returns.")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some callables have none, and some an odd one
        return
    names = list(signature.parameters)
    if names and all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values()):
        raise ValueError(f"{target} takes ({', '.join(names)}) by name only: drop the `*`.")
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise ValueError(f"{target} takes ({', '.join(names)}): {wrapped}") from error
    if names[0] == "self":
        raise ValueError(f"{target} is a method that takes ({', '.join(names)}): {wrapped}")


def _run(path: Path) -> ModuleType:
    """The module that a file makes."""
    printed, file = _Held(sys.stderr), path.resolve()
    try:
        with contextlib.redirect_stderr(printed):
            return _imported(path)
    except SystemExit as stop:
        reason = printed.take_reason() or str(stop.code)
        raise ValueError(f"{path} exits when it is run ({reason}): {_GUARD}") from stop
    except KeyboardInterrupt as stop:
        raise InterruptedError(f"Interrupted while {path} was run: {_GUARD}") from stop
    except BaseException as error:
        raise ValueError(f"{path} cannot be run: {described(error, file)}") from error
    finally:
        printed.release()


class _Held(io.TextIOBase):
    """What goes to a stream, held back until it is known whether it ends with the code's exit.

    Parsers of arguments print pages of usage, and exit. What is still held when it is released goes
    on to the stream, as does whatever comes later: handlers of logs keep what was `sys.stderr` when
    they were made.
    """

    def __init__(self, stream: Any) -> None:  # what tests and notebooks have instead is no TextIO
        super().__init__()
        self._stream: TextIO = stream
        self._held = io.StringIO()
        self._is_held = True

    def write(self, text: str) -> int:
        return (self._held if self._is_held else self._stream).write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def take_reason(self) -> str:
        """The last line of what is held; of a page of usage, no other is kept."""
        *lines, reason = self._held.getvalue().rstrip().splitlines() or [""]
        is_usage = any(line.lower().startswith("usage") for line in lines)
        self._held = io.StringIO()
        self._held.write("" if is_usage else "".join(f"{line}\n" for line in lines))
        return reason

    def release(self) -> None:
        """Let everything through, from now on."""
        self._is_held = False
        self._stream.write(self._held.getvalue())


def _imported(path: Path) -> ModuleType:
    _, names = _place(path)
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    spec = importlib.util.spec_from_file_location(_NAME, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def described(error: BaseException, file: Path) -> str:
    """Type, line of the file and message."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == str(file)]
    place = f" (line {lines[-1]})" if lines else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{place}: {text[:300] or 'no message'}"
