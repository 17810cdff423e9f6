"""README's tour: its lines in their order and in one folder, changed only to be small."""

import json
import re
import shlex
import shutil
from pathlib import Path

from commands import Elbos
from comparing import USERS, Here

from elbos.base.codec import decode
from elbos.cli import compare as compare_verb
from elbos.training.config import Config
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
TOUR = [words for words in LINES if words and words[0] == "elbos"]

NETWORK = ["--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"]
SHORT = ["--num-images", "32"]
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
    "weightings": [],
}
FEATURES = {
    "evaluate": ["extractor:module", "--extractor.path", "mine.py:features"],
    "compare": ["scoring.extractor:module", "--scoring.extractor.path", "mine.py:features"],
}


def small(verb: str, words: list[str]) -> list[str]:
    """The words after a verb, with what makes them quick."""
    options = [*SMALL[verb]]
    if "--shape" in words:
        options += ["--shape", "3", "8", "8", "--num-samples", "2000"]
    if verb == "compare":
        options += SHORT
    rest = without(words, [word for word in options if word.startswith("--")])
    first = next((i for i, word in enumerate(rest) if re.match(r"--|[a-z]+:", word)), len(rest))
    return [*rest[:first], *options, *rest[first:], *FEATURES.get(verb, [])]


def without(words: list[str], options: list[str]) -> list[str]:
    """The words but for these options, which have numbers."""
    remaining, is_dropped = [], False
    for word in words:
        is_dropped = word in options or (is_dropped and word[0].isdigit())
        if not is_dropped:
            remaining.append(word)
    return remaining


def default_run(elbos: Elbos, words: list[str]) -> list[str]:
    """The directory that `elbos train WORDS` has by default, as an option."""
    if "--run" in words:
        return []
    config = decode(Config, json.loads(elbos("train", *words, "--dry-run").out))
    return ["--run", f"runs/{default_name(config, words[0])}"]


def test_the_lines_run_in_their_order(elbos: Elbos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_verb, "Local", lambda *_: Here())
    shutil.copytree(ROOT / "examples", "examples")
    Path("mine.py").write_text(USERS)
    for _, verb, *words in TOUR:
        run = default_run(elbos, words) if verb == "train" else []
        result = elbos(verb, *small(verb, [*words, *run]))
        assert result.status == 0, (verb, words, result)
    for page in ("runs/digits/eval.html", "runs/compare-digits/report.html", "audit.html"):
        assert Path(page).is_file()
