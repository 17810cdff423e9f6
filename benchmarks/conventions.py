r"""Denoisers that audits make of public training losses, beside denoisers written by hand.

    python benchmarks/conventions.py FOLDER [--only NVlabs+edm willisma+SiT] [--planted]

`FOLDER` holds a clone of each project (`PROJECTS` in public_losses.py), named owner+name: `git
clone --depth 1 https://github.com/NVlabs/edm FOLDER/NVlabs+edm`. diffusers is the installed
package. Clones are foreign code, to be read before. accelerate, einops, ema-pytorch, torchdiffeq
and torchvision have to be installed. The packages in `ABSENT` are replaced by stand-ins if they are
not: no loss here uses them, except for two functions of ot, which scipy replaces.

A network of two hidden convolutional layers and sinusoidal time is trained by each loss, for 120
steps on batches of 64 of 256 tinted digits, 3x8x8. `probe(loss, x[:64]).denoiser(network)` and a
denoiser by hand are given to the same `Validator`, whose bound is that of a density. Its log-SNR
goes from -8 to 10, over the loss's table of steps, or as far as the audit interpolates. The second
table has losses that determine no denoiser.

`--planted` compares audits of five losses with audits after a change in one line of the project.
"""

import argparse
import importlib.metadata
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from public_losses import PROJECTS, SHAPE, SIGMA_DATA, Case, Formulas, scales
from sklearn.datasets import load_digits
from torch import Tensor, nn

import elbos
from elbos.audit.names.formulas import prediction_formula
from elbos.audit.testing import Difference
from elbos.base.numbers import fixed
from elbos.base.tables import Column, Table

FREQUENCIES = torch.logspace(-3, 0.5, 16)
LOGSNR_MIN, LOGSNR_MAX = -8.0, 10.0
PLACES = ("", "src", "ImageGeneration", "examples/image")  # of modules in a clone
ABSENT = {
    *("blobfile", "cleanfid", "clip", "dctorch", "einx", "hyper_connections", "jsonmerge"),
    *("mpi4py", "ot", "piq", "rotary_embedding_torch", "skimage", "torch_einops_utils"),
    *("torchmetrics", "torchsde", "x_transformers"),
}
PLANTED = {
    "NVlabs+edm": ("EDMLoss", "training/loss.py", "loss = weight *", "loss = weight.mean() *"),
    "lucidrains+denoising-diffusion-pytorch": (
        "GaussianDiffusion, min_snr_loss_weight",
        "denoising_diffusion_pytorch/denoising_diffusion_pytorch.py",
        *("clamp_(max", "clamp_(min"),
    ),
    "lucidrains+rectified-flow-pytorch": (
        "RectifiedFlow, cosmap",
        "rectified_flow_pytorch/rectified_flow.py",
        *("noise_schedule(t)", "noise_schedule(self.noise_schedule(t))"),
    ),
    "facebookresearch+DiT": (
        *("training_losses", "diffusion/gaussian_diffusion.py"),
        *("np.sqrt(self.alphas_cumprod)", "self.alphas_cumprod"),
    ),
    "crowsonkb+k-diffusion": (
        *("Denoiser, soft-min-snr", "k_diffusion/layers.py"),
        *("* c_weight", "* c_weight[:, None]"),
    ),
}


class Network(nn.Module):
    """A network of noisy data and time, whichever of its arguments these are."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.time = nn.Conv2d(16, case.num_channels, 3, padding=1), nn.Linear(32, 16)
        self.case = case

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        z = next(one for one in tensors if one.shape[1:] == SHAPE)
        t = next(one for one in tensors if one.numel() == len(z))
        return self.case.form(self.output(z, t.reshape(-1, 1, 1, 1)))

    def output(self, z: Tensor, t: Tensor) -> Tensor:
        if not self.case.is_preconditioned:
            return self._inner(z, t)
        norm = (t**2 + SIGMA_DATA**2).sqrt()
        f = self._inner(z / norm, t.log() / 4)
        return SIGMA_DATA**2 / norm**2 * z + SIGMA_DATA * t / norm * f

    def _inner(self, z: Tensor, t: Tensor) -> Tensor:
        angles = t.flatten(1) * FREQUENCIES
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]
        return self.last(F.silu(self.second(F.silu(self.first(z) + time))))


@dataclass(frozen=True)
class ByHand:
    """A denoiser of formulas: input and target are solved for data and noise."""

    network: Network
    formulas: Formulas

    def __call__(self, z: Tensor, logsnr: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        logsnr = logsnr.expand(len(z)).double()
        alpha, sigma, t, a, b, vp_alpha = (
            torch.as_tensor(one).double().expand(len(z)).reshape(-1, 1, 1, 1)
            for one in (*self.formulas(logsnr), scales(logsnr)[0])
        )
        z = z * alpha / vp_alpha
        y = self.network.output(z.float(), t.float())[:, : z.shape[1]]
        det = a * sigma - b * alpha
        return ((sigma * y - b * z) / det).float(), ((a * z - alpha * y) / det).float()


class StandIns(MetaPathFinder, Loader):
    """Stand-ins for packages of `ABSENT`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        is_absent = fullname.split(".")[0] in ABSENT
        return spec_from_loader(fullname, self, is_package=True) if is_absent else None

    def create_module(self, spec: Any) -> Any:
        return mock.MagicMock(name=spec.name)

    def exec_module(self, module: Any) -> None:
        pass


