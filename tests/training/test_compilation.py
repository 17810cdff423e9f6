"""A compiled run is the run."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import DIGITS, log
from torch._dynamo.utils import counters

from elbos.training.fit import train
from elbos.training.settings import Execution


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_run_is_the_run_and_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Losses and bounds are equal, with dropout. Validation, with batches of other sizes, is not
    compiled.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    output = replace(DIGITS.output, log_every=16, validate_every=48)
    network = replace(DIGITS.network, channels=(16,))
    config = replace(DIGITS, network=network, num_images=96, output=output, precision="fp32")
    train(config, tmp_path / "plain")
    config = replace(config, execution=Execution(compile="on"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(config, tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 1
    expected, found = log(tmp_path / "plain"), log(tmp_path / "compiled")
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        for name in ("loss", "val_nats"):
            assert other.get(name) == pytest.approx(one.get(name), abs=1e-5)
