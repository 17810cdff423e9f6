"""README's tour: its lines in their order and in one folder, changed only to be small."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from commands import Elbos
from comparing import USERS, Here
from forking import in_processes
from torch.distributed import run

from elbos import cli
from elbos.base.codec import decode
from elbos.cli import compare as compare_verb
from elbos.training.config import Config
from elbos.training.data.fashion import DEBIAN
from elbos.training.presets import default_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    b for kind, b in re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.M) if not kind
]
LINES = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", "").splitlines()
]
TOUR = [
    words[words[0] == "PYTHONSAFEPATH=1" :]
    for words in LINES
    if words and words[0] in ("elbos", "PYTHONSAFEPATH=1")
]

NETWORK = ["--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"]
SHORT, LONGER = ["--num-images", "32"], ["--num-images", "64"]
SMALL = {  # options of each verb, in place of the tour's
    "train": [*NETWORK, *SHORT, "--sampling.num-steps", "2"],
    "sample": ["--num", "10"],
    "evaluate": [
        *("--num-images", "20", "--num-samples", "24", "--ode.num-images", "2"),
        *("--target-se", "9", "--ode.tolerance", "0.1"),
    ],
    "compare": [
        *(*NETWORK, "--seeds", "0", "--scoring.num-images", "20", "--scoring.num-samples", "24"),
        *("--samplers", "ancestral=Ancestral(),2", "heun=Heun(),2"),
    ],
    "audit": [],
    "record": [],
    "data": ["--jobs", "1"],
    "export": [],
    "weightings": [],
}
FEATURES = {
    "evaluate": ["extractor:module", "--extractor.path", "mine.py:features"],
    "compare": ["scoring.extractor:module", "--scoring.extractor.path", "mine.py:features"],
}


def small(verb: str, words: list[str]) -> list[str]:
    """The words after a verb, with what makes them quick."""
    options = [] if "--config" in words else [*SMALL[verb]]  # the file is of a small network
    if verb == "train" and "--num-images" in words:  # a finished run is made longer
        options += LONGER
    if "--shape" in words:
        options += ["--shape", "3", "8", "8", "--num-samples", "2000"]
    if verb == "compare":
        options += [*SHORT, "--objectives", "edm"] if words[0] == "fashion-small" else SHORT
    if verb == "compare" and words[0] == "fashion-small":
        options.insert(0, "data:digits")  # in place of 60,000 pictures
    rest = without(words, [word for word in options if word.startswith("--")])
    first = next((i for i, word in enumerate(rest) if re.match(r"--|[a-z]+:", word)), len(rest))
    return [*rest[:first], *options, *rest[first:], *FEATURES.get(verb, [])]


def without(words: list[str], options: list[str]) -> list[str]:
    """The words but for these options, which have numbers."""
    kept, is_dropped = [], False
    for word in words:
        is_dropped = word in options or (is_dropped and word[0].isdigit())
        if not is_dropped:
            kept.append(word)
    return kept


def default_run(elbos: Elbos, words: list[str]) -> list[str]:
    """The directory that `elbos train WORDS` has by default, as an option."""
    if "--run" in words:
        return []
    config = decode(Config, json.loads(elbos("train", *words, "--dry-run").out))
    return ["--run", f"runs/{default_name(config, words[0])}"]


def run_all(lines: list[list[str]]) -> None:
    for words in lines:
        sys.argv = ["elbos", *words]
        cli.main()


def launch(lines: list[tuple[list[str], list[str]]]) -> None:
    """Run the lines of `torchrun`, its own words and ours, in as many processes."""
    launched = [run.parse_args([*options, *words]) for options, words in lines]
    (num,) = {int(one.nproc_per_node) for one in launched}
    assert all((one.module, one.training_script) == (True, "elbos") for one in launched)
    in_processes(num, run_all, [one.training_script_args for one in launched])


@pytest.mark.filterwarnings("ignore:.*runs/digits is extended to 64 images")
def test_the_lines_run_in_their_order(elbos: Elbos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_verb, "Local", lambda *_: Here())
    shutil.copytree(ROOT / "examples", "examples")
    Path("mine.py").write_text(USERS)
    runs, launches = [], []
    for program, *words in TOUR:
        if "--help" in words:
            assert elbos(*words).status == 0
            continue
        words, output = (words[:-2], words[-1]) if ">" in words else (words, None)
        start = next(i for i, word in enumerate(words) if word in SMALL)
        verb, rest = words[start], words[start + 1 :]
        if verb == "train":
            if rest[0].startswith("fashion") and "data:" not in str(rest) and not DEBIAN.is_dir():
                continue
            rest += default_run(elbos, rest)
            if "--dry-run" not in rest and "--num-images" not in rest:
                runs.append(rest[rest.index("--run") + 1])
        if program == "elbos":
            result = elbos(verb, *small(verb, rest))
            assert result.status == 0, (verb, rest, result)
            if output:
                Path(output).write_text(result.out)
        else:
            launches.append((words[:start], [verb, *small(verb, rest)]))
    launch(launches)
    assert len(set(runs)) == len(runs)
    for page in ("runs/digits/eval.html", "runs/compare-digits/report.html", "audit.html"):
        assert Path(page).is_file()
