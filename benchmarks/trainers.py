r"""Trainers' own sampling and weighting functions, executed beside what the adapters read.

    python benchmarks/trainers.py FOLDER [--only ltx] [--num-samples 4000]

`FOLDER` holds a snapshot of each trainer's source, in a folder of its adapter's name: here of five
of the thirteen of docs/results/trainers.md. Of each file only imports, functions, classes and
constants are run, so that a trainer's dependencies need not be there; they are foreign code, to be
read before. A case is one set of settings, of models and flags that override each other.

The trainer's function draws noise levels and weighs them; the adapter gives a distribution and a
coefficient for the same settings. Printed for each trainer is the largest difference of all cases,
of the cumulative distribution of log-SNR, as a multiple of $n^{-1/2}$ (1.95 is exceeded by chance
in one case of 1,000), and of the coefficient: the standard deviation of the log of the ratio over
the samples (`audit.matching.distance`).
"""

import argparse
import ast
import functools
import itertools
import logging
import math
import operator
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any
from unittest import mock

import numpy as np
import torch

from elbos.adapters.trainers import TRAINERS, Settings
from elbos.audit import DeclaredLoss

INSTALLED = sys.stdlib_module_names | {"torch", "numpy", "scipy", "diffusers", "accelerate"}
NUM_WEIGHED = 1000  # samples whose coefficient is compared

Cases = Iterator[tuple[Any, "Draws"]]


@dataclass(frozen=True)
class Draws:
    """Flow-matching times that a trainer drew, and the loss coefficients of the first of them."""

    logsnr: torch.Tensor
    coefficient: torch.Tensor


def run(path: Path, **given: Any) -> Space:
    """Run the definitions of a file, with some of its names given.

    Imports of packages other than `INSTALLED` are left out, and so are bases and decorators of a
    class that need more.
    """
    names = _names() | given
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text()).body:
        try:
            if isinstance(node, kinds) and _is_there(node):
                _execute([node], names)
        except Exception:  # a name of an import that failed
            if isinstance(node, ast.ClassDef):
                node.bases, node.keywords, node.decorator_list = [], [], []
                node.body = [one for one in node.body if _is_defined(one, names)] or [
                    ast.parse("pass").body[0]
                ]
                _execute([node], names)
    names.update(given)
    return Space(**names)


def lines(path: Path, function: str, first: str, last: str, **given: Any) -> Space:
    """Run the statements of a function from the one that begins with a text to the next one that
    begins with another; return all names.
    """
    names = _names() | given
    _execute(_statements(path, function, first, last), names)
    return Space(**names)


@functools.cache
def _statements(path: Path, function: str, first: str, last: str) -> list[ast.stmt]:
    text = path.read_text()
    rows = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.FunctionDef) and node.name == function):
            continue
        for block in ast.walk(node):
            body = block.body if isinstance(getattr(block, "body", None), list) else []
            code = [rows[one.lineno - 1].strip() for one in body]
            start = next((i for i, one in enumerate(code) if one.startswith(first)), len(code))
            end = next((i for i in range(start, len(code)) if code[i].startswith(last)), None)
            if end is not None:
                return body[start : end + 1]
    raise ValueError(f"{path}: {function} has no {first!r} before {last!r}")


def _is_defined(method: ast.stmt, names: dict[str, Any]) -> bool:
    try:
        return isinstance(method, ast.FunctionDef) and _execute([method], dict(names)) is None
    except Exception:
        return False


def _is_there(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return True
    modules = (
        [node.module or "."] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return all(one.split(".")[0] in INSTALLED for one in modules)


def _names() -> dict[str, Any]:
    return {"__name__": __name__, "torch": torch, "math": math, "logger": logging.getLogger()}


def _execute(body: list[Any], names: dict[str, Any]) -> None:
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *body], []), "trainer", "exec"), names)  # noqa: S102


def draws_of(t: torch.Tensor, weight: Any = torch.ones_like) -> Draws:
    return Draws(-2 * torch.logit(t.double()), weight(t[:NUM_WEIGHED].float()))


