r"""The guide's lines in other people's training codes, beside an independent estimate of the bound.

    python benchmarks/loops.py FOLDER --diffusers train_unconditional.py --edm CLONE
    python benchmarks/loops.py FOLDER --codes lightning_callback transformers_trainer

The lines of docs/validate.md are inserted into copies of diffusers' `train_unconditional.py` and
EDM's `training_loop.py`, which train for 3,000 images of Fashion-MNIST at 16x16 as in trainings.py.
Lightning's `Trainer` and that of transformers run the guide's scripts, on digits. pip install
datasets lightning transformers psutil scikit-learn; it is foreign code, to be read before.

The estimate shares no code with elbos. On the same images and weights,

$$-\ln p(x) \le \mathrm{KL}(\lambda_\min) + \tfrac12(\lambda_\max - \lambda_\min)\,
  \mathbb E_{\lambda, \epsilon}\|\hat\epsilon - \epsilon\|^2 - \ln p(x \mid z_{\lambda_\max}),$$

with log-SNRs uniform and stratified over the images, and 24 evaluations of each image. It is
compared with the mean of `Validator` over eight other seeds than that of the training. Errors are
those of noise and noise levels, since the images are the same.
"""

import argparse
import ast
import math
import multiprocessing
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from time_to_quality import write_images
from torch import Tensor
from trainings import Job, train_diffusers, train_edm

import elbos

NUM_ROUNDS, SEEDS = 24, range(1, 9)
EXAMPLES = Path(__file__).parents[1] / "examples" / "validation"

Predict = Callable[[Any, Tensor, Tensor], Tensor]  # model, z, log-SNR -> noise

DIFFUSERS = {
    "dataset.set_transform": """
import elbos
test = load_dataset("imagefolder", data_dir=TEST, split="train").with_transform(transform_images)
to_item = lambda item: item["input"]
validator = elbos.Validator(test, to_item=to_item, num_levels=256, logsnr_max=9.2)
denoiser = lambda unet: elbos.adapters.diffusers.denoiser(unet, noise_scheduler)
history = elbos.ValidationHistory(validator, denoiser, every=90)
log_validation = elbos.adapters.diffusers.log_validation
""",
    "global_step += 1": "log_validation(history, accelerator, model, global_step, ema=ema_model)",
}
EDM = {
    "dataset_obj = ": """
import elbos
test = dnnlib.util.construct_class_by_name(**dataset_kwargs | {"path": TEST})
to_item = lambda item: torch.tensor(item[0]) / 127.5 - 1
validator = elbos.Validator(test, to_item=to_item, num_levels=256)
history = elbos.ValidationHistory(validator, elbos.adapters.edm.denoiser, every=1500)
""",
    "cur_nimg += batch_size": "history.update(cur_nimg, ema)",
}


def with_lines(path: Path, lines: dict[str, str], test: str) -> str:
    """Return the source of a file with lines after the statements that begin with given texts."""
    text = path.read_text()
    tree, rows, left = ast.parse(text), text.splitlines(), dict(lines)
    for block in ast.walk(tree):
        body = getattr(block, "body", None)
        for statement in list(body) if isinstance(body, list) else []:
            row = rows[statement.lineno - 1].strip()
            for start in [one for one in left if row.startswith(one)]:
                code = left.pop(start).replace("TEST", repr(test))
                place = body.index(statement) + 1
                body[place:place] = ast.parse(code).body
    if left:
        raise ValueError(f"{path} has no line {next(iter(left))!r}.")
    return ast.unparse(ast.fix_missing_locations(tree))


def scales(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    logsnr = logsnr.double().view(-1, 1, 1, 1)
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def of_diffusers(model: Any, z: Tensor, logsnr: Tensor) -> Tensor:
    """Noise by a network of DDPM's 1,000 steps, between which log-SNR is interpolated."""
    products = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    table = torch.logit(products).flip(0)  # increasing
    right = torch.searchsorted(table, logsnr.double()).clamp(1, 999)
    share = (logsnr - table[right - 1]) / (table[right] - table[right - 1])
    return model(z, (999 - (right - 1 + share)).float()).sample


def of_edm(model: Any, z: Tensor, logsnr: Tensor) -> Tensor:
    alpha, sigma = scales(logsnr)
    x_hat = model((z / alpha).float(), torch.exp(-logsnr / 2).float())
    return (z - alpha * x_hat) / sigma


def of_transformers(model: Any, z: Tensor, logsnr: Tensor) -> Tensor:
    r"""Noise by a network of $\epsilon - x$ on straight paths."""
    alpha, sigma = scales(logsnr)
    share, mixed = sigma / (alpha + sigma), z / (alpha + sigma)
    return mixed + (1 - share) * model.network(mixed.float(), share.flatten().float())


def of_lightning(module: Any, z: Tensor, logsnr: Tensor) -> Tensor:
    r"""Noise by a network of $\alpha\epsilon - \sigma x$."""
    alpha, sigma = scales(logsnr)
    return sigma * z + alpha * module.ema(z, logsnr.float())


@torch.no_grad()
def estimate(
    predict: Predict, model: Any, x: Tensor, num_levels: int, ends: tuple[float, float]
) -> tuple[float, float]:
    """Return the bound in bits/dim and its error, of rounds of one evaluation of each image."""
    generator = torch.Generator().manual_seed(1)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in ends)
    alpha, sigma = scales(low)
    prior = (alpha**2 * x.double() ** 2 + sigma**2 - 1 - torch.log(sigma**2)).mean() / 2
    alpha, sigma = scales(high)
    values = 2 * torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1) - 1
    index = ((x.double() + 1) / 2 * (num_levels - 1)).round().long()
    rounds = []
    for _ in range(NUM_ROUNDS):
        z = alpha * values[index] + sigma * torch.randn(x.shape, generator=generator)
        distance = (z[..., None].float() - (alpha * values).flatten().float()) / sigma.float()
        chosen = torch.log_softmax(-(distance**2) / 2, -1).gather(-1, index[..., None])
        order = torch.randperm(len(x), generator=generator)
        places = (order + torch.rand(len(x), generator=generator)) / len(x)
        logsnr = low + (high - low) * places
        eps = torch.randn(x.shape, generator=generator)
        a, s = scales(logsnr)
        error = predict(model, (a * x + s * eps).float(), logsnr) - eps
        rounds.append((high - low) / 2 * error.square().mean() - chosen.mean() + prior)
    bits = torch.stack(rounds) / math.log(2)
    return bits.mean().item(), bits.std().item() / NUM_ROUNDS**0.5


