"""Rate and time left: of what is being done, not of what was there already."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from elbos.base.progress import LOGGER, begin, log_on_terminal, progress


class Clock:
    """Seconds, set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def timed() -> tuple[Any, Clock]:
    """A bar on a terminal, and the clock it goes by."""
    time = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=150, get_time=time)
    return progress(console), time


@pytest.mark.parametrize(("total", "expected"), [(7201, "1:59:58"), (62, "0:00:59")])
def test_the_time_left_is_shown_with_hours(total: int, expected: str) -> None:
    bar, time = timed()
    advance = begin(bar, "work", total, "images")
    for time.now in (0.0, 1.0, 2.0):
        advance(1)
    bar.console.print(bar.get_renderable())
    assert re.findall(r"\d+:[\d:]+", bar.console.file.getvalue()) == [expected]


def test_kept_batches_are_done_but_do_not_count_as_speed() -> None:
    bar, time = timed()
    advance = begin(bar, "work", 10_000, "images")
    for time.now in (0.1, 0.2, 0.3):
        advance(3000, True)
    for time.now in (1.3, 2.3, 3.3):
        advance(10)
    (task,) = bar.tasks
    assert (task.completed, task.speed) == (9030, pytest.approx(10.0))
    assert task.time_remaining == 97


def test_the_logger_is_silent_but_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.info("before")
    with log_on_terminal():
        LOGGER.info("%s", "100% within")
    LOGGER.info("after")
    assert capsys.readouterr().err == "100% within\n"
    assert not LOGGER.handlers
