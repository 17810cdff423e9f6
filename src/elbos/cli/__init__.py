"""The command line: `elbos VERB`."""

from elbos.cli.app import VERBS, main

__all__ = ["VERBS", "main"]
