"""From draws of a loss's noise and calls of its network to coefficients at every noise level."""
