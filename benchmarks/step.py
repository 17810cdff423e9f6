r"""The floating-point rate of a training step, against the machine's peak and against diffusers.

    python benchmarks/step.py [--preset fashion-vit] [--sizes] [--rounds 7] [--tiny]
        [--lucidrains] [--edm FOLDER] [--edm2 FOLDER]

Everything is timed in one run, in turns, and reported as the median over the rounds, because a
shared machine changes speed from minute to minute:

- the peak: the fastest product of two square matrices, of several sizes, in float32 or, where this
  machine computes in it, in bfloat16;
- ours: forward, backward, gradient clipping and Muon for a preset (`fashion`) on 28x28 images, in
  its batch size and channels-last memory, in float32 and, where this machine computes in it, in
  bfloat16;
- diffusers' `UNet2DModel`, the same step with AdamW as its users run it on a CPU, contiguous, in
  float32 and under bfloat16's autocast, in three configurations. `course` is the one that the
  Hugging Face diffusion course trains on MNIST. `example` is diffusers' unconditional training
  example, cut to the three resolutions that 28x28 admits and narrowed to about the preset's number
  of parameters. `wide` keeps the example's widths, with a small batch: wide convolutions are what
  float32 does best, so this is the highest rate that diffusers reaches here, not a network anybody
  would choose for these images;
- with `--lucidrains`, `--edm` and `--edm2`, the networks of those projects likewise, at about the
  FLOPs an image of `fashion` and with wide convolutions (networks.py); the folders are clones;
- with `--sizes`, the preset's network in other sizes and batches;
- the kernels of the network's products alone, by torch's profiler: a step that did nothing else
  would have this rate;
- our optimizer alone, a share of our step, whose own products are counted here.

FLOPs are those of the network's forward and backward as torch counts them (convolutions and matrix
products, 2 per multiply-add). Normalizations, activations, clipping and the optimizer cost time and
count nothing; zeros at the borders of a convolution count, though a library may leave them out (9 %
of a 3x3 convolution on 14x14 pixels). A rate says how well a network uses the machine, not how fast
it learns.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import networks
import torch
from diffusers import UNet2DModel
from timing import Work, cpu_model, dtypes, measure, peak, peaks
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from elbos.training.config import Config, Optimizer
from elbos.training.optimizer import new_optimizer
from elbos.training.presets import PRESETS

SHAPE = (1, 28, 28)
NUM_CLASSES = 10
BATCH_SIZE = 128
SIZES: dict[str, list[tuple[dict[str, Any], int]]] = {  # what of the network changes, and batches
    "fashion": [
        ({}, 64),
        ({"num_blocks": 1}, 64),
        ({"channels": (128, 256), "num_blocks": 1}, 64),
        ({"channels": (32, 64)}, 32),
        ({"channels": (64, 128, 192), "num_blocks": 2}, 32),
    ],
    "fashion-vit": [
        ({}, 256),
        ({"num_features": 512, "num_blocks": 3}, 128),
        ({"num_features": 768, "num_blocks": 2}, 256),
    ],
}
OF_OUR_SIZE = {"fashion": (32, 64, 128), "fashion-vit": (64, 96, 160)}  # channels of `example`
PRODUCTS = {  # kernels with FLOPs in them
    "aten::mkldnn_convolution",
    "aten::convolution_backward",
    *(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm")),
}


def gradients(
    name: str,
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    batch_size: int,
    dtype: torch.dtype,
) -> Work:
    """Forward and backward of `network`, whose output at `z` is `forward(z)`."""
    z, y = torch.randn(2, batch_size, *SHAPE)

    def run() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = forward(z)
        (output.float() - y).square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        run()
    return Work(
        name=f"{name} {named(dtype)}",
        run=run,
        num_flops=counter.get_total_flops(),
        num_images=batch_size,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def training_step(gradients: Work, network: nn.Module, optimizer: torch.optim.Optimizer) -> Work:
    """The same with gradient clipping and the optimizer's step."""

    def run() -> None:
        gradients.run()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return replace(gradients, run=run)


def seconds_of_products(run: Callable[[], object]) -> float:
    """Seconds in kernels of convolutions and matrix products."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    kernels = [event for event in profile.key_averages() if event.key in PRODUCTS]
    return float(sum(kernel.self_cpu_time_total for kernel in kernels)) / 1e6


def named(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def our_network(preset: Config, dtype: torch.dtype) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A preset's network and its optimizer, whose matrix products have a dtype as in training."""
    network = preset.network.build(SHAPE, NUM_CLASSES)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, new_optimizer(network, preset.optimizer, dtype)


def ours(name: str, preset: Config, dtype: torch.dtype) -> tuple[Work, Work]:
    """A preset's step, and the products of its network alone."""
    network, optimizer = our_network(preset, dtype)
    batch_size = preset.batch_size
    logsnr = torch.linspace(-20.0, 20.0, batch_size)
    cond = torch.arange(batch_size) % NUM_CLASSES
    work = gradients(name, network, lambda z: network(z, logsnr, cond), batch_size, dtype)
    products = replace(work, name=f"products {named(dtype)}", seconds=seconds_of_products)
    return training_step(work, network, optimizer), products


