"""Import of modules by former paths: `elbos.weightings` is now `elbos.theory.weightings`.

The short paths of the mathematics are public and stay; the others serve code written for version
0.1. Both paths import the same module object.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PUBLIC = {
    **dict.fromkeys(("samplers", "likelihood", "networks"), "models"),
    **dict.fromkeys(
        (
            *("adaptive", "denoiser", "floor", "objective", "oracles", "parameterizations"),
            *("process", "recipes", "schedules", "tabulated", "weightings"),
        ),
        "theory",
    ),
    "testing": "audit",
    "tracking": "training",
}
"""Modules with a short public path, and the packages that define them."""

_MOVED = {
    **{name: f"{room}.{name}" for name, room in PUBLIC.items()},
    **{
        name: f"base.{name}"
        for name in (
            *("arrays", "checks", "codec", "conditions", "errors", "files", "items", "philox"),
            *("progress", "records", "user_code"),
        )
    },
    "analysis": "theory.elbo",
    "audit.script": "adapters.scripts",
    "audit.script.loss": "adapters.scripts.run",
    "evaluation.pretrained": "runs.pretrained",
    "evaluation.requirements": "runs.pretrained",
    "export": "runs.export",
    "extrema": "theory.extrema",
    "report": "base",
    "report.audit": "audit.page",
    "report.audit_figure": "audit.figure",
    "report.audit_terminal": "audit.terminal",
    "report.audit_words": "audit.words",
    "report.comparison": "comparison.page",
    "report.comparison_figures": "comparison.figures",
    "report.comparison_tables": "comparison.tables",
    "report.evaluation": "evaluation.page",
    "report.evaluation_figures": "evaluation.figures",
    "report.floor": "evaluation.page",
    "report.gallery": "audit.gallery",
    "report.gallery_figure": "audit.gallery_figure",
    "report.protocols": "validation.page",
    "report.translation": "adapters.trainers.translation",
    "report.weightings": "cli.weightings",
    "runs.cache": "base.cache",
    "runs.checkpoint": "training.checkpoint",
    "runs.directory": "training.directory",
    "runs.exported": "training.exported",
    "runs.store": "base.store",
    "runs.stored": "training.checkpoint",
    "training.fit": "runs.fit",
    "training.processes": "base.processes",
    "training.run": "runs.run",
    "training.slurm": "base.slurm",
    "training.settings": "training.config",
    "validation.processes": "base.sharing",
}


def path_today(name: str) -> str | None:
    """Return the current dotted path of a module that has moved.

    The result is None if the module has not moved.

    Examples:
        >>> path_today("elbos.weightings.flow"), path_today("elbos.audit")
        ('elbos.theory.weightings.flow', None)
    """
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        if room := _MOVED.get(".".join(parts[:end])):
            return ".".join(["elbos", room, *parts[end:]])
    return None


class _Aliases:  # without the classes of importlib.abc, whose import takes 30 ms
    def find_spec(
        self,
        fullname: str,
        path: Any = None,  # a sequence, or the equivalent of a namespace package
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        del path, target
        is_moved = fullname.startswith("elbos.") and path_today(fullname) is not None
        loader: Any = self
        return ModuleSpec(fullname, loader) if is_moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        today = path_today(spec.name)
        assert today is not None
        module = importlib.import_module(today)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state  # the import system had set that of the former path


def moved_names(names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` function for names that have moved to other modules.

    Args:
        names: Dotted path of the defining module, by name.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"there is no {name!r}: choose from {', '.join(names)}")
        return getattr(importlib.import_module(names[name]), name)

    return __getattr__


def install() -> None:
    """Install an import hook that resolves the former paths of moved modules.

    The hook precedes all others. Placed later, a moved package would be imported twice, once under
    each path.
    """
    sys.meta_path.insert(0, _Aliases())
