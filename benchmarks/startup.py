"""Seconds until the library, its help and an audit of a recipe are there, over `import torch`'s."""

import statistics
import subprocess
import sys
import time

IS_TINY = "--tiny" in sys.argv
NUM = 1 if IS_TINY else 5
RUN = "import elbos.cli as c; c.app.run({})"
CODES = {
    "python": "",
    "import torch": "import torch",
    "elbos --help": RUN.format(["--help"]),
    **{
        f"elbos {verb} --help": RUN.format([verb, "--help"])
        for verb in ("train", "audit", "compare")
    },
}
if not IS_TINY:
    CODES |= {"import torch, elbos": "import torch, elbos"}
    CODES |= {"elbos audit edm": RUN.format(["audit", "edm", "--json"])}


def seconds(code: str) -> float:
    """The time of one process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Measure all codes in turn, such that a busy moment is nobody's alone; print the medians."""
    times = [[seconds(code) for code in CODES.values()] for _ in range(NUM)]
    medians = dict(zip(CODES, map(statistics.median, zip(*times, strict=True)), strict=True))
    for name, median in medians.items():
        print(f"{name:20} {median:6.2f} s, {median / medians['import torch']:5.2f} of import torch")


if __name__ == "__main__":
    main()
