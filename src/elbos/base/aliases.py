"""Short public paths: `elbos.weightings` is the module `elbos.theory.weightings`."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS: dict[str, tuple[str, ...]] = {
    "models": ("likelihood", "networks", "samplers"),
    "theory": (
        *("adaptive", "denoiser", "floor", "objective", "oracles", "parameterizations"),
        *("process", "recipes", "schedules", "tabulated", "weightings"),
    ),
    "audit": ("testing",),
    "training": ("tracking",),
    "runs": ("export",),
}
PATHS: dict[str, str] = {name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names}
PATHS |= {"analysis": "theory.elbo"}


class ShortPaths:
    """Finder of modules by their short paths; both paths import the same module object."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        package, *parts = fullname.split(".")
        if package != "elbos" or not parts or parts[0] not in PATHS:
            return None
        loader: Any = self
        return ModuleSpec(fullname, loader, origin=".".join(["elbos", PATHS[parts[0]], *parts[1:]]))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(spec.origin))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system replaced it


def install() -> None:
    """Place the finder before all others, which would import a package a second time."""
    finder: Any = ShortPaths()
    sys.meta_path.insert(0, finder)
