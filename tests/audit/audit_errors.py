"""How far a measured weighting is from the true one."""


def central(result, share=0.98):
    """The points of the grid between which `share` of the samples lie."""
    below = result.density.cumsum(0) / result.density.sum()
    return (below > (1 - share) / 2) & (below < (1 + share) / 2)


def relative_errors(result, weighting):
    """Of the weights, on the central 98 % of the samples; the constant is the best one."""
    remaining = central(result)
    difference = (result.weight.log() - weighting(result.logsnr).log())[remaining]
    return (difference - difference.median()).exp() - 1
