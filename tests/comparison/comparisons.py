"""Reports of comparisons, made up but plausible: of any number of rows and seeds."""

import numpy as np

LOW, HIGH = -10.0, 13.3
ENDS = f"logsnr_min={LOW}, logsnr_max={HIGH}"
ADAPTIVE = f"Adaptive({ENDS}, num_bins=100, memory=100000.0, follow='mean', floor=0.1)"
NORMAL, COSINE = f"Normal({ENDS}, mean=2.4, std=2.4)", f"Cosine({ENDS}, shift=0.0)"
EDM = "EDM(mean=2.4, std=2.4, sigma_data=0.5)"
EDM_PREDICTION = "EDM(sigma_data=0.5)"
KINDS = {  # name: prediction, schedule, weighting, where that rises
    "edm": (EDM_PREDICTION, NORMAL, EDM, [[LOW, -3.31]]),
    "edm-adaptive": (EDM_PREDICTION, ADAPTIVE, EDM, [[LOW, -3.31]]),
    "edm-adaptive-monotonic": (EDM_PREDICTION, ADAPTIVE, f"Monotone(inner={EDM})", []),
    "elbo": ("V()", ADAPTIVE, "ELBO()", []),
    "iddpm": ("Eps()", COSINE, "IDDPM()", [[LOW, 0.0]]),
    "iddpm-monotonic": ("Eps()", COSINE, "Monotone(inner=IDDPM())", []),
    "sigmoid-0": ("V()", ADAPTIVE, "Sigmoid(k=0.0)", []),
    "sigmoid-2": ("V()", ADAPTIVE, "Sigmoid(k=2.0)", []),
    "sigmoid-2-cosine": ("V()", COSINE, "Sigmoid(k=2.0)", []),
    "min-snr-5": ("V()", COSINE, "MinSNR(gamma=5.0)", [[LOW, 1.6]]),
    "flow": ("Flow()", f"Flow({ENDS}, shift=1.0)", "Exponential(rate=0.5)", []),
    "broken": ("X()", ADAPTIVE, "TruncatedSNR()", [[0.0, 2.5]]),
}
METRICS = [
    ("frechet_ancestral", "Fréchet distance, ancestral", "FD, ancestral", True, 46.5, 54.0, 2.5),
    ("frechet_heun", "Fréchet distance, Heun", "FD, Heun", True, 46.5, 57.0, 3.0),
    ("bits_per_dim", "bits/dim", "bits/dim", True, None, 2.93, 0.04),
    ("kernel_ancestral", "kernel distance, ancestral", "KD, ancestral", True, 0.002, 0.02, 2e-3),
    ("kernel_heun", "kernel distance, Heun", "KD, Heun", True, 0.002, 0.025, 2e-3),
    ("precision_ancestral", "precision, ancestral", "precision, anc.", False, 0.81, 0.7, 0.03),
    ("precision_heun", "precision, Heun", "precision, Heun", False, 0.81, 0.69, 0.03),
    ("recall_ancestral", "recall, ancestral", "recall, anc.", False, 0.8, 0.6, 0.04),
    ("recall_heun", "recall, Heun", "recall, Heun", False, 0.8, 0.58, 0.04),
]
MAIN = ("frechet_ancestral", "frechet_heun", "bits_per_dim")
PAIRS = [("edm-adaptive-monotonic", "edm-adaptive"), ("iddpm-monotonic", "iddpm")]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bump(x, mean, std):
    return np.exp(-0.5 * ((x - mean) / std) ** 2)


