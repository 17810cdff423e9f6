"""From a denoiser to samples (`samplers`) and bits per dimension (`likelihood`); `networks`."""
