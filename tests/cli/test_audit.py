"""`elbos audit` from a user's side: words, results, pages and the examples."""

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from commands import GOOD, PROBING, Elbos, assert_one_line, content, flow, snapshot

CONFIGS: dict[str, Any] = {
    "betas": {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "wrong": {"_class_name": "DDPMScheduler", "beta_start": "small"},
    "broken": '{"_class_name": ',
}
SHAPE = "loss.py:loss --shape"
WRONG = {
    "": "Name a target",
    "loss.py --snr_gamma 5": "loss.py:FUNCTION; or let the script run",
    "nope": "nope is not a FILE.py:FUNCTION, scheduler_config.json, or recipe",
    "edm3": "did you mean edm or edm2?",
    "edm --snr-gamma 5": "are for a scheduler_config",
    "loss.py:loss --shape 2 4 4 --prediction v": "no target is one",
    "loss.py:loss": "Give the shape of one sample, as in --shape 3 32 32",
    f"{SHAPE} 0 4 4": "--shape is 0 4 4: give numbers above 0",
    f"{SHAPE} 2 4 4 --data-range 1 -1": "--data-range is 1.0 -1.0",
    "betas.json --prediction epsilon": "invalid choice 'epsilon' for argument '--prediction'",
    "flow.json --logit-std 0": "logit_std is 0.0",
}
FAILS = {
    "train.py": "train.py: No such file",
    f"{SHAPE} 2 4 4 --device nonsense": "--device nonsense",
    f"{SHAPE} 2 4 4 --html fifo": "fifo: it is no regular file: name another path",
    "no.py:loss --shape 2 4 4": "no.py: No such file",
    "broken.json": "broken.json is no scheduler_config.json to read: Expecting value: line 1",
    "wrong.json betas.json": "wrong.json: beta_start is 'small'",
    "betas.json --prediction flow": "betas.json: DDPMScheduler has no flow",
}


@pytest.mark.parametrize("words", [*WRONG, *FAILS])
def test_wrong_words_are_one_line(audit: Elbos, tmp_path: Path, words: str) -> None:
    (tmp_path / "loss.py").write_text(GOOD)
    os.mkfifo(tmp_path / "fifo")
    for name, config in CONFIGS.items():
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / f"{name}.json").write_text(text)
    before = snapshot(tmp_path)
    result = audit(*words.split())
    assert_one_line(result, {**WRONG, **FAILS}[words], statuses=(2 if words in WRONG else 1,))
    assert snapshot(tmp_path) == before
    assert (tmp_path / "fifo").is_fifo()


def test_the_path_of_a_script_may_hold_spaces(audit: Elbos, tmp_path: Path) -> None:
    (tmp_path / "my loss.py").write_text(GOOD)
    for flags in ("", " --snr_gamma 5"):
        assert_one_line(audit(f"my loss.py{flags}"), f"'my loss.py'{flags}.", statuses=(2,))
    assert_one_line(audit("no loss.py"), "no loss.py: No such file", statuses=(1,))


