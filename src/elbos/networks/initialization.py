"""Weights that start at zero: a branch that adds nothing until it has learned something."""

from torch import nn


def set_zero(*modules: nn.Module) -> None:
    """Set all parameters of the modules to zero."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