def full(num_rows=12, num_seeds=3):
    """The report; of more than three rows one is incomplete, and the last one failed."""
    rng = np.random.default_rng(0)
    kinds = [
        (f"{name}-again-{i}" if i else name, kind) for i in range(3) for name, kind in KINDS.items()
    ][:num_rows]
    rows = [_row(name, kind, rng, num_seeds) for name, kind in kinds]
    if num_rows > 3:
        _fail(rows[-1], range(num_seeds), "the loss is not finite at step 812, log-SNR 13.1")
        if num_seeds > 1:
            _fail(rows[4], [2], "interrupted")
    _mark_best(rows)
    complete = [row for row in rows if row["status"] == "complete"]
    pairs = [pair for pair in PAIRS if set(pair) <= {name for name, _ in kinds}]
    return {
        "name": "runs/compare-fashion-small",
        "command": f"elbos compare fashion-small --seeds {' '.join(map(str, range(num_seeds)))}",
        "data": "Fashion-MNIST",
        "num_test_images": 2000,
        "num_samples": 1000,
        "num_floor": 1000,
        "num_images": 48_000,
        "num_parameters": 812_345,
        "seeds": list(range(num_seeds)),
        "logsnr_min": LOW,
        "logsnr_max": HIGH,
        "metrics": [
            dict(zip(("key", "title", "short", "is_lower_better", "floor"), one, strict=False))
            | {"is_main": one[0] in MAIN}
            for one in METRICS
        ],
        "rows": rows,
        "statistics": {
            key: {
                "num_rows": len(complete),
                "num_seeds": num_seeds,
                "residual_std": spread / 4,
                "detectable": spread,
                "erratic": [],
                "pairing": 1.6,
            }
            if num_seeds > 1 and key in MAIN
            else None
            for key, *_, spread in METRICS
        },
        "pairs": [_pair(*pair, rng, num_seeds) for pair in pairs],
        "losses": _losses(complete, rng),
        "ranking": _ranking([row for row in complete if row["is_monotone"]], num_seeds),
        "conclusion": [
            "Monotone weightings made samples as good as the others did.",
            "The best Fréchet distance is 52.1 ± 1.2 (sigmoid-2, monotone); 5 of 10 complete "
            "objectives do not differ significantly from it, 2 of them not monotone.",
            "The EDM weighting made monotone changes the distance by −0.3 (−2.1 to 1.5).",
        ],
        "notes": [
            "Intervals are simultaneous, paired over seeds: all rows of a seed share "
            "initial weights, order of data and noise.",
            "The Fréchet distance is of EfficientNet-Lite0 features and cannot be compared with "
            "Inception's.",
        ],
        "protocol": {
            "samplers": ["Ancestral(), 64 steps", "Heun(), 32 steps"],
            "extractor": "EfficientNet-Lite0",
            "precision": "bf16",
            "num_samples": 1000,
            "versions": "elbos 0.1.0, torch 2.6.0",
        },
    }


def _row(name, kind, rng, num_seeds):
    parameterization, schedule, weighting, rising = kind
    logsnr = np.linspace(LOW, HIGH, 201)
    center, width = rng.uniform(-1, 4), rng.uniform(1.5, 3)
    w = bump(logsnr, center, width)
    if not rising:
        w = np.where(logsnr < center, 1, w)
    p = bump(logsnr, 2, 3 + rng.random()) / 8
    levels = np.linspace(LOW, HIGH, 49)
    loss = (
        0.5
        * sigmoid(levels - 4)
        * (1 + 0.03 * rng.normal() + 0.04 * rng.normal() * bump(levels, center, 4))
    )
    elbo = np.cumsum(loss) * (levels[1] - levels[0])
    images = np.linspace(6000, 48_000, 8)
    final = 2.9 + 0.05 * rng.random()
    return {
        "name": name,
        "parameterization": parameterization,
        "schedule": schedule,
        "weighting": weighting,
        "is_monotone": not rising,
        "rising": rising,
        "status": "complete",
        "failures": [],
        "scores": {
            key: _score(center + spread * rng.normal(), spread, rng, num_seeds)
            for key, *_, center, spread in METRICS
        },
        "weights": {"logsnr": logsnr.tolist(), "w": w.tolist(), "p": p.tolist()},
        "elbo": {"logsnr": levels.tolist(), "nats_per_dim": elbo.tolist()},
        "curve": {"logsnr": levels.tolist(), "nats_per_dim": loss.tolist()},
        "learning": {
            "images": images.tolist(),
            "bits_per_dim": (final + 1.2 * np.exp(-images / 9000)).tolist(),
        },
        "density": [
            {
                "images": 6000 * (i + 1),
                "p": bump(np.linspace(LOW, HIGH, 100), center * i / 7, 6 - i / 2).tolist(),
            }
            for i in range(8)
        ]
        if schedule == ADAPTIVE
        else None,
    }