def lerobot(folder: Path, num: int) -> Cases:
    policies = folder / "src/lerobot/policies"
    common = vars(run(policies / "common/flow_matching.py"))
    names = {"pi0": "PI0Pytorch", "pi05": "PI05Pytorch", "smolvla": "VLAFlowMatching"}
    names |= {"eo1": "EO1VisionFlowMatchingModel"}
    for policy, alpha, (scale, offset) in itertools.product(
        names, (1.5, 1.0), ((0.999, 0.001), (0.9, 0.05))
    ):
        model = getattr(run(policies / f"{policy}/modeling_{policy}.py", **common), names[policy])
        keys = ("beta_alpha", "beta_beta", "scale", "offset")
        values = (alpha, 1.2, scale, offset)
        config = {f"time_sampling_{k}": v for k, v in zip(keys, values, strict=True)}
        t = model.sample_time(Space(config=Space(**config)), num, "cpu")
        yield {"policy.type": policy} | ({} if policy == "smolvla" else config), draws_of(t)


def torchtitan(folder: Path, num: int) -> Cases:
    path = folder / "torchtitan/models/flux/trainer.py"
    x = torch.zeros(num, 1, 1, 1)
    found = lines(
        path,
        "forward_backward_step",
        "with torch.no_grad",
        "bsz, _",
        self=Space(device="cpu"),
        bsz=num,
        labels=x,
        latents=x,
    )
    yield {"config": "flux_dev"}, draws_of(found.sigmas.flatten())


def automodel(folder: Path, num: int) -> Cases:
    own = run(folder / "nemo_automodel/components/flow_matching/pipeline.py").FlowMatchingPipeline
    samplings = ("logit_normal", "uniform", "mode", "lognorm", "mix", "beta")
    flags = (True, False)
    for sampling, is_shifted, is_weighted, scheme, share in itertools.product(
        samplings, flags, flags, ("linear", "bsmntw"), (0.1, 0.0)
    ):
        config = {
            "timestep_sampling": sampling,
            "use_sigma_noise": is_shifted,
            "use_loss_weighting": is_weighted,
            "loss_weighting_scheme": scheme,
            "mix_uniform_ratio": share,
            "flow_shift": 2.5,
            "logit_mean": 0.4,
            "logit_std": 0.7,
        }
        model = Space(compute_loss=lambda y, target: (y - target) ** 2)
        pipeline = own(model, **config, device=torch.device("cpu"))
        t = torch.cat([pipeline.sample_timesteps(1)[0] for _ in range(num)])

        def weigh(t: Any, pipeline: Any = pipeline) -> Any:
            return pipeline.compute_loss(torch.ones_like(t), 0 * t, t)[0]

        yield {"flow_matching": config}, draws_of(t, weigh)


