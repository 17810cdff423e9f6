"""Recording of the losses of a running training."""
