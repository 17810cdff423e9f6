"""The base of all diagnostics: fields, a kind, and one sentence with the fields in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from string import Formatter
from typing import Any, ClassVar

from elbos.base import numbers
from elbos.base.errors import suggestion

KINDS: dict[str, type["Diagnostic"]] = {}
"""All types of diagnostics, by their kind."""


class _Formatter(Formatter):
    """Format fields by functions of `base.numbers`, as in `{share:percent}` or `{x:fixed 2}`."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        function, *digits = format_spec.split() or [""]
        if isinstance(value, list):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        return getattr(numbers, function)(value, *map(int, digits)) if function else str(value)


@dataclass(frozen=True)
class Diagnostic:
    """A finding about a loss that its weighting does not show.

    A kind of finding is a subclass with fields and one sentence; `DeclaredNoise` is of the kind
    "declared-noise", under which JSON holds it.

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
    is_fatal: ClassVar[bool] = False  # no weighting describes the loss
    is_error: ClassVar[bool] = False  # of the code: a weighting is left, which nobody meant

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<=.)(?=[A-Z])", "-", cls.__name__).lower()
        KINDS[cls.kind] = cls

    @classmethod
    def from_values(cls, kind: str, values: Mapping[str, Any]) -> "Diagnostic":
        """Build the diagnostic of a kind.

        Raises:
            ValueError: If there is no such kind, or it has other values.
        """
        if kind not in KINDS:
            raise ValueError(f"There is no diagnostic {kind!r}: {suggestion(kind, KINDS)}")
        try:
            return KINDS[kind](**values)
        except TypeError as error:
            raise ValueError(f"The diagnostic {kind!r} has other values: {error}.") from error

    @property
    def values(self) -> dict[str, float | str | list[float]]:
        """Return the fields by name, without those that are None."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def text(self) -> str:
        """Return the sentence with the values in it."""
        return _Formatter().vformat(self.template, (), vars(self))

    @property
    def template(self) -> str:
        """Return the sentence before formatting; a type with variants of it chooses one."""
        return self.sentence
