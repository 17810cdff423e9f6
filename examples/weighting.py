"""A custom weighting: a function from a tensor of log-SNRs to weights.

    elbos train digits weighting:own --weighting.function examples/weighting.py:w
    elbos compare digits --objectives "edm-weighting=V(),Adaptive(),EDM()" \
        "mine=V(),Adaptive(),examples/weighting.py:w"

It decreases with log-SNR, so the loss is a likelihood objective of noisy data.
"""


def w(logsnr):
    """Compute sigmoid(2 - logsnr) + 0.01; the constant keeps some weight on clean data."""
    return (2 - logsnr).sigmoid() + 0.01
