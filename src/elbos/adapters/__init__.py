r"""Adapters: denoisers from networks of other libraries, and callbacks.

| module | what it adapts |
|---|---|
| `diffusers` | `denoiser(network, scheduler)`, `load(folder)`; scheduler files for the audit |
| `edm` | `denoiser(network)`: preconditioned networks $D(x + \tilde\sigma\epsilon; \tilde\sigma)$ |
| `flow` | `denoiser(network, data_at=...)`: velocities on straight paths, $v(z_t, t)$ |
| `lightning`, `transformers` | callbacks that audit a training's first steps |

A network whose time input is log-SNR needs no adapter: `elbos.Denoiser(network, parameterization)`,
with `parameterizations.X()` if the network returns $\hat x$ and `Eps()` if it returns
$\hat\epsilon$. Modules are imported at first use.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elbos.adapters import diffusers as diffusers
    from elbos.adapters import edm as edm
    from elbos.adapters import flow as flow

_MODULES = ("diffusers", "edm", "flow", "lightning", "transformers")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"elbos.adapters.{name}")
    raise AttributeError(f"module 'elbos.adapters' has no attribute {name!r}")
