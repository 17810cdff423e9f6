"""The codec: JSON, text and labels of every class, and back."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tables import PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS
from tiny import DIGITS

from elbos.base.codec import decode, difference, encode, parse
from elbos.models import samplers
from elbos.models.samplers import Sampler
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.names import label
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Tabulated, Weighting
from elbos.training.presets import PRESETS

IDENTITIES = json.loads(Path(__file__).with_name("identities.json").read_text())
PARTS = [
    *((Weighting, w) for w in WEIGHTINGS if not isinstance(w, Tabulated)),
    *((Schedule, s) for s in SCHEDULES),
    *((Parameterization, p) for p in PARAMETERIZATIONS),
    *((Sampler, cls()) for cls in samplers.SAMPLERS),
]


@pytest.mark.parametrize("name", PRESETS)
def test_identities_of_presets_are_golden(name: str) -> None:
    """They name runs and are keys of scores."""
    assert PRESETS[name].identity() == IDENTITIES[name]


@pytest.mark.parametrize(("kind", "value"), PARTS, ids=lambda p: repr(p) if p in PARTS else "")
def test_there_and_back(kind: Any, value: Any) -> None:
    """As JSON; and as text, which is the repr."""
    encoded = json.loads(json.dumps(encode(value), allow_nan=False))
    assert decode(kind, encoded) == value
    assert parse(kind, repr(value)) == value


def test_entries_with_defaults_may_be_missing_and_no_others() -> None:
    assert decode(Weighting, {"type": "EDM", "std": 2.0}) == weightings.EDM(std=2.0)
    for entries in ({"type": "EDM", "more": 1}, {"type": "Monotone"}):
        with pytest.raises(ValueError, match=r"more|inner"):
            decode(Weighting, entries)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Weighting, "Sigmoid", weightings.Sigmoid()),
        (Weighting, " Shifted(Monotone(EDM(std=2)), 1) ", None),
        (Schedule, "Adaptive(num_bins=7)", Adaptive(num_bins=7)),
        (Sampler, "DDIM(eta=0.5)", samplers.DDIM(eta=0.5)),
        (tuple[Parameterization, Schedule], "V, Cosine()", None),
    ],
)
def test_text_is_read_as_python_is(kind: Any, text: str, expected: Any) -> None:
    names = {**vars(schedules), **vars(parameterizations), **vars(weightings)}
    if expected is None:
        expected = eval(text.replace("V,", "V(),"), names)  # noqa: S307
    assert parse(kind, text) == expected


@pytest.mark.parametrize("form", ["{}", "'{}'", "Shifted({}, 1.0)", "Monotone('{}')"])
def test_no_file_is_run_that_only_a_text_names(tmp_path: Path, form: str) -> None:
    """As in a report.json of somebody else."""
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nw = abs\n")
    with pytest.raises(ValueError, match="There is no"):
        parse(Weighting, form.format(f"{tmp_path}/theirs.py:w"))
    assert not (tmp_path / "ran").exists()


def test_a_weighting_in_a_file_is_its_numbers(tmp_path: Path) -> None:
    file = tmp_path / "my file.py"
    file.write_text("def ramp(logsnr):\n    return (9 - logsnr).clamp(min=0)\n")
    ramp = parse(Weighting, f"Shifted('{file}:ramp', 1.0)", runs_files=True).inner
    assert (type(ramp), ramp.name) == (Tabulated, "my file.py:ramp")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Nope()", "Nope"),
        ("__import__('os')", "__import__"),
        ("Sigmoid(q=3)", "q"),
        ("Sigmoid(**{'k': 3})", "k"),
        ("Sigmoid(k='x')", "'x'"),
        ("Shifted(EDM())", "shift"),
        ("nope.py:f", "nope.py"),
        ("(((", "((("),
        ("(" * 5000, "…"),
    ],
)
def test_text_that_is_no_weighting_is_refused(text: str, named: str) -> None:
    with pytest.raises((ValueError, OSError), match=rf"\A.*{re.escape(named)}.*\Z"):
        parse(Weighting, text)


def test_parts_have_to_be_as_many_as_their_places() -> None:
    for text in ("V()", "V(), Cosine(), EDM()"):
        with pytest.raises(ValueError, match="Schedule"):
            parse(tuple[Parameterization, Schedule], text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (weightings.EDM(mean=-1.0), "EDM(mean -1)"),
        (weightings.Monotone(weightings.EDM()), "EDM-monotonic"),
        (weightings.Shifted(weightings.EDM(), 1.0), "EDM shifted by 1"),
        (weightings.Sigmoid(k=2.0), "sigmoid(2)"),
        (Tabulated(name="mine", weights=(1.0, 2.0)), "mine"),
        (schedules.Normal(logsnr_max=13.3), "Normal(2.4, 2.4)"),
        (schedules.Cosine(shift=1.0), "cosine(1)"),
        (Adaptive(), "adaptive"),
        (parameterizations.EDM(sigma_data=1.0), "EDM(1)"),
        (samplers.Heun(churn=40.0), "Heun(churn 40)"),
        ("somebody's own", "somebody's own"),
    ],
)
def test_labels_are_short(value: object, expected: str) -> None:
    assert label(value) == expected


def test_differences_name_their_place() -> None:
    other = replace(DIGITS, weighting=weightings.Sigmoid(k=3.0))
    assert difference(encode(DIGITS), encode(other)) == "weighting.k = 2.0, not 3.0"
    assert difference(encode(DIGITS), encode(DIGITS)) is None
    output = replace(DIGITS, output=replace(DIGITS.output, num_kept=7))
    assert difference(encode(DIGITS), encode(output)) is None
