"""Optional dependencies: packages that an extra such as `elbos[train]` installs.

The core, `pip install elbos`, holds the mathematics, samplers, the bound, `elbos.audit` and
`elbos.Validator`. Modules of a room that needs more import what they need as usual; whoever imports
such a module from outside, or a package within a function, does so in `with needs(EXTRA):`.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class MissingExtra(ModuleNotFoundError):
    """Error: an optional dependency is missing; the message names the extra that installs it."""


@contextmanager
def needs(extra: str | None) -> Iterator[None]:
    """Convert a failed import into an error that names the extra of pyproject.toml to install.

    None is for a package that no extra installs, which the error names itself.

    Raises:
        MissingExtra: If a module other than one of this library is not found.

    Examples:
        >>> with needs("train"):
        ...     import absent
        Traceback (most recent call last):
        elbos.base.extras.MissingExtra: absent is not installed: pip install 'elbos[train]'.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in ("", "elbos"):
            raise
        package = name if extra is None else f"'elbos[{extra}]'"
        raise MissingExtra(f"{name} is not installed: pip install {package}.", name=name) from error


def imported(module: str, extra: str | None = None) -> Any:
    """Import a module that `extra` installs, by default the extra of its name."""
    with needs(extra or module):
        return importlib.import_module(module)


def shown_by(result: object, module: str = "report") -> Any:
    """Import the module, by default `report`, that displays a result of its package.

    A room has its report and figures beside its result: `elbos.audit.result.Audit` is shown by
    `elbos.audit.report`, whose packages are large and belong to an extra.
    """
    package = type(result).__module__.rpartition(".")[0]
    return imported(f"{package}.{module}", "report")
