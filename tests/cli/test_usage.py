"""Wrong words and wrong values are one line and a status; pages of help."""

import runpy
from pathlib import Path

import pytest
from commands import Elbos, assert_one_line, snapshot

from elbos import cli

# One value out of range in each place that refuses one: the others are those of the classes.
WRONG_USAGE = {
    "nope": "no verb 'nope'",
    "trian digits": "did you mean train?",
    "train toy data:images": "--data.path STR",
    "train toy weighting:monotone": "weighting.inner:elbo",
    "train": "toy",
    "train toy --nope 3": "--nope",
    "train toy --config": "--config FILE",
    "train toy weighting:nope": "weighting:nope",
    "train toy weighting:sigmod": "did you mean sigmoid?",
    "train toy weigting:sigmoid": "did you mean weighting:sigmoid?",
    "train toy --sead 3": "did you mean --seed?",
    "train --config misspelt.json --num-images 5": "beside --config",
    "data pack digits out --jbs 3": "did you mean --jobs?",
    "compare toy --objectivs elbo": "did you mean --objectives?",
    "compare toy --objectives elbo emd": "did you mean edm?",
    "compare toy --seed 3": "give --seeds",
    "compare toy --workers 0": "workers is 0",
    "audit --shape 3": "elbos: Name a target (see",
    "audit edm --expect edn": "did you mean edm?",
    "train toy weighting:sigmoid --weighting.k nan": "weighting: k is nan",
    "sample --num 5 digits": "The run directory comes first",
    "evaluate digits --ode.tolerance inf": "ode: tolerance is inf",
    "evaluate digits --split nope": "--split",
    "evaluate digits --batch-size 8": "batch-size is for the folder",
    "weightings --nope": "--nope",
    "data": "elbos data pack",
    "data pack digits out --jobs 0": "jobs is 0",
}


@pytest.mark.parametrize("words", WRONG_USAGE)
def test_wrong_usage_is_one_line_and_status_2(elbos: Elbos, runs: Path, words: str) -> None:
    before = snapshot(runs)
    assert_one_line(elbos(*words.split()), WRONG_USAGE[words], statuses=(2,))
    assert snapshot(runs) == before


FAILS = {
    f"sample {'a' * 5000}": f"{'a' * 60}…",
    "train toy network:unet": "UNet takes images",
    "train digits --network.channels": "channels is empty",
    "train digits data:images --data.path empty": "empty",
    "train digits data:images --data.path corrupt": "cannot be decoded",
    "train fashion --data.root empty": "train-images-idx3-ubyte",
    "train digits data:images --data.path nowhere": "there is no folder nowhere, and it",
    "data pack ./nowhere out --jobs 1": "there is no folder nowhere: give",
    "train toy --run digits": "holds a run with",
    "train --config toy/metrics.jsonl": "metrics.jsonl is not a configuration",
    "train --config misspelt.json": "'sead': did you mean seed?",
    "train toy --run other": "holds notes.txt",
    "train toy --run digits/config.json": "is a file",
    "sample nowhere": "not a run directory",
    "sample toy --label 3": "knows no classes",
    "sample toy --guidance 2": "guidance is 2.0",
    "sample digits --num 1000000000000": "memory",
    "evaluate digits --num-images 298": "has 297 images",
    "evaluate digits data:toy": "1x8x8",
}


@pytest.mark.parametrize(
    "words",
    [  # the Hub's client tries again for 20 s
        pytest.param(words, marks=pytest.mark.slow if "path nowhere" in words else [])
        for words in FAILS
    ],
)
def test_a_failure_is_one_line_and_status_1(elbos: Elbos, runs: Path, words: str) -> None:
    for folder in ("empty", "corrupt", "other"):
        (runs / folder).mkdir()
    (runs / "other" / "notes.txt").touch()
    (runs / "untyped.json").write_text('{"seed": 3}')
    digits = (runs / "digits" / "config.json").read_text()
    (runs / "misspelt.json").write_text(digits.replace('"seed"', '"sead"'))
    for i in range(3):
        (runs / "corrupt" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = snapshot(runs)
    result = elbos(*words.split())
    assert_one_line(result, FAILS[words], statuses=(1,))
    assert snapshot(runs) == before  # above all, no run directory is claimed


def test_one_step_is_no_steps(elbos: Elbos) -> None:
    words = ["train", "toy", "--num-images", "64", "--batch-size", "64", "--dry-run"]
    assert "1 step of 64" in elbos(*words).err


def test_the_package_runs_as_the_command(elbos: Elbos, capsys: pytest.CaptureFixture[str]) -> None:
    expected = elbos("-h")  # whose arguments stay
    runpy.run_module("elbos", run_name="__main__")
    assert capsys.readouterr() == (expected.out, expected.err)
    assert expected.out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_every_verb_names_the_verb(elbos: Elbos, verb: str) -> None:
    pages = [elbos(verb, option) for option in ("-h", "--help")]
    assert pages[0] == pages[1]
    assert pages[0].status == 0
    assert f"usage: elbos {verb}" in pages[0].out
