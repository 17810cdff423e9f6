"""Bits/dim of a Gaussian mixture on digits: what every generative model of them has to beat.

    python benchmarks/mixture.py

Number of components, of full covariance, and regularization are chosen on the validation images.
A density of dequantized images p(x + u), with u uniform in [0, 1), bounds the probability of pixel
values from below: log P(x) >= E log p(x + u), here the mean of 20 draws.
"""

import itertools
import math

import numpy as np
from sklearn.mixture import GaussianMixture

from elbos.base.numbers import plus_minus
from elbos.training.data import Digits

NUM_COMPONENTS = 1, 5, 10, 20, 40
REGULARIZATIONS = 1e-4, 3e-4, 1e-3, 3e-3
NUM_DRAWS = 20
NUM_COPIES = 4  # of the training images, each with its own noise


def main() -> None:
    """Print the bits/dim of the test images and their standard error over images."""
    digits, noise = Digits().load(), np.random.default_rng(0)
    splits = (digits.train, digits.val, digits.test)
    train, val, test = (split.x[:].flatten(1).numpy() for split in splits)

    def dequantized(x: np.ndarray) -> np.ndarray:
        return (x + noise.uniform(size=x.shape)) / digits.num_levels

    def bits(mixture: GaussianMixture, x: np.ndarray) -> np.ndarray:
        log_density = [mixture.score_samples(dequantized(x)) for _ in range(NUM_DRAWS)]
        return math.log2(digits.num_levels) - np.mean(log_density, 0) / x.shape[1] / math.log(2)

    mixtures = [
        GaussianMixture(num, reg_covar=regularization, random_state=0).fit(
            dequantized(np.tile(train, (NUM_COPIES, 1)))
        )
        for num, regularization in itertools.product(NUM_COMPONENTS, REGULARIZATIONS)
    ]
    values = bits(min(mixtures, key=lambda mixture: bits(mixture, val).mean()), test)
    error = values.std(ddof=1) / len(values) ** 0.5
    print(f"{plus_minus(values.mean(), error)} bits/dim on {len(values)} test images")


if __name__ == "__main__":
    main()
