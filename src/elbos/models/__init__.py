"""Samples (`samplers`) and bits per dimension (`likelihood`) of a denoiser; `networks`."""
