"""Formatting of numbers as text, with as many digits as are known."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

NONE = "–"
"""Text shown for a missing number: None, NaN or infinity."""

_ROUNDING = 1e-14  # relative; a smaller standard error counts as zero


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with a given number of significant digits.

    Examples:
        >>> number(49.001), number(4805.2), number(-0.25), number(1.5e-7, 2), number(None)
        ('49.00', '4805', '−0.2500', '1.5e−07', '–')
    """
    return _minus(f"{value:#.{digits}g}".rstrip(".")) if _is_known(value) else NONE


def fixed(value: float | None, decimals: int) -> str:
    """Format a number with a given number of decimals.

    Examples:
        >>> fixed(-2.25, 1), fixed(-0.01, 1), fixed(12.0, 0)
        ('−2.2', '0.0', '12')
    """
    return _minus(f"{value:z.{decimals}f}") if _is_known(value) else NONE


def signed(value: float | None, decimals: int) -> str:
    """Format a number with a given number of decimals and its own sign, also where it rounds to 0:
    an interval shows whether it holds 0.

    Examples:
        >>> signed(-0.26, 1), signed(1.0, 1), signed(-0.04, 1)
        ('−0.3', '+1.0', '−0.0')
    """
    return _minus(f"{value + 0.0:+.{decimals}f}") if _is_known(value) else NONE


def decimals(error: float | None, digits: int = 2) -> int | None:
    """Return the number of decimals that show a standard error to `digits` significant digits.

    Returns:
        None if there is no error: format the value with `number` then.

    Examples:
        >>> decimals(0.0123), decimals(0.0996), decimals(31.0), decimals(0.0)
        (3, 2, 0, None)
    """
    if not error or not _is_known(error):
        return None
    exponent = int(f"{error:.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - exponent)


def plus_minus(value: float | None, error: float | None) -> str:
    """Format a value with its standard error.

    Both end at the error's second significant digit; without an error, the value has four digits.

    Examples:
        >>> plus_minus(2.9034, 0.0123), plus_minus(2.9034, None)
        ('2.903 ± 0.012', '2.903')
        >>> plus_minus(1.5e-5, 4e-6)
        '(1.50 ± 0.40)e−05'
        >>> plus_minus(2.9034, 1e-17)  # rounding
        '2.903'
    """
    places = decimals(error)
    if not _is_known(value) or not _is_known(error) or places is None:
        return number(value)
    if error < _ROUNDING * abs(value):
        return number(value)
    largest = max(abs(value), error)
    if largest >= 1e-3:
        return f"{fixed(value, places)} ± {fixed(error, places)}"
    exponent = math.floor(math.log10(largest))
    places = max(0, places + exponent)
    pair = (fixed(part * 10.0**-exponent, places) for part in (value, error))
    return f"({' ± '.join(pair)}){_minus(f'e{exponent:03}')}"


def interval(low: float | None, high: float | None, places: int) -> str:
    """Format the two ends of an interval with their signs.

    Examples:
        >>> interval(-0.26, 0.1, 2)
        '−0.26 to +0.10'
    """
    return f"{signed(low, places)} to {signed(high, places)}"


def percent(share: float | None, places: int = 1) -> str:
    """Format a fraction as a percentage.

    Examples:
        >>> percent(0.123), percent(0.5, 0)
        ('12.3%', '50%')
    """
    return _minus(f"{share:.{places}%}") if _is_known(share) else NONE


def count(num: int | None, what: str = "") -> str:
    """Format a count with its noun, or the noun alone if the count is unknown.

    Examples:
        >>> count(60_000), count(3, "seeds"), count(1, "seeds"), count(None, "images")
        ('60,000', '3 seeds', '1 seed', 'images')
    """
    if num is None:
        return what or NONE
    return f"{num:,} {what.removesuffix('s') if num == 1 else what}".rstrip()


def setting(value: Any) -> str:
    """Format the value of a setting: a number, flag, text, sequence or mapping.

    Examples:
        >>> setting({"torch": "2.6", "seeds": [0, 1]}), setting(True), setting(60_000)
        ('torch 2.6, seeds 0, 1', 'yes', '60,000')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {setting(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(setting(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: NONE, True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return _minus(str(value)) if _is_known(value) else NONE
    return count(value) if isinstance(value, int) else str(value)


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _minus(text: str) -> str:
    return text.replace("-", "−")
