"""`elbos audit` in a folder of its own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Result
from comparing import folder  # noqa: F401, a fixture

from elbos import cli


@pytest.fixture
def audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run `elbos audit` in this process, with a folder of its own as the current directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["elbos", "audit", *map(str, words)])
        before = sys.argv, sys.path, sys.stdin, sys.stdout
        capfd.readouterr()
        try:
            cli.main()
            status: Any = 0
        except SystemExit as stop:
            status = stop.code or 0
        assert (sys.argv, sys.path, sys.stdin, sys.stdout) == before
        return Result(status, *capfd.readouterr())

    return run
