"""A profiled run is the run, with a trace of its steps."""

import json
from dataclasses import replace
from pathlib import Path

from tiny import DIGITS, log

from elbos.runs.fit import train
from elbos.training.config import Execution


def test_a_profile_has_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    config = replace(DIGITS, num_images=14 * DIGITS.batch_size)
    train(config, tmp_path / "plain")
    train(replace(config, execution=Execution(profile=2)), tmp_path / "profiled")
    trace = json.loads((tmp_path / "profiled" / "trace.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {name for name in names if name.startswith("ProfilerStep")} == {
        "ProfilerStep#10",
        "ProfilerStep#11",
    }
    assert not (tmp_path / "plain" / "trace.json").exists()
    plain, profiled = (
        [line.get("loss") for line in log(tmp_path / name)] for name in ("plain", "profiled")
    )
    assert plain == profiled
