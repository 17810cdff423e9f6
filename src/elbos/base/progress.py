"""Progress display of long computations on the terminal: amount done, rate and time left."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from elbos.base.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task


LOGGER = logging.getLogger("elbos")
"""Reports events of a run at level INFO, which Python does not show unless that is configured."""


class _Lines(logging.Handler):
    """Logging handler that prints messages to `sys.stderr`, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{printable(record.getMessage())}\n")


@contextmanager
def at_level(logger: logging.Logger, level: int) -> Iterator[None]:
    """Set the level of a logger within the `with` block."""
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def log_on_terminal() -> Iterator[None]:
    """Print the messages of the logger `elbos` to standard error within the `with` block."""
    handler = _Lines()
    LOGGER.addHandler(handler)
    try:
        with at_level(LOGGER, logging.INFO):
            yield
    finally:
        LOGGER.removeHandler(handler)


class Advance(Protocol):
    """Callback that reports finished work, with True if an earlier run did it."""

    def __call__(self, num: int, is_kept: bool = False, /) -> None: ...


Start = Callable[[str, int, str], Advance]
"""Starts a task, given its name, amount of work and unit; returns its progress callback."""


def silent(what: str, total: int, unit: str) -> Advance:
    del what, total, unit
    return lambda *_: None


def progress(console: "Console | None" = None) -> "Progress":
    """Return a progress bar with rate and time left, by default on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: "Task") -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="cyan")

    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=60,
    )


def clock(seconds: float) -> str:
    """Format a duration in seconds as h:mm:ss.

    Examples:
        >>> clock(59.6), clock(36_000)
        ('0:01:00', '10:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def begin(bar: "Progress", what: str, total: int, unit: str) -> Advance:
    """Add a task to a progress bar, or without a terminal log a line, and return the callback."""
    if not bar.console.is_terminal:
        LOGGER.info("%s", f"{what}: {total:,} {unit}")
    task = bar.add_task(what, total=total, unit=unit, note="")

    def advance(num: int, is_kept: bool = False, /) -> None:
        if is_kept:
            bar.reset(task, completed=int(bar.tasks[task].completed) + num)
        else:
            bar.advance(task, num)

    return advance
