"""A weighting of your own: log-SNRs, a tensor, to weights.

    elbos train digits weighting:own --weighting.function examples/weighting.py:w
    elbos compare digits --objectives edm "mine=V(),Adaptive(),examples/weighting.py:w"

It falls as log-SNR grows, so it is a likelihood objective of noisy data.
"""


def w(logsnr):
    """Half of the weight at log-SNR 2, and never less than a hundredth: details count."""
    return (2 - logsnr).sigmoid() + 0.01
