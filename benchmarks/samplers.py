r"""Which sampler follows the ODE best with how many evaluations of the network.

    python benchmarks/samplers.py [--num 500] [--num-fine 2000] [--nfe 4 6 8 12 16 24 32 64 128]

The network is the exact denoiser of a mixture of Gaussians: two on a line, as the tests have them,
and ten in 64 dimensions, at the class means of scikit-learn's digits and with their mean spread.
All samplers start from the same noise. The error is the root mean square, over samples and
dimensions, of the distance to where Heun's method ends in `--num-fine` steps of the same grid, its
last step to clean data included. `Heun`, at two evaluations a step but for the last, has one less
than the column says. Samplers that add noise have no such error: compare their samples'
distribution (`elbos evaluate`).
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from elbos.models.samplers import DDIM, DPMSolver, Heun, Sampler, grid
from elbos.theory.oracles import GaussianMixture
from elbos.theory.schedules import Cosine, EDMSampling, Linear

SAMPLERS = (DDIM(), Heun(), DPMSolver())
GRIDS = [kind(logsnr_min=-10.0, logsnr_max=10.0) for kind in (EDMSampling, Linear, Cosine)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=500, help="samples")
    parser.add_argument("--num-fine", type=int, default=2000, help="steps of the fine solution")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 6, 8, 12, 16, 24, 32, 64, 128])
    arguments = parser.parse_args()
    for name, data in {"two on a line": line(), "ten in 64 dimensions": digits()}.items():
        z = torch.randn(
            arguments.num,
            data.means.shape[1],
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(0),
        )
        for levels in GRIDS:
            fine = Heun()(data, z, grid(levels, arguments.num_fine))
            print(f"\n{name}, {type(levels).__name__}\n")
            table(
                arguments.nfe,
                {
                    repr(sampler): [
                        rms(sampler(data, z, grid(levels, num_steps(sampler, nfe))) - fine)
                        for nfe in arguments.nfe
                    ]
                    for sampler in SAMPLERS
                },
            )


def line() -> GaussianMixture:
    """Two unlike modes on a line."""
    return GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8], [0.5]], dtype=torch.float64),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )


def digits() -> GaussianMixture:
    """The class means of digits in [-1, 1], each with the root mean square distance to it."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    classes = [images[labels == label] / 8 - 1 for label in range(10)]
    means = torch.stack([members.mean(0) for members in classes])
    stds = [rms(members - mean) for members, mean in zip(classes, means, strict=True)]
    return GaussianMixture(
        torch.full((10,), 0.1, dtype=torch.float64), means, torch.tensor(stds, dtype=torch.float64)
    )


def num_steps(sampler: Sampler, nfe: int) -> int:
    """The largest number of steps that takes at most `nfe` evaluations, and at least 2."""
    return max(n for n in range(2, nfe + 1) if n == 2 or sampler.num_evaluations(n) <= nfe)


def rms(error: Tensor) -> float:
    """The root mean square."""
    return error.square().mean().sqrt().item()


def table(nfe: list[int], errors: dict[str, list[float]]) -> None:
    """Print the errors as Markdown, the least of each column in bold."""
    print("| NFE | " + " | ".join(map(str, nfe)) + " |\n|---" + "|---:" * len(nfe) + "|")
    least = [min(column) for column in zip(*errors.values(), strict=True)]
    for sampler, row in errors.items():
        cells = [
            f"**{rounded(error)}**" if error == best else rounded(error)
            for error, best in zip(row, least, strict=True)
        ]
        print(f"| {sampler} | " + " | ".join(cells) + " |")


def rounded(error: float) -> str:
    """Two significant digits."""
    digits_after = max(0, 1 - math.floor(math.log10(error)))
    return f"{error:.{digits_after}f}" if error >= 1e-3 else f"{error:.1e}"


if __name__ == "__main__":
    main()
