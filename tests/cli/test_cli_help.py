"""Help: a short page for each verb, the long one, and hints that lead to them."""

import re
import shlex
from pathlib import Path

import pytest
from commands import Elbos, assert_one_line

from elbos import cli
from elbos.cli import app


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_short_help_fits_a_screen_and_is_true(
    elbos: Elbos, runs: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    result = elbos(verb, "-h")
    lines = result.out.splitlines()
    assert (result.status, result.err) == (0, "")
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    preset = ["digits"] if verb in ("train", "compare") else []
    long = elbos(verb, *preset, "--help").out
    assert f"`{shlex.join(['elbos', verb, *preset])} --help`" in result.out
    assert len(long) > len(result.out) or verb == "weightings"
    options = re.findall(r"^  (--[\w.-]+)", result.out, re.MULTILINE)
    assert options
    assert all(re.search(rf"(^ +|, ){option}\b", long, re.MULTILINE) for option in options)
    groups = re.findall(r"^  ([\w.]+):TYPE +(.*)$", result.out, re.MULTILINE)
    for group, types in groups:
        for name in re.findall(r"(?<![^ ])[\w-]+(?=,|$)", types):
            assert f"{group}:{name}" in long, name
    monkeypatch.chdir(runs.parent)  # where runs/digits is
    examples = re.findall(r"^  elbos (.*)$", result.out, re.MULTILINE)
    assert 2 <= len(examples) <= 3
    for example in examples:
        first, *words = shlex.split(example)
        assert first == verb
        app.command(verb, words)  # raises where it is none


HINTS = {
    "train digits --weighting elbo": ["weighting:elbo", "`elbos train digits --help`"],
    "train digits --weighting=elbo": ["weighting:elbo?"],
    "train digits --lr 3": ["--optimizer.learning-rate?"],
    "train --num-images 512 digits": ["--num-images before a preset"],
    "train digits --num-images 512 --network.channels 16 --num-images 768": [
        "--num-images here: give it once",
        "`elbos train digits --help`",
    ],
    "train digits --sampler heun": ["sampling.sampler:heun"],
    "train digits --wieghting elbo": ["weighting:elbo"],
    "train digits --schedule": ["schedule:cosine"],
    "train digits elbo": ["weighting:elbo"],
    "train digits weighting=elbo": ["weighting:elbo"],
    "train digits wieghting:elbo": ["weighting:elbo"],
    "train digits weighting:sigmoyd": ["weighting:sigmoid?"],
    "train digits weighting:elbo --weighting.k 3": [
        "--weighting.k here, but after weighting:sigmoid",
        "`elbos train digits weighting:sigmoid --help`",
    ],
    "train fashion-small weighting:elbo --weighting.k=3": [
        "`elbos train fashion-small weighting:sigmoid --help`",
    ],
    "train digits --weighting.kk 3": ["--weighting.k?"],
    "train digits --lerning-rate 3": ["--optimizer.learning-rate"],
    "train digits --batchsize=3": ["--batch-size"],
    "train --num-images 512": ["toy, digits, fashion, fashion-small"],
    "train digts": ["digits?"],
    "train digits --config f.json": ["--config"],
    "sample digits --samplr heun": ["sampler:heun", "`elbos sample digits --help`"],
    "sample digits --sampler.churn 3": ["`elbos sample digits sampler:heun --help`"],
    "evaluate digits --numimages 3": ["--num-images?"],
    "compare digits --num-samples 3": ["--scoring.num-samples"],
    "compare digits --objective edm": ["--objectives", "`elbos compare digits --help`"],
    "audit edm --shap 3": ["--shape"],
    "weightings --jsn": ["--json"],
}


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("words", HINTS)
def test_a_mistake_is_told_what_was_meant_and_where_it_is_explained(
    elbos: Elbos, words: str
) -> None:
    result = elbos(*words.split())
    assert_one_line(result, *HINTS[words], statuses=(2,))
    assert len(result.err) < 300  # no list of everything
    for command in re.findall(r"`elbos ([^`]*)`", result.err):  # what it points to is there
        page = elbos(*shlex.split(command))
        assert page.status == 0
        if elsewhere := re.search(r"no option (\S+) here", result.err):
            assert elsewhere[1] in page.out
