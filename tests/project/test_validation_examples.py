"""The scripts in examples/validation: loops of other people, and few lines that validate them."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from forking import in_processes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "validation"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


@pytest.mark.parametrize("path", SCRIPTS.values(), ids=SCRIPTS)
def test_ten_lines_more_validate_a_loop(path: Path) -> None:
    """Without those marked with + it is a whole script, which knows nothing of elbos and lacks no
    name.
    """
    lines = path.read_text().splitlines(keepends=True)
    rest = "".join(line for line in lines if "# +" not in line)
    assert sum("# +" in line for line in lines) <= 10
    assert "elbos" not in rest
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"]
    done = subprocess.run(command, input=rest, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run(name: str) -> dict[str, Any]:
    """The names of a script, once it has run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return runpy.run_path(str(SCRIPTS[name]))


def lines(code: str) -> list[str]:
    """The lines of code without comments and indentation."""
    return [line for raw in code.splitlines() if (line := raw.partition("#")[0].strip())]


def test_the_guide_shows_the_lines_of_the_scripts() -> None:
    """Each section names its script, and shows what is marked with + there, in its order."""
    text = (ROOT / "docs" / "validate.md").read_text()
    shown = dict(re.findall(r"validation/(\w+)\.py\).*?```python\n(.*?)```", text, re.DOTALL))
    marked = {
        name: "\n".join(line for line in path.read_text().splitlines() if "# +" in line)
        for name, path in SCRIPTS.items()
    }
    assert {name: lines(code) for name, code in shown.items()} == {
        name: lines(code) for name, code in marked.items()
    }


def require_learned(names: dict[str, Any]) -> None:
    """The paired difference between the last and the first validation is significant."""
    first, *_, last = names["history"].results.values()
    gain = first.difference(last)
    assert gain.mean > 4 * gain.standard_error


@pytest.mark.parametrize("name", ["plain_loop", "diffusers_unconditional", "flow_matching"])
def test_a_validated_loop_learns(name: str) -> None:
    require_learned(run(name))


@pytest.mark.filterwarnings("ignore")
def test_a_callback_of_transformers_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names = run("transformers_trainer")
    require_learned(names)
    logged = [item["step"] for item in names["trainer"].state.log_history if "loss" not in item]
    assert set(names["history"].results) <= set(logged)


def work(folder: Path) -> None:
    """One of two processes; it leaves its result in a file."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests left
    GradientState._reset_state()
    names = run("accelerate_processes")
    last = max(names["history"].results)
    assert last == names["step"]  # the network is as it was validated
    alone = names["validator"](names["history"].denoiser(names["model"]), is_shared=False)
    bounds = [names["history"].results[last].bound, alone.bound]
    torch.save(bounds, folder / f"{os.environ['RANK']}.pt")
    names["accelerator"].end_training()


def test_two_processes_of_accelerate_share_a_validation(tmp_path: Path) -> None:
    """Both get what each of them gets alone, to rounding."""
    in_processes(2, work, tmp_path)
    (first, alone), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)
