"""Calls of a loss and of its network: what was drawn, given and returned."""