def _score(mean, spread, rng, num_seeds):
    values = mean + 0.2 * spread * rng.normal(size=num_seeds)
    return {
        "values": {str(seed): value for seed, value in enumerate(values.tolist())},
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if num_seeds > 1 else None,
        "is_best": False,
        "is_best_within_error": False,
        "is_unresolved": False,
        "detectable": None,
    }


def _fail(row, seeds, reason):
    row["failures"] = [{"seed": seed, "reason": reason, "is_final": True} for seed in seeds]
    for score in row["scores"].values():
        for seed in seeds:
            del score["values"][str(seed)]
        left = list(score["values"].values())
        score |= {"mean": float(np.mean(left)) if left else None, "std": None}
    row["status"] = "incomplete" if left else "failed"
    if not left:
        row |= {"elbo": None, "curve": None, "learning": None, "density": None}


def _mark_best(rows):
    for key, _, _, is_lower_better, *_, spread in METRICS:
        scores = [row["scores"][key] for row in rows if row["status"] == "complete"]
        sign = 1 if is_lower_better else -1
        best = min(scores, key=lambda score: sign * score["mean"])
        if key not in MAIN or len(best["values"]) == 1:
            continue
        for score in scores:
            score["is_best"] = score is best
            score["is_best_within_error"] = bool(abs(score["mean"] - best["mean"]) <= spread)
            score["detectable"] = None if score is best else spread


def _pair(monotone, non_monotone, rng, num_seeds):
    differences = {}
    for key, *_, spread in METRICS:
        mean = 0.6 * spread * rng.normal()
        half = spread / 2 if num_seeds > 1 and key in MAIN else None
        differences[key] = {
            "mean": mean,
            "low": None if half is None else mean - half,
            "high": None if half is None else mean + half,
            "detectable": half,
            "is_unresolved": False,
        }
    return {"monotone": monotone, "non_monotone": non_monotone, "differences": differences}


def _losses(rows, rng):
    weightings = {}
    for row in rows:
        weightings.setdefault(row["weighting"], []).append(row["name"])
    relative = 1 + 0.08 * rng.random((len(rows), len(weightings)))
    return {
        "rows": [row["name"] for row in rows],
        "weightings": [{"name": name, "rows": of} for name, of in weightings.items()],
        "relative": (relative / relative.min(axis=0)).tolist(),
    }


def _ranking(rows, num_seeds):
    if len(rows) < 4:
        return None
    levels = np.linspace(LOW, HIGH, 49)
    scores = {
        "bits_per_dim": np.tanh((levels - 3) / 4),
        "frechet_ancestral": 0.7 * bump(levels, 1, 3) - 0.1,
        "frechet_heun": 0.5 * bump(levels, 0, 3) - 0.1,
    }
    return {
        "rows": [row["name"] for row in rows],
        "num_rows": len(rows),
        "num_weightings": len({row["weighting"] for row in rows}),
        "num_seeds": num_seeds,
        "logsnr": levels.tolist(),
        **{key: {**_correlation(rho), "p_value": 0.2} for key, rho in scores.items()},
        "weightings": [
            {
                "name": name,
                **{key: {"rho": 0.4, "low": -0.1, "high": 0.8} for key in scores},
            }
            for name in dict.fromkeys(row["weighting"] for row in rows)
        ],
    }


def _correlation(rho):
    return {
        "rho": rho.tolist(),
        "low": np.clip(rho - 0.45, -1, 1).tolist(),
        "high": np.clip(rho + 0.35, -1, 1).tolist(),
    }