def in_other_sizes(
    preset: Config, sizes: list[tuple[dict[str, Any], int]], *, is_tiny: bool
) -> list[Work]:
    """The steps of a preset with other networks and batches."""
    works = []
    for changed, batch_size in sizes[:1] if is_tiny else sizes:
        network: Any = preset.network
        config = replace(preset, network=replace(network, **changed))
        config = replace(config, batch_size=1 if is_tiny else batch_size)
        name = f"{', '.join(map(str, changed.values())) or 'preset'}; {batch_size}"
        works += ours(name, config, dtypes()[0])[:1]
    return works


def optimizer_alone(preset: Config, dtype: torch.dtype) -> Work:
    """The optimizer's step, on gradients that are there, and its products."""
    network, optimizer = our_network(preset, dtype)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    flops = counter.get_total_flops()
    return Work(name="optimizer alone", run=optimizer.step, num_flops=flops)


def theirs(
    name: str,
    channels: tuple[int, ...],
    attention: tuple[bool, ...],
    batch_size: int,
    dtype: torch.dtype,
) -> Work:
    network: Any = UNet2DModel(  # type: ignore[no-untyped-call]
        sample_size=SHAPE[-1],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=tuple("AttnDownBlock2D" if use else "DownBlock2D" for use in attention),
        up_block_types=tuple("AttnUpBlock2D" if use else "UpBlock2D" for use in attention[::-1]),
    )
    time_step = torch.arange(batch_size)
    work = gradients(name, network, lambda z: network(z, time_step).sample, batch_size, dtype)
    return training_step(work, network, new_optimizer(network, Optimizer()))


def other_projects(
    arguments: argparse.Namespace, batch_size: int, dtype: torch.dtype
) -> Iterator[Work]:
    """The same step with the networks of other projects; wide ones take a small batch."""
    chosen = [networks.lucidrains()] if arguments.lucidrains else []
    chosen += [networks.edm(arguments.edm)] if arguments.edm else []
    chosen += [networks.edm2(arguments.edm2)] if arguments.edm2 else []
    for name, network, forward in chain.from_iterable(chosen):
        batch = min(batch_size, 16) if name.endswith(str(max(networks.WIDTHS))) else batch_size
        work = gradients(name, network, forward, batch, dtype)
        yield training_step(work, network, new_optimizer(network, Optimizer()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, of which the median")
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--sizes", action="store_true", help="the network in other sizes, too")
    parser.add_argument("--lucidrains", action="store_true", help="its Unet, which is installed")
    parser.add_argument("--edm", type=Path, help="a clone of NVlabs/edm, to time its networks")
    parser.add_argument("--edm2", type=Path, help="a clone of NVlabs/edm2, to time its network")
    parser.add_argument("--preset", choices=["fashion", "fashion-vit"], default="fashion")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    preset = PRESETS[arguments.preset]
    if arguments.tiny:
        preset = replace(preset, batch_size=1)
    batch = 1 if arguments.tiny else BATCH_SIZE
    example = OF_OUR_SIZE["fashion" if arguments.tiny else arguments.preset]
    wide = (32, 64, 128) if arguments.tiny else (128, 256, 512)
    matmuls = peaks(arguments.tiny)
    elbos_steps, theirs_steps = [], []
    for dtype in dtypes():
        elbos_steps += ours("elbos", preset, dtype)
        theirs_steps += [
            theirs("course", (32, 64, 64), (False, True, True), batch, dtype),
            theirs("example", example, (False, True, False), batch, dtype),
            theirs("wide", wide, (False, True, False), min(batch, 16), dtype),
            *other_projects(arguments, batch, dtype),
        ]
    sizes = SIZES[arguments.preset] if arguments.sizes else []
    others = in_other_sizes(preset, sizes, is_tiny=arguments.tiny)
    alone = optimizer_alone(preset, dtypes()[0])
    times = measure([*matmuls, *elbos_steps, *theirs_steps, *others, alone], arguments.rounds)
    best = peak(times[: len(matmuls)])
    elbos, optimizer = times[len(matmuls)], times[-1]

    print(f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{arguments.preset}; median of {arguments.rounds} rounds\n")
    print(
        f"{'':24}{'parameters':>12}{'GFLOP/image':>13}{'ms':>8}{'images/s':>10}{'GFLOP/s':>9}"
        f"{'of peak':>9}"
    )
    for timed in times:
        work = timed.work
        parameters = f"{work.num_parameters / 1e6:.2f} M" if work.num_parameters else ""
        images = f"{timed.image_rate:.0f}" if work.num_images else ""
        flops = f"{work.num_flops / work.num_images / 1e9:.2f}" if work.num_images else ""
        print(
            f"{work.name:24}{parameters:>12}{flops:>13}{1e3 * timed.median:8.0f}{images:>10}"
            f"{timed.rate / 1e9:9.0f}{timed.rate / best.fastest_rate:9.2f}"
        )
    with_optimizer = (elbos.work.num_flops + optimizer.work.num_flops) / elbos.median
    print(f"\n{elbos.work.name} / peak ({best.work.name}): {elbos.rate / best.fastest_rate:.2f}")
    print(f"the same with the optimizer's products: {with_optimizer / best.fastest_rate:.2f}")
    print(f"optimizer / elbos: {optimizer.median / elbos.median:.3f}")
    by_name = {timed.work.name: timed for timed in times}
    print("\nelbos / others: FLOP/s, images/s")
    for other in theirs_steps:
        own, its = by_name[f"elbos {other.name.split()[-1]}"], by_name[other.name]
        print(f"{other.name:24}{own.rate / its.rate:8.2f}{own.image_rate / its.image_rate:8.2f}")


if __name__ == "__main__":
    main()
