"""What the weighting trades: likelihood against samples, on scikit-learn's digits.

Trains the digits preset under several weightings (or resumes runs that are there), and prints
for each the test bits/dim, unconditional and given the label, and how often a support vector
classifier, trained on the real training images, agrees with the label that a sample was conditioned
on. Beside them stands what a full-covariance Gaussian mixture reaches on the same split: components
and regularization chosen on the validation images, dequantized with uniform noise.

    python benchmarks/digits.py --runs runs/digits-benchmark --seeds 0 1 2 [--tiny]
"""

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.svm import SVC

from elbos.cli.app import run
from elbos.training.data import Digits

WEIGHTINGS = {
    "ELBO": ["weighting:elbo"],
    "sigmoid(2)": ["weighting:sigmoid", "--weighting.k", "2"],
}
FOLDER = str.maketrans({"(": "-", ")": None})
NUM_SAMPLES = 1000
GRID = (1, 5, 10, 20, 40), (1e-4, 3e-4, 1e-3, 3e-3)  # components and regularization of mixtures
TINY_GRID = (1,), (1e-3,)
TINY = ["--num-images", 20]  # of `elbos evaluate`
NUM_LEVELS = 17


def main() -> None:
    """Train, sample, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/digits-benchmark"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tiny", action="store_true", help="less, to see that it runs")
    parser.add_argument("options", nargs="*", help="further options of `elbos train`")
    arguments = parser.parse_args()
    real = classifier()
    grid, weightings, few = (
        (TINY_GRID, ["ELBO"], TINY) if arguments.tiny else (GRID, WEIGHTINGS, [])
    )
    mixture, mixture_error = gaussian_mixture_bits(*grid)
    print(f"Gaussian mixture: {mixture:.3f} ± {mixture_error:.3f} bits/dim on the test images")
    print(f"SVC on the real test images: {real_accuracy(real):.1%}")
    print("weighting   seed  bits/dim        given label     SVC agrees")
    for name in weightings:
        words = WEIGHTINGS[name]
        for seed in arguments.seeds:
            path = arguments.runs / f"{name.lower().translate(FOLDER)}-{seed}"
            elbos("train", "digits", "--run", path, "--seed", seed, *arguments.options, *words)
            elbos("sample", path, "--num", NUM_SAMPLES, "--seed", 1, "--out", path / "thousand")
            elbos("evaluate", path, "--num-samples", 0, "--ode.num-images", 0, *few)
            results = json.loads((path / "eval.json").read_text())["results"]
            bits = [results[key] for key in ("unconditional", "given_label")]
            cells = [f"{b['bits_per_dim']:.3f} ± {b['standard_error']:.3f}" for b in bits]
            print(f"{name:11} {seed:4}  {cells[0]}   {cells[1]}   {agreement(real, path):.1%}")


def elbos(*words: object) -> None:
    """Run an elbos command, without what it prints; stop if it fails."""
    with contextlib.redirect_stdout(io.StringIO()):
        run([*map(str, words)])


def classifier() -> SVC:
    """A support vector classifier of the real training images."""
    train = Digits().load().train
    return SVC(gamma=0.001).fit(train.x[:].flatten(1).numpy(), train.labels.numpy())


def real_accuracy(real: SVC) -> float:
    """Its accuracy on the real test images."""
    test = Digits().load().test
    return float(real.score(test.x[:].flatten(1).numpy(), test.labels.numpy()))


def agreement(real: SVC, path: Path) -> float:
    """Share of a run's samples in which it sees the label they were conditioned on."""
    with np.load(path / "thousand.npz", allow_pickle=False) as archive:
        x, labels = archive["x"], archive["labels"]
    return float(real.score(x.reshape(len(x), -1), labels))


def gaussian_mixture_bits(
    components: tuple[int, ...], regularizations: tuple[float, ...]
) -> tuple[float, float]:
    """Bits/dim of the test images under the best mixture, and the standard error."""
    digits = Digits().load()
    noise = np.random.default_rng(0)

    def dequantized(x: np.ndarray) -> np.ndarray:
        return (x + noise.uniform(size=x.shape)) / NUM_LEVELS

    train, val, test = (
        split.x[:].flatten(1).numpy() for split in (digits.train, digits.val, digits.test)
    )

    def bits(mixture: GaussianMixture, x: np.ndarray, num_draws: int = 20) -> np.ndarray:
        """-log2 P per dimension of each image; the mean over draws bounds it from above."""
        log_density = np.mean([mixture.score_samples(dequantized(x)) for _ in range(num_draws)], 0)
        return math.log2(NUM_LEVELS) - log_density / x.shape[1] / math.log(2)

    best = min(
        (
            GaussianMixture(k, reg_covar=reg, random_state=0).fit(
                dequantized(np.tile(train, (4, 1)))
            )
            for k in components
            for reg in regularizations
        ),
        key=lambda mixture: bits(mixture, val).mean(),
    )
    values = bits(best, test)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


if __name__ == "__main__":
    main()
