"""What an audit remarks besides the weighting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Oddity:
    """Something about a loss that its weighting does not tell.

    Args:
        kind: One word, for programs.
        text: One sentence, for people.
        is_fatal: Whether it means that no weighting describes the loss.
    """

    kind: str
    text: str
    is_fatal: bool = False
