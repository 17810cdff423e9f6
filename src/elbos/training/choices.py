"""Unions of the classes that a configuration may hold; tyro derives the command line from them.

A part is chosen as a type, `weighting:sigmoid --weighting.k 3`. Its classes come from the tables of
the mathematics, such as `weightings.WEIGHTINGS`: a new class is found here by its line there.
"""

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

import tyro

from elbos.models.networks import NETWORKS, NetworkConfig
from elbos.theory import adaptive, parameterizations, schedules, weightings
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import FlowTimes, Mixture, ZeroTerminal
from elbos.theory.weightings import Tabulated
from elbos.training.data import KnownData
from elbos.training.data.given import Given
from elbos.training.network import OwnNetwork


def _choice(*classes: type) -> Any:
    members = []
    for cls in classes:
        name = cls.__name__.removesuffix("Config")
        name = name.capitalize() if name in ("UNet", "UViT", "ViT") else name
        word = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
        summary, _, _ = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
        text = re.sub(r",\s+\$[^$]+\$(?=[.:])", "", summary)  # leave out the formula
        members.append(Annotated[cls, tyro.conf.subcommand(word, description=text)])
    return Union[tuple(members)]  # noqa: UP007, built at run time


def require_storable(weighting: weightings.WeightFunction) -> None:
    """Raise a ValueError if a weighting holds a user's function, which config.json cannot store.

    Examples:
        >>> import torch
        >>> require_storable(weightings.Monotone(torch.exp))
        Traceback (most recent call last):
        ...
        ValueError: exp is user-defined: give Tabulated.from_function(exp), which keeps its numbers.
    """
    storable: set[type] = {*weightings.WEIGHTINGS, weightings.Implied, Tabulated}
    if isinstance(weighting, weightings.Monotone | weightings.Shifted):
        require_storable(weighting.inner)
    elif type(weighting) not in storable:
        name = getattr(weighting, "__name__", repr(weighting))
        raise ValueError(
            f"{name} is user-defined: give Tabulated.from_function({name}), which keeps its "
            "numbers."
        )


if TYPE_CHECKING:
    Network = NetworkConfig
    Data = KnownData | Given
    Prediction = parameterizations.Parameterization
    NoiseSchedule = schedules.Schedule
    Weight = weightings.Weighting
else:
    ClosedForm = _choice(*weightings.WEIGHTINGS)

    def _own_weighting(function: str) -> Tabulated:
        """Weighting computed from log-SNRs by a function FILE.py:FUNCTION."""
        return Tabulated.from_file(function)

    def _published_weighting(name: Literal[tuple(RECIPES)]) -> weightings.Weighting:
        """Weighting of a published recipe, of those that `elbos weightings` prints."""
        return RECIPES[name].weighting

    Simple = Union[  # noqa: UP007, built at run time
        ClosedForm,
        Annotated[
            weightings.Implied,
            tyro.conf.subcommand("recipe", constructor=_published_weighting),
        ],
        Annotated[Tabulated, tyro.conf.subcommand("own", constructor=_own_weighting)],
    ]

    def _monotone(inner: Simple) -> weightings.Monotone:
        """Smallest non-increasing weighting above a given weighting."""
        return weightings.Monotone(inner)

    Weight = Union[  # noqa: UP007, built at run time
        Simple,
        Annotated[weightings.Monotone, tyro.conf.subcommand("monotone", constructor=_monotone)],
        tyro.conf.Suppress[weightings.Shifted],
    ]
    # compositions are written in a file, for --config
    NoiseSchedule = Union[  # noqa: UP007, built at run time
        _choice(*adaptive.SCHEDULES),
        tyro.conf.Suppress[Mixture],
        tyro.conf.Suppress[FlowTimes],
        tyro.conf.Suppress[ZeroTerminal],
    ]
    Prediction = _choice(*parameterizations.PARAMETERIZATIONS)

    def _own_network(function: str) -> OwnNetwork:
        """User-defined torch.nn.Module returned by FILE.py:FUNCTION.

        The function is called with the shape of one sample and the number of classes, or None. The
        network is called with (z, logsnr, label); the label -1 is the null label.
        """
        return OwnNetwork.from_file(function)

    Network = Union[  # noqa: UP007, built at run time
        _choice(*NETWORKS),
        Annotated[OwnNetwork, tyro.conf.subcommand("own", constructor=_own_network)],
    ]
    Data = Union[(*get_args(KnownData), tyro.conf.Suppress[Given])]
