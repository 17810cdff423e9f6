r"""Weightings of the paper's sigmoid(2 - λ), with a dose of loss where they rise.

$$w_d(\lambda) = \begin{cases} e^{(\lambda - c)/2} & \lambda < c \\
    h\,\mathrm{sigmoid}(k - \lambda)\,/\,\mathrm{sigmoid}(k - c) & \lambda \ge c \end{cases}$$

A weighting rises as IDDPM's and Min-SNR's do at log-SNR below 0, steps down by the factor $h$, and
falls as sigmoid's does. For each dose $d$, $(c, h, k)$ solve three equations: the share of the
expected loss $w(\lambda) L(\lambda)$ below $c$ is $d$, and its mean and standard deviation over λ
are those of sigmoid(2 - λ): 1.51 and 2.01 on digits, 1.59 and 2.25 on Fashion-MNIST at 16×16.
Solved by `python docs/results/dose/weightings.py`, with $L$, the unweighted loss at each log-SNR,
of networks that docs/results stores. Expected losses are equal by a factor, which changes no
training: optimizers ignore it, and gradients are clipped in proportion
(`elbos.comparison.variants`).
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares
from torch import Tensor

SOLVED = {  # dose: c, h, k
    "digits": {
        0.1: (-1.244, 0.463, 2.112),
        0.3: (0.015, 0.296, 2.564),
        0.6: (1.012, 0.0973, 4.166),
    },
    "fashion": {
        0.1: (-1.507, 0.452, 2.108),
        0.3: (-0.082, 0.271, 2.560),
        0.6: (1.010, 0.0808, 4.151),
    },
}
_NETWORKS = {"digits": "v-adaptive-sigmoid-2", "fashion": "elbo"}


def rising(logsnr: Tensor, dose: float, data: str = "digits") -> Tensor:
    c, h, k = SOLVED[data][dose]
    falling = h * torch.sigmoid(k - logsnr) / torch.sigmoid(k - torch.tensor(c))
    return torch.where(logsnr < c, ((logsnr - c) / 2).exp(), falling)


w10, w30, w60 = (partial(rising, dose=dose) for dose in SOLVED["digits"])
f10, f30, f60 = (partial(rising, dose=dose, data="fashion") for dose in SOLVED["fashion"])


def solve(data: str) -> None:
    """Print c, h and k for every dose, and by how much `Monotone` raises the expected loss."""
    path = Path(__file__).parent.parent / data / "scores.json"
    stored = json.loads(path.read_text())
    logsnr = np.array(stored["logsnr"])
    runs = [stored["runs"][f"{_NETWORKS[data]}-{seed}"] for seed in range(10, 15)]
    elbo = np.mean([run[: len(logsnr)] for run in runs], 0)
    cells = np.linspace(logsnr[0], logsnr[-1], 8001)
    loss = PchipInterpolator(logsnr, elbo).derivative()(cells)

    def moments(w: Tensor) -> tuple[float, float]:
        q = w.numpy() * loss
        mean = np.average(cells, weights=q)
        return mean, np.average((cells - mean) ** 2, weights=q) ** 0.5

    def misfit(solution: np.ndarray, dose: float) -> np.ndarray:
        c, log_h, k = solution
        SOLVED[data][dose] = (c, np.exp(log_h), k)
        w = rising(torch.from_numpy(cells), dose, data)
        below = np.concatenate([[0], np.cumsum(w.numpy() * loss)])[:-1]
        share = np.interp(c, cells, below) / below[-1]
        return np.array([*np.subtract(moments(w), target), share - dose])

    target = moments(torch.sigmoid(2 - torch.from_numpy(cells)))
    print(f"{data}, sigmoid(2): mean and standard deviation", np.round(target, 3))
    for dose, (c, h, k) in list(SOLVED[data].items()):
        least_squares(misfit, (c, np.log(h), k), args=(dose,))
        w = rising(torch.from_numpy(cells), dose, data).numpy()
        ratio = (np.where(cells < SOLVED[data][dose][0], 1, w) @ loss) / (w @ loss)
        print(dose, np.round(SOLVED[data][dose], 4), f"monotone / rising {ratio:.3f}")


if __name__ == "__main__":
    for name in SOLVED:
        solve(name)
