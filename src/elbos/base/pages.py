"""Lookup of the module that displays a result, in the package that defines the class of the result.

`elbos.audit.result.Audit` is shown by `elbos.audit.page`: a room has its page, figures and terminal
text beside its result. These modules are imported when a result is first shown, since plotly and
jinja2 are large and belong to an extra.
"""

import importlib
from typing import Any

from elbos.base.extras import needs


def shown_by(result: object, module: str = "page") -> Any:
    """Import the module, by default `page`, that displays a result of its package."""
    package = type(result).__module__.rpartition(".")[0]
    with needs("report"):
        return importlib.import_module(f"{package}.{module}")
