"""What a training step of each preset costs on a GPU: computation, memory, and the least time.

    python benchmarks/step_cost.py [--presets fashion ...] [--markdown]

Counted, not measured, and so on any machine: see `roofline`. The batch is what one GPU gets.
"""

import argparse

from roofline import BANDWIDTH, PEAK, Cost, cost

from elbos.training.presets import PRESETS

WORK: dict[str, tuple[tuple[int, ...], int | None, int]] = {
    "toy": ((2,), 8, 512),
    "digits": ((1, 8, 8), 10, 128),
    "fashion": ((1, 28, 28), 10, 64),
    "fashion-small": ((1, 28, 28), 10, 64),
    "fashion-vit": ((1, 28, 28), 10, 64),
    "imagenet64-adm": ((3, 64, 64), 1000, 32),
    "imagenet128-uvit": ((3, 128, 128), 1000, 32),
    "imagenet256-latents-vit": ((4, 32, 32), 1000, 32),
}
"""Shape of a sample, number of classes and samples per GPU of each preset."""

HEAD = (
    *("preset", "parameters", "batch", "GFLOPs/image", "MB/image", "kept MB/image", "in float32"),
    *("kernels", "ms/step", "matmul", "images/s"),
)


def row(name: str) -> list[str]:
    """The cells of a preset."""
    shape, num_classes, num = WORK[name]
    found: Cost = cost(PRESETS[name].network, shape, num_classes, num)
    kept = sum(found.saved.values())
    return [
        name,
        f"{found.num_parameters / 1e6:.1f} M",
        f"{num}",
        f"{found.num_flops / num / 1e9:.2f}",
        f"{found.num_bytes / num / 1e6:.2f}",
        f"{kept / num / 1e6:.2f}",
        f"{found.saved['float32'] / kept:.0%}",
        f"{found.num_kernels}",
        f"{1e3 * found.seconds:.2f}",
        f"{found.matmul_seconds / found.seconds:.0%}",
        f"{num / found.seconds:,.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    arguments = parser.parse_args()
    rows = [list(HEAD), *(row(name) for name in arguments.presets)]
    if arguments.markdown:
        rows.insert(1, ["---"] * len(HEAD))
        print("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
        return
    print(f"forward and backward; {PEAK / 1e12:.0f} TFLOP/s, {BANDWIDTH / 1e12:.2f} TB/s\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))


if __name__ == "__main__":
    main()
