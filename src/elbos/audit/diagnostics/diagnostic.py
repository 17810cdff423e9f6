"""Base classes of diagnostics: typed values, and a sentence into which the values are formatted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any, ClassVar, dataclass_transform

from elbos.base import numbers
from elbos.base.errors import suggestion

KINDS: dict[str, type["Diagnostic"]] = {}
"""All types of diagnostics, by their kind."""


class _Formatter(Formatter):
    """String formatter whose number formats are the functions of `base.numbers`."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        function, *digits = format_spec.split() or [""]
        if isinstance(value, list):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        return getattr(numbers, function)(value, *map(int, digits)) if function else str(value)


@dataclass_transform(frozen_default=True)
class Diagnostic:
    """A property of a training loss that the weighting alone does not show.

    Each kind of finding is a subclass, and thereby a frozen dataclass, with fields and one
    sentence; `is_fatal` and `is_error` are arguments of the class. The kind of `OffsetNoise` is
    "offset-noise", also in JSON.

    Examples:
        >>> from elbos.audit.diagnostics import OffsetNoise
        >>> found = OffsetNoise(strength=0.1)
        >>> found.kind, found.values, found.is_fatal
        ('offset-noise', {'strength': 0.1}, True)
        >>> Diagnostic.from_values("offset-noise", {"strength": 0.1}) == found
        True
    """

    kind: ClassVar[str]
    sentence: ClassVar[str]
    is_fatal: ClassVar[bool]  # no weighting describes the loss
    is_error: ClassVar[bool]  # the code computes an unintended weighting

    def __init_subclass__(cls, *, is_fatal: bool = False, is_error: bool = False) -> None:
        cls.is_fatal, cls.is_error = is_fatal, is_error
        dataclass(frozen=True)(cls)
        if "sentence" in vars(cls):  # not a base class of several kinds
            cls.kind = re.sub(r"(?<=.)(?=[A-Z])", "-", cls.__name__).lower()
            KINDS[cls.kind] = cls

    @classmethod
    def from_values(cls, kind: str, values: Mapping[str, Any]) -> "Diagnostic":
        """Construct a diagnostic from its kind and field values.

        Raises:
            ValueError: If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"There is no diagnostic {kind!r}: {suggestion(kind, KINDS)}")
        return KINDS[kind](**values)

    @property
    def values(self) -> dict[str, float | str | list[float]]:
        """Values of the diagnostic's fields that are not None, by field name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def text(self) -> str:
        """Sentence that describes the diagnostic with its values."""
        return _Formatter().vformat(self.template, (), vars(self))

    @property
    def template(self) -> str:
        return self.sentence


class ShareDiagnostic(Diagnostic):
    share: float


class SchedulerDiagnostic(Diagnostic):
    scheduler: str
