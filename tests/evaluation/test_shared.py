"""Several processes share an evaluation: the numbers are those of one, no part is made twice."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forking import in_processes

from elbos import Denoiser, Validator
from elbos.base import files
from elbos.base.processes import Processes
from elbos.base.store import Part, Store
from elbos.evaluation import EvaluationConfig, OdeConfig, ode, quality
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.features import Module
from elbos.runs.run import Run
from elbos.theory.parameterizations import V
from elbos.training import sampling

USERS = "def features(images): return images.float().flatten(1)[:, ::48] / 255\n"


def evaluated(run: Path, out: Path, settings: EvaluationConfig) -> None:
    """The evaluation, and the files that this process writes for it."""
    processes, written = Processes.joined(), []
    write = files.write

    def noted(path: Path, content: bytes) -> None:
        written.append(str(path))
        write(path, content)

    files.write = noted
    result = evaluate(Run(run).shared_by(processes), settings)
    out.mkdir(exist_ok=True)
    actual = json.dumps([result.to_dict(), written])
    (out / f"{processes.rank}.json").write_text(actual)


def test_two_processes_measure_what_one_does_and_each_a_half(
    runs: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    """Bit for bit, in both: likelihood, ODE, reference, samples and their features."""
    monkeypatch.setattr(quality, "NUM_AT_ONCE", 4)
    for module, size in ((sampling, 4), (quality, 4), (ode, 1)):
        monkeypatch.setattr(module, "BATCH_SIZE", size)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "cache"))
    (runs / "mine.py").write_text(USERS)
    settings = EvaluationConfig(
        num_images=12,
        num_pilot_images=10,
        num_samples=24,
        ode=OdeConfig(num_images=2, tolerance=0.1),
        extractor=Module(path="mine.py:features"),
    )
    shutil.copytree("digits", "other/digits")
    in_processes(1, evaluated, Path("digits"), Path("one"), settings)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "other/cache"))
    monkeypatch.chdir("other")
    in_processes(2, evaluated, Path("digits"), Path("two"), settings)
    (expected, _), *actual = (
        json.loads(path.read_text())
        for path in (runs / "one/0.json", *map(Path, ("two/0.json", "two/1.json")))
    )
    assert all(result == expected for result, _ in actual)
    first, second = (set(written) for _, written in actual)
    assert not first & second
    assert sum(len(written) for _, written in actual) == len(first | second)
    for kind in ("given_label", "ode", "samples-", "features-", "features/", "baselines"):
        counts = [sum(kind in path for path in written) for written in (first, second)]
        assert 0 < counts[1] <= counts[0], (kind, counts)


def patient() -> None:
    """Longer than the timeout of a group, for whoever is late; what fails in one, fails in all."""
    dist.init_process_group(timeout=timedelta(seconds=1))
    processes = Processes(dist.get_rank(), 2, torch.device("cpu"))

    def late(seconds: float) -> Callable[[], float]:
        return lambda: time.sleep(seconds) or seconds

    mine = 1.5 * processes.rank
    assert processes.together(late(mine)) == mine

    def fails() -> Any:
        raise ValueError("3 of 8 samples")

    store = Store(Path("parts"), processes)
    parts = [Part("a", 1, lambda: {"x": torch.ones(1)}), Part("b", 1, fails)]
    with pytest.raises(ValueError, match="3 of 8"):
        store.concatenated(parts, lambda *_: None)
    assert ("a" in store) and "b" not in store


def test_processes_wait_for_each_other_for_long_and_fail_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_processes(2, patient)


def validated() -> None:
    """By parts, of which one process has made all that there are."""
    processes = Processes.joined()
    x = torch.linspace(-1, 1, 16).view(4, 4)
    denoiser = Denoiser(lambda z, logsnr: z * torch.sigmoid(-logsnr)[:, None], V())
    store, is_shared = Store(Path("parts"), processes), processes.num > 1
    actual = Validator(x)(denoiser, is_shared=is_shared, parts=store)
    files.write(Path(f"{processes.num}-{processes.rank}"), str(actual.bits).encode())


def test_parts_that_are_read_and_losses_that_are_measured_are_of_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_processes(1, validated)
    in_processes(2, validated)
    assert len({Path(name).read_text() for name in ("1-0", "2-0", "2-1")}) == 1


def orphaned() -> None:
    processes = Processes.joined()
    if processes.rank == 0:
        with pytest.raises(ConnectionError):
            processes.together(lambda: None)


def test_a_process_that_is_gone_is_not_waited_for() -> None:
    in_processes(2, orphaned)