def comparing(predict: Predict, found: list[tuple[float, ...]]) -> Any:
    """Return `update` that also estimates the bound, with the weights that were validated."""
    update = elbos.ValidationHistory.update

    def compared(history: Any, step: int, model: Any) -> Any:
        metrics = update(history, step, model)
        if metrics is not None:
            validator, result = history.validator, history.results[step]
            to_item = validator.to_item or (lambda item: item)
            x = torch.stack([to_item(validator.data[i]) for i in range(len(validator))])
            ends, is_training = (validator.logsnr_min, validator.logsnr_max), model.training
            other = estimate(predict, model.eval(), x, validator.num_levels, ends)
            model.train(is_training)
            again = torch.tensor(
                [replace(validator, seed=i)(history.denoiser(model)).bits_per_dim for i in SEEDS]
            )
            mean, error = again.mean().item(), again.std().item() / len(SEEDS) ** 0.5
            found.append((result.bits_per_dim, mean, error, *other))
        return metrics

    return compared


def diffusers(job: Job, test: str) -> int:
    script = job.folder / "train_unconditional.py"
    script.write_text(with_lines(job.source, DIFFUSERS, test))
    train_diffusers(replace(job, source=script))
    return sum(len(code.strip().splitlines()) for code in DIFFUSERS.values())


def edm(job: Job, test: str) -> int:
    sys.path.insert(0, str(job.source))
    from training import training_loop

    path = job.source / "training" / "training_loop.py"
    exec(with_lines(path, EDM, test), vars(training_loop))  # noqa: S102
    train_edm(job)
    return sum(len(code.strip().splitlines()) for code in EDM.values())


def example(job: Job, test: str) -> int:
    script = EXAMPLES / f"{job.code}.py"
    runpy.run_path(str(script))
    return script.read_text().count("# +")


CODES: dict[str, tuple[Callable[[Job, str], int], Predict]] = {
    "diffusers": (diffusers, of_diffusers),
    "edm": (edm, of_edm),
    "lightning_callback": (example, of_lightning),
    "transformers_trainer": (example, of_transformers),
}


def work(job: Job, test: str) -> None:
    """Train in a process of its own, which prints into a file, and write the row."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    os.chdir(job.folder)
    os.environ |= dict.fromkeys(("XDG_CACHE_HOME", "HF_HOME"), str(job.folder / "cache"))
    log = os.open("log.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.manual_seed(job.seed)
    found: list[tuple[float, ...]] = []
    train, predict = CODES[job.code]
    with mock.patch.object(elbos.ValidationHistory, "update", comparing(predict, found)):
        added = train(job, test)
    shown, ours, error, other, other_error = found[-1]
    off = (ours - other) / math.hypot(error, other_error)
    row = f"{shown:.3f} | {ours:.3f} ± {error:.3f} | {other:.3f} ± {other_error:.3f} | {off:.1f}"
    Path("row.txt").write_text(f"| {job.code} | {added} | {row} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codes", nargs="+", choices=CODES, default=[*CODES])
    parser.add_argument("--diffusers", type=Path)
    parser.add_argument("--edm", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    write_images(folder / "pictures")
    few, processes = folder / "few", multiprocessing.get_context("spawn")
    for name, split, num in (("train", "train", 1000), ("held-out", "test", 128)):
        shutil.rmtree(few / name, ignore_errors=True)
        (few / name).mkdir(parents=True)
        for path in sorted((folder / "pictures" / split).glob("*.png"))[:num]:
            shutil.copy(path, few / name)
    print("| code | lines | bits/dim shown | of 8 seeds | independent | difference, in errors |")
    print("|---|---|---|---|---|---|")
    for code in arguments.codes:
        source = Path(getattr(arguments, code, "")).resolve()
        job = Job(code, source, few, folder / code, 1e-3, 0, 3000)
        process = processes.Process(target=work, args=(job, str(few / "held-out")))
        process.start()
        process.join()
        print((job.folder / "row.txt").read_text(), flush=True)


if __name__ == "__main__":
    main()
