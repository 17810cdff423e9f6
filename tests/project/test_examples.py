"""The scripts in examples/ that are run as they are."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.py"


def test_own_network_and_data_in_25_lines(tmp_path: Path) -> None:
    """A loss in one's own loop, a run, samples of two samplers, bits/dim with their error."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 25
    shutil.copy(EXAMPLE, tmp_path)
    command = [sys.executable, "-W", "error", EXAMPLE.name]
    for _ in range(2):  # the same call resumes
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(r"([\d.]+) ± ([\d.]+) bits/dim\n", done.stdout)
        assert found
        assert abs(float(found[1]) - 4.83) < 4 * float(found[2])
