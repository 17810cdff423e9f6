"""Densities of the noise levels that a loss draws: families, tables and curves."""
