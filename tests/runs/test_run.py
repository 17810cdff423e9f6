"""Runs that are opened from their directory: what they are conditioned on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import DIGITS

from elbos.runs.run import Run
from elbos.training.config import Config
from elbos.training.loop import train


@pytest.mark.parametrize(
    ("config", "conditions"),
    [
        (replace(DIGITS, label_dropout=0.0), ("given_label",)),
        (replace(DIGITS, label_dropout=0.5), ("unconditional", "given_label")),
        (replace(DIGITS, use_labels=False), ("unconditional",)),
    ],
)
def test_the_likelihood_is_that_of_a_condition_that_was_trained(
    tmp_path: Path, config: Config, conditions: tuple[str, ...]
) -> None:
    train(config, tmp_path)
    run, x = Run(tmp_path), torch.zeros(4, 1, 8, 8)
    assert run.conditions == conditions
    labelled = [(item, torch.tensor(3)) for item in x]
    assert run.likelihood(labelled, num_evaluations=4).num_evaluations == 16
    if "unconditional" not in conditions:
        with pytest.raises(ValueError, match=r"\(x, cond\)"):
            run.likelihood(x)
    else:
        assert run.likelihood(x, num_evaluations=4).num_evaluations == 16


def test_a_path_is_a_text_and_may_be_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    train(replace(DIGITS, num_images=16), "~/run")
    assert Run("~/run").directory.path == tmp_path / "home" / "run"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
