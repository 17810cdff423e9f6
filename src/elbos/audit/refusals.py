"""Why a loss cannot be measured: its network's input is not data, scaled, plus noise."""

REFUSAL = (
    "The network's input is not the data, scaled, plus noise of one level per sample: take out of "
    "the loss what is random besides (augmentation, a VAE's sample()), a shuffled batch, and data "
    "paired with noise (optimal transport); levels that differ within a sample, as per frame, have "
    "no weighting of this kind."
)
