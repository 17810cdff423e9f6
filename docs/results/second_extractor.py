r"""Kernel distances of a comparison's samples in features of a classifier of the data itself.

python docs/results/second_extractor.py                  from digits/second.json
python docs/results/second_extractor.py --runs FOLDER    writes it first, from finished runs

The comparison's own features are of a network for photographs, here of 8x8 pixels. These are of a
small convolutional network, trained here on the labels of every other training image: its 64
activations before the classes, divided by their root mean square over held-out images. Samples are
compared with the held-out images (validation and test), and so are the other training images:
their distance is that of real images. Distances are means over three such networks.

Classes are equally frequent in all of these sets, and not just on average. So two sets have more
in common than independent ones, and equal distributions have a negative distance.

Printed are the rank correlations of both distances over objectives, and what planned pairs have by
the second one; factors.py has what ranks objectives by either.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from objectives import ANCESTRAL, DIGITS, HEUN, SAMPLERS
from scipy import stats
from torch import Tensor, nn

from elbos import Run
from elbos.base.numbers import interval, plus_minus, signed
from elbos.base.progress import silent
from elbos.base.tables import Column, Table
from elbos.comparison.compare import stored_settings
from elbos.evaluation.estimators import kernel_distance
from elbos.evaluation.quality import stored_samples
from elbos.training.data import Digits, to_unit

FILE = DIGITS.folder / "second.json"
NUM_EPOCHS, BATCH_SIZE, NUM_CLASSIFIERS = 40, 64, 3


class Features:
    """A classifier of digits, and the features of held-out images."""

    def __init__(self, seed: int) -> None:
        """Train the classifier on every other training image."""
        torch.manual_seed(seed)
        self.data = Digits().load()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(1024, 64), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 10))
        classifier = nn.Sequential(self.body, self.head)
        optimizer = torch.optim.AdamW(classifier.parameters(), 1e-3)
        train = self.data.train
        x, labels = to_unit(train.x[::2], self.data.num_levels), torch.as_tensor(train.labels[::2])
        for _ in range(NUM_EPOCHS):
            for i in torch.randperm(len(x)).split(BATCH_SIZE):
                loss = F.cross_entropy(classifier(x[i]), labels[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.head.eval()
        self.scale = 1.0
        held_out = self(torch.cat([self.data.val.x[:], self.data.test.x[:]]))
        self.scale = held_out.square().mean().sqrt().item()
        self.held_out = held_out / self.scale

    @torch.no_grad()
    def __call__(self, x: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        features: Tensor = self.body(to_unit(x, self.data.num_levels))
        return features / self.scale

    @torch.no_grad()
    def accuracy(self) -> float:
        """The share of test images that the classifier recognizes."""
        test = self.data.test
        classes = self.head(self.body(to_unit(test.x[:], self.data.num_levels))).argmax(1)
        return float((classes == torch.as_tensor(test.labels[:])).float().mean())

    def distance(self, x: UInt8[Tensor, "n c h w"]) -> float:
        return kernel_distance(self(x), self.held_out)[0]


def collect(folder: Path) -> None:
    """Write the distances of all runs of a comparison, and that of real images."""
    features = [Features(seed) for seed in range(NUM_CLASSIFIERS)]
    scoring = stored_settings(folder).scoring
    distances = {}
    for one in DIGITS.comparison.objectives:
        for seed in DIGITS.comparison.seeds:
            run = Run(folder / "runs" / f"{one.name}-{seed}")
            distances[run.directory.path.name] = found = {}
            for name, sampling in scoring.samplings.items():
                x = stored_samples(run, sampling, scoring.num_samples, seed, silent)
                found[name] = statistics.mean(one.distance(x) for one in features)
    real = [one.distance(one.data.train.x[1::2]) for one in features]
    content = {
        "accuracy": statistics.mean(one.accuracy() for one in features),
        "num_held_out": len(features[0].held_out),
        "real": statistics.mean(real),
        "runs": distances,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def values(stored: dict, sampler: str) -> Float[np.ndarray, "r n"]:
    """Distances by objective and seed."""
    comparison = DIGITS.comparison
    runs = [[f"{one.name}-{seed}" for seed in comparison.seeds] for one in comparison.objectives]
    return np.array([[stored["runs"][name][sampler] for name in row] for row in runs])


def objectives(stored: dict) -> Table:
    """Both distances of each objective, and their rank correlations in the last row."""
    found = {}
    for sampler, key in zip(SAMPLERS, (ANCESTRAL, HEUN), strict=True):
        found[f"first, {sampler}"] = DIGITS.values(key)
        found[f"second, {sampler}"] = values(stored, sampler)
    rows = [
        [one.name, *(plus_minus(x[i].mean(), x[i].std(ddof=1)) for x in found.values())]
        for i, one in enumerate(DIGITS.comparison.objectives)
    ]
    means = [x.mean(1) for x in found.values()]
    rho = [signed(stats.spearmanr(*means[i : i + 2]).statistic, 2) for i in (0, 2)]
    rows.append(["ρ of first and second", "", rho[0], "", rho[1]])
    return Table(["objective", *found], rows)


def pairs(stored: dict) -> Table:
    """The planned pairs, by the paired t-test of their own seeds, corrected for all of them."""
    names = [one.name for one in DIGITS.comparison.objectives]
    planned, rows = DIGITS.comparison.pairs, []
    for pair in planned:
        row = [f"{pair.monotone} minus {pair.non_monotone}"]
        for sampler in SAMPLERS:
            found = values(stored, sampler)
            yes, no = (found[names.index(name)] for name in (pair.monotone, pair.non_monotone))
            level = 1 - 0.05 / (len(SAMPLERS) * len(planned))
            low, high = stats.ttest_1samp(yes - no, 0).confidence_interval(level)
            row += [signed((yes - no).mean(), 4), interval(low, high, 4)]
        rows.append(row)
    heads = [Column(head, is_numeric=False) for head in ("KD, ancestral", "", "KD, Heun", "")]
    return Table(["pair", *heads], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="the folder of the finished comparison")
    arguments = parser.parse_args()
    if arguments.runs:
        collect(arguments.runs)
    stored = json.loads(FILE.read_text())
    print(f"The classifier recognizes {100 * stored['accuracy']:.1f} % of the test images.")
    print(f"Real images have a distance of {signed(stored['real'], 4)}.\n")
    for table in (objectives(stored), pairs(stored)):
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
