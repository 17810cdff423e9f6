r"""Sample quality after some minutes of training on one core, beside other people's training code.

    python benchmarks/time_to_quality.py FOLDER [--minutes 6] [--seeds 21 22 ...] [--table]
        [--codes elbos elbos-unet elbos-adamw diffusers lucidrains edm]
        [--diffusers train_unconditional.py] [--edm CLONE]
    python benchmarks/time_to_quality.py FOLDER --codes elbos --num-images 20000

Data are 10,000 images of Fashion-MNIST at 16x16 as RGB pictures in a folder, without labels. Each
project trains with its own script, loop, loss, optimizer, average and precision, on one core; two
runs go at once:

- elbos: `elbos train fashion-small`, which keeps 5 % of the images for validation;
- elbos-unet: elbos with the network and the precision of diffusers: what is left is the code;
- elbos-adamw: with its optimizer, learning rate and batch, too: what is left is the objective, with
  its noise levels, the average of the weights, the decay of the learning rate and the sampler;
- diffusers: the script `examples/unconditional_image_generation/train_unconditional.py` as it is,
  with a `UNet2DModel` of our size; its cosine decay ends with the last step, and its preview of 16
  images has one step;
- lucidrains: `Trainer` of denoising-diffusion-pytorch. It averages after every step: after every
  ten, as by default, half of so short a training is in the average;
- edm: `train.py` of a clone of NVlabs/edm, with batches of 32, without dropout and augmentation.

Runs with seed 0 pick learning rates, by `--rates`; the other seeds are what is reported.

The learning rate of elbos, diffusers and edm rises over at most 5 % of the training.

Networks are of our size: 0.6 to 1.0 million parameters. The projects' defaults, of 36 to 114
million, would see far too few images in these minutes. Two short runs at once give the seconds an
image, and so how many fit into the minutes. Training is timed from the first step of the optimizer
to the last, with all that the project does meanwhile, by the clock and in time of the processor,
which other work on the machine does not lengthen; what comes before is a column.

Samples are drawn by fast samplers of the project's own, of which the best counts; of others'
networks by ours, too, with 16 evaluations of an adapter's denoiser. Their kernel distance, in
features of EfficientNet-Lite0, is to 5,000 test images; `real` is that of training images. Runs
that are in FOLDER are not run again.
"""

import argparse
import io
import json
import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from timing import cpu_model
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainings import SIZE, TRAININGS, Job, sample_ours

from elbos.base.numbers import plus_minus, signed
from elbos.base.tables import Table
from elbos.evaluation.estimators import kernel_distance
from elbos.evaluation.features import Lite0, extract
from elbos.training.data import Fashion
from elbos.training.pictures import png

NUM_TRAIN, NUM_TEST = 10_000, 5_000
NUM_TIMED = {  # images of a run that gives the speed: a hundred steps
    "elbos": 6_400,
    "elbos-unet": 6_400,
    "elbos-adamw": 1_600,
    "diffusers": 1_600,
    "lucidrains": 3_200,
    "edm": 3_200,
}
NUM_SHOWN = 16  # samples in a row of the picture
OURS = "ours"  # our sampler
PICKING_SEED = 0  # of the runs that learning rates are picked by
RATES = {  # of learning: the preset's, and 1e-3, since defaults of 1e-4 are for longer trainings
    "elbos": 8e-3,
    "elbos-unet": 8e-3,
    "elbos-adamw": 1e-3,
    "diffusers": 1e-3,
    "lucidrains": 1e-3,
    "edm": 1e-3,
}


CODES = [*RATES, "elbos-pixels"]  # in the order of tables; the last is in earlier results alone


def run(job: Job, core: int, num_samples: int) -> None:
    """Train and draw samples, in a process of its own on one core."""
    os.sched_setaffinity(0, {core})
    os.environ |= dict.fromkeys(("XDG_CACHE_HOME", "HF_HOME"), str(job.folder / "cache"))
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    job.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(job.folder / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    steps = [time.perf_counter()]  # the start, and the end of every step of an optimizer
    cpu = [time.process_time()]  # of all threads, likewise

    def note(*_: object) -> None:
        steps.append(time.perf_counter())
        cpu.append(time.process_time())

    hook = register_optimizer_step_post_hook(note)
    trained = TRAININGS[job.code](job)
    hook.remove()
    torch.save(trained.network.state_dict(), job.folder / "weights.pt")
    half = len(steps) // 2
    result = {
        **{key: getattr(job, key) for key in ("code", "num_images", "learning_rate", "seed")},
        **{key: getattr(trained, key) for key in ("batch_size", "precision")},
        "processor": cpu_model(),
        "torch": torch.__version__.partition("+")[0],
        "seconds_to_start": steps[1] - steps[0],
        "seconds": steps[-1] - steps[1],
        "cpu_seconds": cpu[-1] - cpu[1],
        "images_per_second": job.num_images * (1 - half / len(steps)) / (cpu[-1] - cpu[half]),
        "num_parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "samplers": [*trained.samplers],  # the project's own
    }
    if trained.denoiser is not None:
        trained.samplers[OURS] = partial(sample_ours, trained.denoiser())
    for name, sample in trained.samplers.items():
        torch.manual_seed(1000 + job.seed)
        x = sample(num_samples).clamp(-1, 1)
        np.save(job.folder / f"{name}.npy", (x * 127.5 + 127.5).round().to(torch.uint8).numpy())
    (job.folder / "result.json").write_text(json.dumps(result))


def run_all(jobs: list[Job], num_samples: int) -> None:
    """Run what has no result yet, two jobs at once, each on its own core."""
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[:2]:
        cores.put(core)

    def start(job: Job) -> None:
        core = cores.get()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=run, args=(job, core, num_samples))
        process.start()
        process.join()
        cores.put(core)
        state = f"failed, see {job.folder}/log.txt" if process.exitcode else "done"
        print(f"{job.folder.name}: {state}", flush=True)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(start, [one for one in jobs if not (one.folder / "result.json").exists()]))


