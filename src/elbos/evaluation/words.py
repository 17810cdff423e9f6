"""Numbers and settings as text, until the comparison's report takes those of `elbos.report`."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from elbos.report.parts import NONE, breakable, table


def four_digits(value: float) -> str:
    """A number to its fourth digit.

    Examples:
        >>> four_digits(49.001), four_digits(4805.2)
        ('49.00', '4805')
    """
    return f"{value:#.4g}".rstrip(".")


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return NONE if value is None else four_digits(value)


def fact(value: Any) -> str:
    """A setting in words.

    Examples:
        >>> fact({"torch": "2.6", "seeds": [0, 1]}), fact(True), fact(60_000)
        ('torch 2.6, seeds 0, 1', 'yes', '60,000')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {fact(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(fact(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: NONE, True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def settings_table(settings: Mapping[str, Any]) -> str:
    """Names and values of settings."""
    rows = ((escape(k.replace("_", " ")), [breakable(fact(v))]) for k, v in settings.items())
    return f'<div class="settings">{table(rows)}</div>'
