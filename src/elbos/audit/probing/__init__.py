"""Coefficients at every noise level, from draws of a loss and calls of its network."""