def test_all_targets_are_looked_at_before_the_first_is_measured(
    audit: Elbos, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(flow("raise AssertionError('measured')"))
    assert_one_line(audit("slow.py:loss", "no.py:loss", *PROBING), "no.py: No such file")


PRINTS = "print('a'); print('b', file=sys.stderr); os.system('echo c'); sys.__stdout__.write('d')"


def test_one_target_is_an_object_and_what_it_prints_is_elsewhere(audit: Elbos) -> None:
    source = flow(PRINTS, "return F.mse_loss(network(z, t), u)", before=f"import os, sys\n{PRINTS}")
    Path("loss.py").write_text(source)
    done = audit("loss.py:loss", *PROBING, "--json")
    assert all(done.err.count(letter) > 2 for letter in "abc")
    result = content(done)
    assert (result["title"], result["parameterization"]) == ("loss.py:loss", "flow")
    assert (result["is_monotone"], result["rising"]) == (True, [])
    assert result["closest"][0]["name"] == "Exponential()"
    assert result["num_samples"] == 400
    curves = [result[name] for name in ("logsnr", "weight", "weight_error", "density")]
    assert len({len(curve) for curve in curves}) == 1


def test_a_scheduler_is_found_in_its_folder_and_an_empty_word_is_none(audit: Elbos) -> None:
    Path("scheduler").mkdir()
    Path("scheduler", "scheduler_config.json").write_text(json.dumps(CONFIGS["flow"]))
    results = content(audit("scheduler", ".", "--json"))  # of a scheduler, of a pipeline
    assert [result["title"] for result in results] == ["scheduler", "."]
    assert_one_line(audit("edm", ""), "empty", statuses=(2,))


def test_a_page_is_written_and_says_how(audit: Elbos, tmp_path: Path) -> None:
    (tmp_path / "my loss.py").write_text(GOOD)
    result = audit("my loss.py:loss", *PROBING, "--html", "page.html")
    assert result.out.endswith("Written to page.html.\n")
    page = html.unescape((tmp_path / "page.html").read_text())
    assert "elbos audit 'my loss.py:loss' --shape 2 4 4" in page
    assert sorted(tmp_path.iterdir()) == [tmp_path / "my loss.py", tmp_path / "page.html"]


def test_a_full_disk_keeps_the_result(
    audit: Elbos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    result = audit("edm", "--json", "--html", "page.html")
    assert json.loads(result.out)["title"] == "edm"
    assert_one_line(result._replace(out=""), "page.html: No space left", statuses=(1,))
    assert not list(tmp_path.iterdir())


EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "audit").glob("*.py"))
COMMANDS = [
    words
    for path in EXAMPLES
    for words in re.findall(r"^ {4}elbos audit (.+)$", path.read_text(), re.M)
]
FOUND = {
    "beta_times.py:exact": ("flow", "1"),
    "beta_times.py:ratio": ("flow", "1"),
    "debiased.py:paper": ("v", None),
    "debiased.py:inverse": ("v", "1/(snr + 1)"),
    "debiased.py:root": ("v", None),
    "diffusers_v_prediction.py:correct": ("v", "min(snr, 5)/(snr + 1)"),
    "diffusers_v_prediction.py:eps_weight": ("v", "min(snr, 5)/snr"),
    "diffusers_v_prediction.py:plus_one": ("v", "min(snr, 5)/snr + 1"),
    "diffusers_v_prediction.py:snr_plus_one": ("v", "min(snr + 1, 5)/(snr + 1)"),
    "edm.py:loss": ("edm", "1"),
    "edm.py:denoiser_loss": ("x", "snr + 4"),
    "flipped_mean.py:flipped": ("edm", "1"),
    "flipped_mean.py:published": ("edm", "1"),
    "p2.py:one_twice": ("v", "1/(snr + 2)"),
    "p2.py:published": ("eps", "1/(snr + 1)"),
    "p2.py:snr_twice": ("eps", "snr/(snr + 1)"),
    "sd3_flow_matching.py:loss": ("flow", "1"),
    "sd3_flow_matching.py:unshifted": ("flow", "1"),
    "three_densities.py:one": ("flow", "1"),
    "three_densities.py:three": ("flow", "1"),
}


OF_FILES = {words.partition(":")[0]: words for words in COMMANDS}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=[] if words in OF_FILES.values() else pytest.mark.slow)
        for words in COMMANDS
    ],
)
def test_the_commands_of_the_examples_tell_what_they_train(
    audit: Elbos, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    target = words.split()[0]
    name = target.removeprefix("examples/audit/")
    num = 2000 if name.startswith("edm") else 400
    shape = ("--shape", *words.split()[2:3], 8, 8)  # smaller, and sooner done
    result = content(audit(target, *shape, "--num-samples", num, "--json"))
    assert (result["parameterization"], result["coefficient_name"]) == FOUND[name]
    if name.startswith("edm"):
        assert result["closest"][0]["name"] == "EDM()"


def test_all_examples_have_commands() -> None:
    assert {words.split()[0].removeprefix("examples/audit/") for words in COMMANDS} == set(FOUND)
