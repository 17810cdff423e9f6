"""The command line: `elbos VERB`. A module for each verb, which is imported when the verb runs."""

from elbos.cli.app import VERBS, main

__all__ = ["VERBS", "main"]
