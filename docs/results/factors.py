r"""Rank correlations of ELBOs and losses with sample quality, by sampler and by features.

python docs/results/factors.py                  from digits/factors.json
python docs/results/factors.py --runs FOLDER    writes it first, from a comparison's finished runs

digits/README.md has the question and the runs (Protocol). Correlations are Spearman's over the
distinct monotone weightings, of means over seeds and over the objectives that have a weighting.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from objectives import DIGITS, LOSS
from scipy import stats
from second_extractor import NUM_CLASSIFIERS, Features

from elbos import Run
from elbos.base.numbers import fixed, signed
from elbos.base.progress import silent
from elbos.base.tables import Table
from elbos.comparison.compare import stored_settings
from elbos.evaluation.quality import stored_samples
from elbos.theory.elbo import is_monotone
from elbos.theory.weightings import EDM, IDDPM, Sigmoid

FILE = DIGITS.folder / "factors.json"
SEEDS = range(30, 35)
LEVELS = {f"ELBO at log-SNR {fixed(level, 1)}": level for level in (-4.0, 0.0, 2.0, 3.8, 6.0)}
LOSSES = {
    "loss under sigmoid(2)": repr(Sigmoid(k=2.0)),
    "loss under EDM's weighting": repr(EDM(mean=2.4, std=2.4, sigma_data=0.5)),
    "loss under IDDPM's weighting": repr(IDDPM()),
}
TITLES = {"ancestral": "ancestral", "heun": "Heun", "dpm": "DPM-Solver++(2M)"}
DISTANCES = {
    f"{title}, {features}": (sampler, kind)
    for kind, features in (("first", "photographs"), ("second", "digits"))
    for sampler, title in TITLES.items()
}
QUANTITIES = "bits/dim", *LEVELS, *LOSSES


def collect(folder: Path) -> None:
    """Write what is compared, of all runs of the seeds that every objective has."""
    extractors = [Features(seed) for seed in range(NUM_CLASSIFIERS)]
    settings, runs = stored_settings(folder), {}
    ends = settings.config.schedule.logsnr_min, settings.config.schedule.logsnr_max
    paths = {
        seed: [folder / "runs" / f"{name}-{seed}" for name in settings.objectives] for seed in SEEDS
    }
    whole = [s for s in SEEDS if all((path / "scores.json").exists() for path in paths[s])]
    for seed, path in [(s, path) for s in whole for path in paths[s]]:
        scores = json.loads((path / "scores.json").read_text())["scores"]
        metrics, found = scores["metrics"], {}
        weighting = settings.objectives[path.name.rpartition("-")[0]].weighting
        for sampler in TITLES:
            sampling = settings.scoring.samplings[sampler]
            num = settings.scoring.num_samples
            x = stored_samples(Run(path), sampling, num, seed, silent)
            second = statistics.mean(one.distance(x) for one in extractors)
            found[sampler] = {"first": metrics[f"kernel_{sampler}"]["value"], "second": second}
        at = np.interp([*LEVELS.values()], scores["elbo"]["x"], scores["elbo"]["y"])
        runs[path.name] = {
            "started": scores["started"],
            "weighting": repr(weighting),
            "is_monotone": is_monotone(weighting, *ends),
            "bits/dim": metrics["bits_per_dim"]["value"],
            **dict(zip(LEVELS, at.tolist(), strict=True)),
            **{title: metrics[LOSS + w]["value"] for title, w in LOSSES.items()},
            **{title: found[sampler][kind] for title, (sampler, kind) in DISTANCES.items()},
        }
    FILE.write_text(json.dumps(runs, indent=1) + "\n")


def table(runs: dict[str, dict]) -> Table:
    """Correlations of each quantity, and of each distance, with the six distances."""
    monotone = [run for run in runs.values() if run["is_monotone"]]
    weightings = dict.fromkeys(run["weighting"] for run in monotone)
    groups = [[run for run in monotone if run["weighting"] == w] for w in weightings]
    means = {
        title: np.array([statistics.mean(run[title] for run in group) for group in groups])
        for title in (*QUANTITIES, *DISTANCES)
    }
    rows = [
        [title, *(signed(stats.spearmanr(x, means[y]).statistic, 2) for y in DISTANCES)]
        for title, x in means.items()
    ]
    return Table(["ρ with the kernel distance", *DISTANCES], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="the folder of the comparison")
    arguments = parser.parse_args()
    if arguments.runs:
        collect(arguments.runs)
    runs = json.loads(FILE.read_text())
    names = {name.rsplit("-", 1)[0] for name in runs}
    print(f"{len(names)} objectives, {len(runs)} runs.\n")
    print(table(runs).markdown())


if __name__ == "__main__":
    main()