def ltx(folder: Path, num: int) -> Cases:
    own = run(folder / "packages/ltx-trainer/src/ltx_trainer/timestep_samplers.py").SAMPLERS
    frames, shares = ((512, 512, 25), (960, 544, 49), (1280, 704, 121)), (0.1, 0.0, 0.4)
    for (w, h, f), std, share, eps in itertools.product(frames, (1.0, 0.6), shares, (1e-3, 1e-2)):
        config = {"std": std, "uniform_prob": share, "eps": eps}
        num_tokens = (w // 32) * (h // 32) * ((f - 1) // 8 + 1)
        t = own["shifted_logit_normal"](**config).sample(num, num_tokens)
        source = {"timestep_sampling_params": config}
        yield {**source, "resolution_buckets": f"{w}x{h}x{f}"}, draws_of(t)
    for low, high in ((0.0, 1.0), (0.2, 0.9)):
        config = {"min_value": low, "max_value": high}
        source = {"timestep_sampling_mode": "uniform", "timestep_sampling_params": config}
        yield source, draws_of(own["uniform"](**config).sample(num))


def physicsnemo(folder: Path, num: int) -> Cases:
    """Each example's loss of data 0 without noise, so that its network of output 1 errs by 1."""
    diffusion, examples = folder / "physicsnemo/diffusion", folder / "examples"
    given = vars(run(diffusion / "noise_schedulers/linear_gaussian.py"))
    given |= vars(run(diffusion / "noise_schedulers/edm.py", **given))
    given |= vars(run(diffusion / "noise_schedulers/edm_log_uniform.py", **given))
    given |= vars(run(diffusion / "metrics/losses.py", **vars(run(diffusion / "utils/utils.py"))))
    old = run(diffusion / "metrics/legacy_losses.py")
    inside = run(diffusion / "preconditioners/preconditioners.py")
    constants = {"_sigma_data_channels": 0, "beta_d": 19.9, "beta_min": 0.1, "M": 1000}
    x = torch.zeros(num, 1, 1, 1)
    levels: list[torch.Tensor] = []

    def network(kind: str, sigma_data: float = 0.5) -> Any:
        own = getattr(inside, kind, None)  # CorrDiff's class has it within `forward`
        self = Space(**constants, sigma_data=torch.tensor(sigma_data))
        self._reshape_sigma_data = lambda _: self.sigma_data

        def call(*args: Any, **_: Any) -> torch.Tensor:  # noisy data, conditions, sigma
            levels[:] = [args[-1] if args[-1] is not None else args[1]]
            sigma = levels[0].reshape(-1, 1, 1, 1)
            if own:
                return own.compute_coefficients(self, sigma)[2]
            path, first = diffusion / "preconditioners/legacy.py", "c_skip = self.sigma_data"
            return lines(path, "forward", first, "c_out", self=self, sigma=sigma).c_out

        return call

    def draws(loss: torch.Tensor, logsnr: Any = lambda sigma: -2 * sigma.log()) -> Draws:
        return Draws(logsnr(levels[0].double()).flatten(), loss.flatten()[:NUM_WEIGHED])

    def passed(default: Any = None, **_: Any) -> Any:
        return default

    def decorator(**_: Any) -> Any:
        return lambda one: one

    config = run(
        examples / "weather/stormcast/utils/config.py",
        Field=passed,
        dataclass=decorator,
        model_validator=decorator,
    ).LossConfig
    build = run(examples / "weather/stormcast/utils/loss.py", **given).build_noise_scheduler
    normal = ({}, {"P_mean": 0.4}, {"P_std": 0.7}, {"P_mean": -0.4, "P_std": 1.0})
    weights = ({}, {"sigma_data": 1.5}, {"sigma_data": 0.1})
    uniform = ({}, {"sigma_min": 0.02, "sigma_max": 200.0})
    with mock.patch("torch.randn_like", torch.zeros_like):
        for kind, *parts in itertools.product(
            ({}, {"sigma_distribution": "loguniform"}), normal, weights, uniform
        ):
            cfg = functools.reduce(operator.or_, parts, kind)
            scheduler = build(Space(**{**vars(config), **cfg}))
            net = network("EDMPreconditioner")  # utils/nn.py never gives it a sigma_data
            loss = given["WeightedMSEDSMLoss"](net, scheduler, reduction="none")
            yield {"training": {"loss": {"type": "edm", **cfg}}}, draws(loss(x, 1 + x))
        train = examples / "weather/corrdiff/train.py"
        for (name, mean), std, sigma_data in itertools.product(
            {
                "diffusion": None,
                "patched_diffusion": 0.4,
                "lt_aware_patched_diffusion": -1.2,
            }.items(),
            (None, 0.9),
            (0.5, 0.8),
        ):
            made = lines(
                train,
                *("main", "loss_init_kwargs = {}", "loss_fn = residual_loss"),
                P_mean=mean,
                P_std=std,
                student_t_nu=None,
                residual_loss=old.ResidualLoss,
                regression_net=lambda *_, **__: 0 * x,
                cfg=Space(model=Space(hr_mean_conditioning=True)),
            )
            hp = {"P_mean": mean, "P_std": std, "distribution": "normal"}
            args = {"name": name, "hr_mean_conditioning": True, "model_args.sigma_data": sigma_data}
            loss = made.loss_fn(network("EDMPrecondSuperResolution", sigma_data), x, x)
            yield {"model": args, "training": {"hp": hp}}, draws(loss)
        train = examples / "geophysics/diffusion_fwi/train.py"
        for mean, std, sigma_data in itertools.product((0.0, -1.2), (1.0, 1.4), (0.5, 0.9)):
            cfg = {"P_mean": mean, "P_std": std, "sigma_data": sigma_data}
            made = lines(
                train,
                *("main", "noise_scheduler = EDMNoiseScheduler", "loss_fn = MSEDSMLoss"),
                cfg=Space(noise_schedule=Space(**cfg)),
                sigma_data=sigma_data,
                **given | {"model": network("EDMPreconditioner", sigma_data)},
            )
            made.loss_fn._reduce = lambda loss: loss
            yield {"noise_schedule": cfg}, draws(made.loss_fn(x))
        train = examples / "cfd/flow_reconstruction_diffusion/train.py"
        for precond in ("edm", "vp", "ve", "dfsr", "dfsr_cond"):
            c = Space(network_kwargs=Space(), loss_kwargs=Space())
            cfg = Space(precond=precond)
            lines(train, "main", 'if cfg.precond == "vp"', 'if cfg.precond == "vp"', c=c, cfg=cfg)
            loss = getattr(old, c.loss_kwargs.class_name.split(".")[-1])()
            if precond.startswith("dfsr"):
                output = loss(lambda z, t, _: levels.__setitem__(0, t) or 1 + z, x, None)
                bars = (1 - loss.betas.double()).cumprod(0)
                yield (
                    {"precond": precond},
                    draws(output, lambda t, a=bars: torch.logit(a[t.long()])),
                )
                continue
            kind = c.network_kwargs.class_name.split(".")[-1] + "itioner"
            yield {"precond": precond}, draws(loss(network(kind), x, None))


SOURCES = {"lerobot": lerobot, "torchtitan": torchtitan, "automodel": automodel, "ltx": ltx}
SOURCES["physicsnemo"] = physicsnemo


def difference(trainer: str, source: Any, draws: Draws) -> tuple[float, float]:
    """Return the differences of the noise levels, in units of $n^{-1/2}$, and of the coefficient.

    Distributions are compared between the levels of a table, or at 999 quantiles of the samples.
    """
    loss = TRAINERS[trainer].loss(Settings(source))
    levels = np.sort(draws.logsnr.double().numpy())
    first = draws.logsnr[: len(draws.coefficient)].double()
    if isinstance(loss, DeclaredLoss):
        at = np.unique(np.quantile(levels[np.isfinite(levels)], np.arange(1, 1000) / 1000))
        ours = 1 - loss.schedule.time(torch.from_numpy(at)).numpy()
        coefficient = loss.coefficient(first)
    else:
        order = loss.logsnr.argsort()
        table, p = loss.logsnr[order], loss.probability[order].cumsum(0).numpy()
        is_gap = (table.diff() > 1e-4).numpy()
        at, ours = ((table[1:] + table[:-1]) / 2).numpy()[is_gap], p[:-1][is_gap]
        nearest = (torch.nan_to_num(table)[None] - torch.nan_to_num(first)[:, None]).abs().argmin(1)
        coefficient = loss.coefficient[order][nearest]
    theirs = np.searchsorted(levels, at, side="right") / len(levels)
    is_weighted = (coefficient > 0) & (draws.coefficient > 0) & first.isfinite()
    log_ratio = (draws.coefficient.double() / coefficient)[is_weighted].log()
    off = log_ratio.std(correction=0).item() if len(log_ratio) else 0.0
    return float(np.abs(theirs - ours).max() * len(levels) ** 0.5), off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SOURCES)
    parser.add_argument("--num-samples", type=int, default=4000)
    args = parser.parse_args()
    print(
        "| trainer | version read | cases | levels, n^-1/2 | coefficient |\n|---|---|---|---|---|"
    )
    for trainer in [args.only] if args.only else SOURCES:
        torch.manual_seed(0)
        cases = SOURCES[trainer](args.folder / trainer, args.num_samples)
        found = [difference(trainer, source, draws) for source, draws in cases]
        levels, off = (max(column) for column in zip(*found, strict=True))
        version = TRAINERS[trainer].version
        print(f"| {trainer} | {version} | {len(found)} | {levels:.2f} | {off:.2%} |", flush=True)


if __name__ == "__main__":
    main()