@contextmanager
def importing(root: Path) -> Iterator[None]:
    """Import from a clone, and forget its modules afterwards."""
    folders = [root / place for place in PLACES if (root / place).is_dir()]
    own = {path.stem for folder in folders for path in folder.iterdir()} | ABSENT
    known = set(sys.modules)
    paths, finders = [*map(str, folders), *sys.path], [*sys.meta_path, StandIns()]
    patches = mock.patch.multiple(sys, path=paths, meta_path=finders, dont_write_bytecode=True)
    with patches, redirect_stdout(io.StringIO()):
        yield
    for name in set(sys.modules) - known:
        if name.split(".")[0] in own:
            del sys.modules[name]


@contextmanager
def changed(path: Path, before: str, after: str) -> Iterator[None]:
    """Import a file with a text in the place of another."""
    read = SourceFileLoader.get_data

    def get_data(loader: Any, name: str) -> bytes:
        if name.endswith(".pyc"):
            raise OSError("compiled before the change")
        data = read(loader, name)
        return data.replace(before.encode(), after.encode()) if name == str(path) else data

    with mock.patch.object(SourceFileLoader, "get_data", get_data):
        yield


def digits() -> Tensor:
    images = torch.tensor(load_digits().images[:256, None] / 16, dtype=torch.float32)
    tint = 0.4 + 0.6 * torch.rand(256, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return 2 * images * tint - 1


def train(case: Case, x: Tensor) -> Network:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, which the losses draw from
    network = Network(case)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        loss = case.loss(network, x[torch.randint(len(x), (64,))])
        loss = loss["loss"] if isinstance(loss, dict) else loss
        loss = loss[0] if isinstance(loss, tuple) else loss
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return network


def bounds(case: Case, x: Tensor) -> list[str]:
    """Compare the bounds by the audit and by hand: a row of the first table."""
    network = train(case, x)
    audit = elbos.audit.probe(case.loss, x[:64])
    denoiser = audit.denoiser(network)
    low, high, error = denoiser.logsnr_min, denoiser.logsnr_max, denoiser.convention.error
    if error or low == -np.inf:
        low, high = max(low, LOGSNR_MIN), min(high, LOGSNR_MAX)
    validate = elbos.Validator(x, logsnr_min=low, logsnr_max=high, num_evaluations=4)
    found, by_hand = (
        validate(one).bits_per_dim for one in (denoiser, ByHand(network, case.formulas))
    )
    levels = f"{fixed(low, 1)} to {fixed(high, 1)}"
    numbers = [fixed(found, 5), fixed(by_hand, 5), short(found - by_hand), short(error)]
    return [prediction_formula(audit), levels, *numbers]


def short(value: float) -> str:
    return f"{value:.0e}".replace("-", "−") if value else "0"


def refusal(case: Case, x: Tensor) -> str:
    try:
        elbos.audit.probe(case.loss, x[:64]).denoiser(Network(case))
    except ValueError as error:
        return str(error).removeprefix("The loss determines no denoiser: ")
    return "not refused"


def version(project: str, root: Path) -> str:
    """Return a project's name with its commit or version."""
    if not root.is_dir():
        return f"{project} {importlib.metadata.version(project)}"
    words = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return f"{project.replace('+', '/')} {commit.strip()}"


def measure(folder: Path, projects: list[str]) -> list[Table]:
    x, found, refused = digits(), [], []
    for project in projects:
        with importing(folder / project):
            for case in PROJECTS[project]():
                print(project, case.name, file=sys.stderr, flush=True)
                row = [version(project, folder / project), case.name]
                if case.formulas:
                    found.append([*row, *bounds(case, x)])
                else:
                    refused.append([*row, refusal(case, x)])
    texts = ["project, version", "loss", "predicts"]
    numbers = ["log-SNR", "by the audit", "by hand", "difference", "stated error"]
    first = [*(Column(one, is_numeric=False) for one in texts), *numbers]
    texts[2] = "refused with"
    return [Table(first, found), Table([Column(one, is_numeric=False) for one in texts], refused)]


def plant(folder: Path, projects: list[str]) -> list[Table]:
    """Compare audits of losses with those of another seed, and of the changed code."""
    x, rows = digits()[:64], []

    def audit(root: Path, name: str, seed: int = 0) -> Any:
        with importing(root):
            loss = next(one.loss for one in PROJECTS[root.name]() if one.name == name)
            return elbos.audit.probe(loss, x, seed=seed)

    for project in projects:
        name, file, before, after = PLANTED[project]
        root = folder / project
        expected = audit(root, name)
        same = Difference(audit(root, name, seed=1), expected)
        with changed(root / file, before, after):
            now = Difference(audit(root, name), expected)
        texts = [str(one).replace("\n", "; ") or "no difference" for one in (same, now)]
        rows.append([version(project, root), name, f"{before} → {after}", *texts])
    titles = ["project, version", "loss", "change", "another seed", "the changed loss"]
    return [Table([Column(one, is_numeric=False) for one in titles], rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=PROJECTS)
    parser.add_argument("--planted", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums of one order
    run, projects = (plant, PLANTED) if args.planted else (measure, PROJECTS)
    chosen = [one for one in args.only or projects if one in projects]
    for table in run(args.folder.absolute(), chosen):
        print(table.markdown(), end="\n\n")


if __name__ == "__main__":
    main()
