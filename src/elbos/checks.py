"""Checks of arguments that users give, each failing with one line that says what to do."""


def require_positive(**values: float) -> None:
    """Raise a ValueError that names the first argument that is not a number above 0.

    Examples:
        >>> require_positive(std=1.0)
        >>> require_positive(std=0.0)
        Traceback (most recent call last):
        ...
        ValueError: std is 0.0: give a number above 0.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a number above 0.")
