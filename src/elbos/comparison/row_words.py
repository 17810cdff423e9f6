"""Rows as they are written on the command line: a built-in row's name, or a row of one's own.

`mine=V(),Adaptive(),Monotone(EDM(mean=2.4))` is a prediction type, a schedule and a weighting, as
they are called in Python. A weighting may also be a function in a Python file,
`mine=V(),Adaptive(),FILE.py:FUNCTION`: that file is run.
"""

from elbos.comparison.rows import ROWS, Row
from elbos.runs.codec import parse
from elbos.training.choices import NoiseSchedule, Prediction, Weight

_MAX_SHOWN = 60  # characters, beyond which words are not repeated
_EXAMPLE = '"mine=V(),Adaptive(),Sigmoid(k=3)"'


def parse_row(words: str) -> Row:
    """The row that some words stand for.

    Raises:
        ValueError: If they stand for none.
    """
    name, equals, text = (part.strip() for part in words.partition("="))
    shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
    if not equals:
        if name not in ROWS:
            raise ValueError(
                f"There is no row {shown!r}: choose from {', '.join(ROWS)}, or write one "
                f"of your own, as {_EXAMPLE}."
            )
        return ROWS[name]
    kinds = tuple[Prediction, NoiseSchedule, Weight]
    prediction, schedule, weighting = parse(
        kinds, text, f"row {shown!r} (a prediction type, a schedule and a weighting)"
    )
    return Row(name=name, parameterization=prediction, schedule=schedule, weighting=weighting)
