"""Numbers as text: what is written is the number, to the digit that is known."""

import math
import re

import pytest

from elbos.base.numbers import (
    NONE,
    count,
    decimals,
    fixed,
    number,
    percent,
    plus_minus,
    setting,
    signed,
)

VALUES = [2.9034, 123.456, 0.05, -0.0321, 1.5e-5, -98_765.4, 0.0]
ERRORS = [0.0123, 0.0996, 0.995, 2.5, 31.0, 4e-6, 9.97e-9, 250.0]


def read(text):
    """The value and the error that a text says."""
    pair, exponent = re.fullmatch(r"\(?(.*?)\)?(e.*)?", text.replace("−", "-")).groups()
    return (float(f"{item}{exponent or ''}") for item in pair.split(" ± "))


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("error", ERRORS)
def test_value_and_error_are_written_to_the_errors_second_digit(value, error):
    shown, shown_error = read(plus_minus(value, error))
    assert shown_error == pytest.approx(error, rel=0.05)
    assert abs(shown - value) <= 0.05 * error * (1 + 1e-6)


@pytest.mark.parametrize("error", [*ERRORS, 1.0, 9.96, 0.1])
def test_decimals_show_two_digits_and_no_more(error):
    places = decimals(error)
    assert float(fixed(error, places)) == pytest.approx(error, rel=0.05)
    if places:
        assert float(fixed(error, places - 1)) != pytest.approx(error, rel=0.005) or (
            f"{error:.1e}"[2] == "0"
        )


@pytest.mark.parametrize("value", VALUES)
def test_four_digits_are_right_and_shown(value):
    shown = number(value)
    assert float(shown.replace("−", "-")) == pytest.approx(value, rel=5e-4)
    assert "-" not in shown
    assert len(re.sub(r"\D", "", re.sub(r"e.*|^−?0\.0*", "", shown))) >= 4 or not value


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dash(value):
    for text in (number(value), fixed(value, 2), signed(value, 2), percent(value)):
        assert text == NONE
    assert plus_minus(value, 0.1) == NONE
    assert plus_minus(2.9034, value) == number(2.9034)
    assert decimals(value) is None


def test_counts_settings_and_shares():
    assert [count(n, "seeds") for n in (0, 1, 12_000, None)] == [
        *("0 seeds", "1 seed", "12,000 seeds", "seeds"),
    ]
    assert (count(None), percent(0.123), percent(-0.5, 0)) == (NONE, "12.3%", "−50%")
    assert setting({"a": [1000, True, None], "b": -0.5}) == f"a 1,000, yes, {NONE}, b −0.5"