def read(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def write_images(folder: Path) -> None:
    """Write images of Fashion-MNIST at 16x16 as PNG files in train/ and test/."""
    data = Fashion().load()
    for name, split, num in (("train", data.train, NUM_TRAIN), ("test", data.test, NUM_TEST)):
        if (folder / name).exists():
            continue
        part = folder / f"{name}-part"
        part.mkdir(parents=True, exist_ok=True)
        x = torch.as_tensor(split.x[:num]).float()
        small = F.interpolate(x, size=SIZE, mode="bilinear", antialias=True)
        for i, pixels in enumerate(small.round().to(torch.uint8)[:, 0].numpy()):
            Image.fromarray(pixels).convert("RGB").save(part / f"{i:05d}.png")
        part.rename(folder / name)


def read_pictures(folder: Path, num: int | None = None) -> Tensor:
    paths = sorted(folder.glob("*.png"))[:num]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    return torch.from_numpy(pixels).movedim(-1, 1)


def features(x: Tensor) -> Tensor:
    extractor = Lite0().load(torch.device("cpu"))
    return extract(extractor, x, num_levels=256).pooled


def score(folder: Path, num_samples: int) -> None:
    """Write results.json: all results of a folder, with kernel distances to the test images."""
    pictures = folder / "pictures"
    reference = features(read_pictures(pictures / "test"))
    real = kernel_distance(features(read_pictures(pictures / "train", num_samples)), reference)
    runs = []
    for path in sorted((folder / "runs").glob("*/result.json")):
        result = read(path.parent)
        if "distances" not in result:
            found = {file.stem: file for file in path.parent.glob("*.npy")}
            result["distances"] = {
                name: kernel_distance(features(torch.from_numpy(np.load(x))), reference)
                for name, x in found.items()
            }
            path.write_text(json.dumps(result))
        runs.append({"name": path.parent.name, **result})
    seen = [one for one in runs if one["seed"] != PICKING_SEED]
    write_picture(folder, read_pictures(pictures / "train", NUM_SHOWN), seen)
    protocol = {"num_samples": num_samples, "num_reference": len(reference), "real": real}
    results = {"protocol": protocol, "runs": runs}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def write_picture(folder: Path, real: Tensor, runs: list[dict[str, Any]]) -> None:
    """Write samples.png: real images, and a row of samples for each row of the table."""
    rows = {"training images": real}
    for (code, num_images, rate), group in grouped(runs).items():
        path = folder / "runs" / group[0]["name"] / f"{best_sampler(group)}.npy"
        title = f"{code}, {num_images:,} images, {rate:g}"
        rows[title] = torch.from_numpy(np.load(path)[:NUM_SHOWN])
    pictures = [
        Image.open(io.BytesIO(png(x.float() / 127.5 - 1, num_columns=NUM_SHOWN)))
        for x in rows.values()
    ]
    left, (width, height) = 270, pictures[0].size
    sheet = Image.new("RGB", (left + width, len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (title, picture) in enumerate(zip(rows, pictures, strict=True)):
        draw.text((6, (i + 0.3) * height), title, "black", font)
        sheet.paste(picture, (left, i * height))
    sheet.save(folder / "samples.png")


def grouped(runs: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Runs that differ in the seed alone, in the order of the table."""

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        return CODES.index(one["code"]), -one["num_images"], one["learning_rate"]

    groups = (list(group) for _, group in groupby(sorted(runs, key=order), order))
    key = itemgetter("code", "num_images", "learning_rate")
    return {key(group[0]): group for group in groups}


def distances(runs: list[dict[str, Any]], sampler: str) -> list[float]:
    return [one["distances"][sampler][0] for one in runs]


def best_sampler(runs: list[dict[str, Any]]) -> str:
    """The sampler of the project's own with the lowest mean distance."""
    return min(runs[0]["samplers"], key=lambda name: statistics.mean(distances(runs, name)))


def quality(runs: list[dict[str, Any]], real: tuple[float, float]) -> Table:
    """Kernel distances, and their differences from the first row's.

    With the number of pairs of seeds in which a row is behind.
    """
    heads = ["code", "n", "images", "steps", "kernel distance", "minus the first (behind)"]
    rows: list[list[str]] = []
    first: list[float] = []
    for (code, num_images, _), group in grouped(runs).items():
        sampler, gap = best_sampler(group), ""
        own = distances(group, sampler)
        if first:
            difference = signed(statistics.mean(own) - statistics.mean(first), 3)
            num_behind = sum(a > b for a, b in product(own, first))
            gap = f"{difference} ({num_behind} of {len(own) * len(first)})"
        num_steps = num_images // group[0]["batch_size"]
        row = [code, f"{len(group)}", f"{num_images:,}", f"{num_steps:,}", over_seeds(own), gap]
        is_theirs = OURS in group[0]["distances"]
        with_ours = over_seeds(distances(group, OURS)) if is_theirs else ""
        rows.append([*row, sampler, with_ours])
        first = first or own
    rows.append(["real", "", "", "", plus_minus(*real), "", "", ""])
    return Table([*heads, "own sampler, evaluations", "with ours, 16"], rows)


def training(runs: list[dict[str, Any]]) -> Table:
    """What was trained, and how fast."""
    heads = ["code", "images", "images/s", "minutes", "of the processor", "start, s"]
    rows: list[list[str]] = []
    for (code, num_images, rate), group in grouped(runs).items():
        seconds, start = (
            statistics.mean(run[key] for run in group) for key in ("seconds", "seconds_to_start")
        )
        cpu = statistics.mean(run.get("cpu_seconds", math.nan) for run in group)
        of_cpu = "" if math.isnan(cpu) else f"{cpu / 60:.1f}"  # earlier results have none
        speed = f"{num_images / seconds:.0f}", f"{seconds / 60:.1f}", of_cpu, f"{start:.0f}"
        row = [code, f"{num_images:,}", *speed, f"{group[0]['num_parameters']:,}", f"{rate:g}"]
        rows.append([*row, f"{group[0]['batch_size']}", group[0]["precision"]])
    return Table([*heads, "parameters", "peak rate", "batch", "precision"], rows)


def picking(runs: list[dict[str, Any]]) -> Table:
    """Kernel distances of the learning rates that were tried, by the best own sampler of each."""
    rates = sorted({one["learning_rate"] for one in runs})
    found: dict[str, dict[float, str]] = {}
    for (code, _, rate), group in grouped(runs).items():
        found.setdefault(code, {})[rate] = over_seeds(distances(group, best_sampler(group)))
    rows = [[code, *(row.get(rate, "") for rate in rates)] for code, row in found.items()]
    return Table(["code", *(f"{rate:g}" for rate in rates)], rows)


def tables(results: dict[str, Any]) -> str:
    picked = [one for one in results["runs"] if one["seed"] == PICKING_SEED]
    runs = [one for one in results["runs"] if one["seed"] != PICKING_SEED]
    found = [quality(runs, results["protocol"]["real"]), training(runs), picking(picked)]
    return "\n\n".join(table.markdown() for table in found if table.rows)


def over_seeds(values: list[float]) -> str:
    return plus_minus(
        statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
    )


def main() -> None:
    """Train what is missing, score it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23, 24, 25])
    parser.add_argument("--codes", nargs="+", choices=RATES, default=["elbos"])
    parser.add_argument("--diffusers", type=Path, help="train_unconditional.py of its examples")
    parser.add_argument("--edm", type=Path, help="a clone of NVlabs/edm")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates, in place of RATES")
    parser.add_argument("--num-images", type=int, help="in place of what fits into the minutes")
    parser.add_argument("--num-samples", type=int, default=300)
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    arguments = parser.parse_args()
    folder, num_samples = arguments.folder.absolute(), arguments.num_samples
    if not arguments.table:
        write_images(folder / "pictures")

        def job(name: str, code: str, num_images: int, rate: float, seed: int = 0) -> Job:
            return Job(
                code=code,
                source=getattr(arguments, code, None),
                pictures=folder / "pictures",
                folder=folder / name,
                learning_rate=rate,
                seed=seed,
                num_images=num_images,
            )

        nums = dict.fromkeys(arguments.codes, arguments.num_images)
        if arguments.num_images is None:
            timed = {code: [f"speed/{code}-{i}" for i in (0, 1)] for code in nums}
            shorter = [(code, name) for code, names in timed.items() for name in names]
            run_all([job(name, code, NUM_TIMED[code], RATES[code]) for code, name in shorter], 2)
            for code, names in timed.items():
                rate = min(read(folder / name)["images_per_second"] for name in names)
                nums[code] = 1000 * round(60 * arguments.minutes * rate / 1000)  # as EDM counts
        jobs = [
            job(f"runs/{code}-{num}-{rate:g}-{seed}", code, num, rate, seed)
            for seed in arguments.seeds
            for code, num in nums.items()
            for rate in arguments.rates or [RATES[code]]
        ]
        run_all(jobs, num_samples)
        score(folder, num_samples)
    print(tables(json.loads((folder / "results.json").read_text())))


if __name__ == "__main__":
    main()
