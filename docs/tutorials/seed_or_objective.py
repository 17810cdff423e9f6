# # Which objective should I train with, or is it the seed?
#
# Two objectives, one training each, and one has the better samples. Would it with another seed?
# `elbos compare` trains each objective with several seeds. This is what it found for eighteen
# objectives on digits, read with one seed at a time and then with all.

import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt

from elbos.comparison.result import Comparison

# ## The comparison
#
# `report.json` has the score of every run, and the command that made it.

report = Path("docs/results/digits/report.json").read_text()  # of yours: runs/NAME/report.json
comparison = Comparison.from_dict(json.loads(report))
print(len(comparison.objectives), "objectives, seeds", *comparison.seeds)

metric = "kernel_heun"  # kernel distance of samples to the data, less is better
scores = {name: by_metric[metric] for name, by_metric in comparison.values.items()}

# ## One seed at a time

for seed in comparison.seeds:
    ranked = sorted(scores, key=lambda name: scores[name][seed])
    print(f"seed {seed}: {ranked[0]} is best, before {ranked[1]}")

# How often do two seeds disagree about which of two objectives is better?

pairs = list(itertools.combinations(scores, 2))
unlike = [
    (scores[a][s] < scores[b][s]) != (scores[a][t] < scores[b][t])
    for a, b in pairs
    for s, t in itertools.combinations(comparison.seeds, 2)
]
print(f"in {sum(unlike) / len(unlike):.0%} of {len(unlike)} cases")

# ## All seeds
#
# The report tests differences, and says which differences it could have found. Objectives with
# the same seed share initial weights, batches and noise, so that what a seed does to all of them
# cancels.

tested = next(m for m in comparison.main_metrics if m.key == metric)
for pair in comparison.pairs:
    difference = comparison.difference(*pair, tested)
    verdict = "significant" if difference.is_significant else "not significant"
    print(f"{pair.monotone} − {pair.non_monotone}: ", end="")
    print(f"{difference.mean:+.4f}, {difference.low:+.4f} to {difference.high:+.4f}: {verdict}")

order = sorted(scores, key=lambda name: sum(scores[name].values()))
for seed in comparison.seeds:
    plt.plot([scores[name][seed] for name in order], order, "o", alpha=0.6, label=f"seed {seed}")
plt.xlabel("kernel distance of samples, less is better")
plt.legend()
plt.show()

# No pair differs significantly, and the intervals say by how much at most:
# [the result](../results/digits/README.md) has them beside what counts as equal. All of it is of
# one small network. [The guide](../compare.md) says how the intervals are made, and how to compare
# objectives of yours.
