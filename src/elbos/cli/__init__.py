"""The command line, `elbos VERB`, with one module per verb, imported when the verb runs."""

from elbos.cli.app import VERBS, main

__all__ = ["VERBS", "main"]
