"""`elbos audit` from a user's side: what is not a loss is one line; what is one is told by name."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Result, assert_one_line, snapshot

from elbos.cli import app
from elbos.user_code import as_script, load_function

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "audit").glob("*.py"))
PROBING = ["--shape", 2, 4, 4, "--num-samples", 400]

Audit = Callable[..., Result]


@pytest.fixture
def audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Audit:
    """Run `elbos audit` in this process, with a folder of its own as the current directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["elbos", "audit", *map(str, words)])
        before = sys.argv, sys.path, sys.stdin, sys.stdout, set(sys.modules)
        capfd.readouterr()
        try:
            app.main()
            status: Any = 0
        except SystemExit as stop:
            status = stop.code or 0
        assert (sys.argv, sys.path, sys.stdin, sys.stdout) == before[:4]
        assert not [
            name
            for name in set(sys.modules) - before[4]
            if str(tmp_path) in repr(sys.modules[name])
        ]
        return Result(status, *capfd.readouterr())

    return run


def flow(*lines: str, before: str = "") -> str:
    """A file with the start of a loss, rectified flow's, that goes on with these lines."""
    return "\n    ".join(
        [
            f"import torch\nimport torch.nn.functional as F\n{before}\ndef loss(network, x):",
            "t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)",
            "z, u = (1 - t) * x + t * eps, eps - x",
            *lines,
        ]
    )


GOOD = flow("return F.mse_loss(network(z, t), u)")
LINE = 7  # of the first line that a loss goes on with


# --- what is no loss -----------------------------------------------------------------------------

NO_FUNCTION = {
    "number": ("loss = 3", "loss.py:loss is no function, but of type int"),
    "None": ("loss = None", "of type NoneType"),
    "module": ("import math as loss", "of type module"),
    "class": ("class loss:\n    def __init__(self, a, b): ...", "is a class: wrap it"),
    "missing": (
        "import torch\ndef lose(a, b): ...\nclass A: ...",
        "no 'loss'; it defines lose, A.",
    ),
    "missing, empty": ("", "no 'loss'; it defines none"),
    "three arguments": ("def loss(network, x, labels): ...", "takes (network, x, labels): wrap it"),
    "one argument": ("def loss(batch): ...", "takes (batch): wrap it"),
    "escapes": ("raise ValueError('a \x1b[31mred')", "ValueError (line 1): a \\x1b[31mred"),
    "raises": ("a = 1\nb = a / 0", "loss.py cannot be run: ZeroDivisionError (line 2): division"),
    "raises lines": ("raise ValueError('a\\nb')", "ValueError (line 1): a b"),
    "raises nothing": ("assert False", "AssertionError (line 1): no message"),
    "import": ("import nonexistent", "ModuleNotFoundError (line 1): No module named 'nonexistent'"),
    "syntax": ("\ndef loss(:", "SyntaxError: invalid syntax (loss.py, line 2)"),
    "indentation": ("def loss():\n1", "IndentationError: expected an indented block"),
    "exit": ("import sys\nsys.exit(3)", "exits when it is run (3): keep what trains"),
    "exit with words": ("import sys\nsys.exit('no data')", "exits when it is run (no data)"),
    "input": ("input('sure? ')", "cannot be run: RuntimeError (line 1): input(): lost sys.stdin"),
    "interrupted": ("raise KeyboardInterrupt", "Interrupted while loss.py was run: keep what"),
}


def bad(line: str, *needed: str, before: str = "") -> tuple[str, tuple[str, ...]]:
    return flow(line, before=before), needed


def raising(line: str, *needed: str) -> tuple[str, tuple[str, ...]]:
    return bad(line, f"(loss.py, line {LINE})", *needed)


BAD_LOSSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "raises": raising("raise OSError('no\\nnews')", "raised OSError", "no news"),
    "no labels": raising("return network(z, t, labels)", "NameError", "'labels' is not defined"),
    "a pair for data": raising("x, labels = x", "ValueError", "too many values to unpack"),
    "recursion": bad("return loss(network, x) + 1", "RecursionError (loss.py, line "),
    "CUDA": raising("return network(z.to('cuda')).mean()", "CUDA"),
    "channels": raising(
        "return F.conv2d(z, torch.ones(4, 3, 1, 1))", "to have 3 channels, but got 2 channels"
    ),
    "input": raising("return input('loss? ')", "input()"),
    "attribute": raising("return network(z, t) * network.config.in_channels", "'config'"),
    "no tensors": raising("return network(3, t=[4])", "the network is called without any tensor"),
    "integers": raising("return network(t.long())", "the network is called without any tensor"),
    "backward": bad(
        "l = F.mse_loss(network(z, t), u); l.backward(); return l", "without calling backward()"
    ),
    "not finite": bad("return F.mse_loss(network(z, t), u) * torch.nan", "The loss is not finite"),
    "float": bad("return F.mse_loss(network(z, t), u).item()", "is a float: return a tensor"),
    "None": bad("F.mse_loss(network(z, t), u)", "is a NoneType: return a tensor"),
    "integer": bad("network(z, t); return torch.tensor(3)", "does not depend on the network's"),
    "empty tuple": bad("network(z, t); return ()", "is a tuple: return a tensor"),
    "dict": bad("return {'mse': F.mse_loss(network(z, t), u)}", "dict of mse", "under 'loss'"),
    "detached": bad("return F.mse_loss(network(z, t).detach(), u)", "it is detached"),
    "no_grad": bad(
        "with torch.no_grad(): return F.mse_loss(network(z, t), u)", "computed under no_grad"
    ),
    "no network": bad("return z.square().mean()", "never calls the network"),
    "twice the batch": bad(
        "return F.mse_loss(network(torch.cat([z, z]), t)[: len(x)], u)", "batch of 128 for data of"
    ),
    "numpy": bad(
        "eps = torch.from_numpy(rng.normal(size=x.shape)).float()\n"
        "    return F.mse_loss(network((1 - t) * x + t * eps, t), eps)",
        "numpy Generator or a counter of its own",
        before="import numpy\nrng = numpy.random.default_rng(0)",
    ),
    "one level": bad(
        "return F.mse_loss(network(0.6 * x + 0.8 * eps, t), eps)", "draws a single noise level"
    ),
    "no noise": bad("return F.mse_loss(network(x, t), x)", "draws the same noise"),
    "no data": bad("return F.mse_loss(network(z[..., :2], t), u[..., :2])", "is not the data"),
    "exit": bad("import sys; sys.exit(3)", "loss.py:loss exits when it is called (3)"),
    "interrupted": bad("raise KeyboardInterrupt", "Interrupted."),
}


@pytest.mark.parametrize("name", NO_FUNCTION)
def test_a_file_without_a_loss_is_one_line(audit: Audit, tmp_path: Path, name: str) -> None:
    source, needed = NO_FUNCTION[name]
    assert_refused(audit, tmp_path, source, needed)


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_a_loss_that_cannot_be_measured_is_one_line(
    audit: Audit, tmp_path: Path, name: str
) -> None:
    source, needed = BAD_LOSSES[name]
    assert_refused(audit, tmp_path, source, *needed)


def assert_refused(audit: Audit, folder: Path, source: str, *needed: str) -> None:
    (folder / "loss.py").write_bytes(source.encode("latin-1"))
    (folder / "page.html").write_text("untouched")
    before = snapshot(folder)
    result = audit("loss.py:loss", *PROBING, "--json", "--html", "page.html")
    assert_one_line(result, *needed, statuses=(1,))
    assert snapshot(folder) == before


def test_a_script_that_wants_arguments_says_which(audit: Audit) -> None:
    """In the words of its own parser, before ours."""
    lines = ("from argparse import ArgumentParser", "parser = ArgumentParser()")
    needed = ("parser.add_argument('--data', required=True)", "parser.parse_args()")
    Path("loss.py").write_text("\n".join([*lines, *needed]))
    *theirs, ours = audit("loss.py:loss", *PROBING).err.splitlines(keepends=True)
    assert "--data" in theirs[-1]
    assert_one_line(Result(1, "", ours), "loss.py exits when it is run (2): ", "__main__")


def test_functions_have_to_be_named(audit: Audit) -> None:
    Path("loss.py").write_text(GOOD)
    for target in ("loss.py", "loss.py:"):
        assert_one_line(
            audit(target, *PROBING), "name a function, as in loss.py:FUNCTION; it defines loss."
        )
    assert_one_line(audit("loss.py:a.b", *PROBING), "loss.py has no 'a.b'; it defines loss.")
    Path("loss.py").write_text("class Trainer:\n    def step(self, batch): ...")
    result = audit("loss.py:Trainer.step", *PROBING)
    assert_one_line(result, "is a method that takes (self, batch): wrap it in a function")


def test_files_that_cannot_be_read_are_one_line(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "secret.py").touch(mode=0o000)
    assert_one_line(audit("no.py:loss", *PROBING), "no.py: No such file", statuses=(1,))
    assert_one_line(audit("folder.py:loss", *PROBING), "folder.py: Is a directory", statuses=(1,))
    is_root = os.geteuid() == 0
    try:
        os.seteuid(65534) if is_root else None
        result = audit("secret.py:loss", *PROBING)
    finally:
        os.seteuid(0) if is_root else None
    assert_one_line(result, "secret.py: Permission denied: change its perm", statuses=(1,))


# --- wrong words ---------------------------------------------------------------------------------

CONFIGS: dict[str, Any] = {
    "betas": {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "unet": {"_class_name": "UNet2DConditionModel", "in_channels": 4},
    "wrong": {"_class_name": "DDPMScheduler", "beta_start": "small"},
    "other": {"architectures": ["CLIPTextModel"]},
    "list": [1],
    "broken": '{"_class_name": ',
    "empty": "",
}
SHAPE = "loss.py:loss --shape"
WRONG = {
    "": "Name a target",
    "nope": "nope is no target: give FILE.py:FUNCTION, a scheduler_config.json, or a recipe",
    "train:loss": "train:loss is no target",
    "edm3": "There is no recipe edm3: did you mean edm",
    "minsnr-5": "did you mean min-snr-5",
    "edm nope": "nope is no target",
    "folder": "folder is a folder without a scheduler_config.json",
    "edm --snr-gamma 5": "--snr-gamma, --weighting-scheme and the like are for a scheduler_config",
    "loss.py:loss --shape 2 4 4 --prediction v": "no target is one",
    "edm --shape 2 4 4": "--shape, --num-samples and the like are for FILE.py:FUNCTION",
    "loss.py:loss": "Give the shape of one sample, as in --shape 3 32 32",
    f"{SHAPE}": "Give the shape of one sample",
    f"{SHAPE} 0 4 4": "--shape is 0 4 4: give numbers above 0",
    f"{SHAPE} 2 -4 4": "--shape is 2 -4 4: give numbers above 0",
    f"{SHAPE} 2,4,4": "--shape cannot be '2,4,4'",
    f"{SHAPE} 2.5": "--shape cannot be '2.5'",
    "--shape 2 4 4 loss.py:loss": "--shape cannot be '2', '4', '4', 'loss.py:loss'",
    f"{SHAPE} 2 4 4 --num-samples 5": "--num-samples is 5: give at least 100",
    f"{SHAPE} 2 4 4 --num-samples 10000001": "is 10000001: give at least 100, at most 10,000,000",
    f"{SHAPE} 2 4 4 --device nonsense": "--device nonsense: Expected one of cpu, cuda",
    f"{SHAPE} 2 4 4 --device meta": "--device meta: it holds no numbers",
    f"{SHAPE} 2 4 4 --html .": "--html names no file",
    f"{SHAPE} 2 4 4 --html loss.py": "--html loss.py would overwrite loss.py:loss",
    f"{SHAPE} 2 4 4 --html link.py": "--html link.py would overwrite loss.py:loss",
    "edm link.py:loss --shape 2 4 4 --html loss.py": "--html loss.py would overwrite link.py:loss",
    "folder betas.json --html betas.json": "folder is a folder without",
    "betas.json --html betas.json": "--html betas.json would overwrite betas.json",
    f"{SHAPE} 2 4 4 --data-range 1 -1": "--data-range is 1.0 -1.0",
    f"{SHAPE} 2 4 4 --data-range 0 inf": "--data-range is 0.0 inf",
    f"{SHAPE} 2 4 4 --data-scale 0": "data_scale is 0.0",
    f"{SHAPE} 2 4 4 --batch-size 0": "batch_size is 0",
    f"{SHAPE} 2 4 4 --seed -1": "seed is -1",
    f"{SHAPE} 2 4 4 --sed 3": "did you mean --seed?",
    "betas.json --prediction epsilon": "invalid choice 'epsilon' for argument '--prediction'",
    "betas.json --snr-gamma -1": "snr_gamma is -1.0: give a finite number above 0",
    "betas.json --weighting-scheme normal": "invalid choice 'normal'",
    "flow.json --logit-std 0": "logit_std is 0.0",
}
FAILS = {
    f"{SHAPE} 99999999999 99999999999": "Out of memory: give a smaller --shape, or lower --batch",
    f"{SHAPE} {'9' * 30}": "Out of memory: give a smaller --shape",
    f"{SHAPE} 2 4 4 --batch-size 99999999999": "Out of memory: give a smaller --shape",
    f"{SHAPE} 2 4 4 --html {'x' * 250}": "xxx: File name too long",
    f"{SHAPE} 2 4 4 --html loss.py/page.html": "loss.py: there is no such folder",
    f"{SHAPE} 2 4 4 --html fifo": "fifo: it is no regular file: name another path",
    f"{SHAPE} 2 4 4 --html nowhere/page.html": "nowhere: there is no such folder",
    f"{SHAPE} 2 4 4 --html folder": "folder: it is a folder: name a file",
    "no.json": "no.json: No such file",
    "unet.json": "unet.json is no scheduler_config.json to read: UNet2DConditionModel is no sched",
    "other.json": "it names no _class_name",
    "list.json": "list.json is no scheduler_config.json",
    "broken.json": "broken.json is no scheduler_config.json to read: Expecting value: line 1",
    "empty.json": "empty.json is no scheduler_config.json",
    "wrong.json betas.json": "wrong.json: beta_start is 'small'",
    "betas.json --prediction flow": "betas.json: DDPMScheduler has no flow",
    "betas.json --weighting-scheme mode": "weighting_scheme and precondition_outputs are for flow",
    "flow.json --snr-gamma 5": "flow.json: snr_gamma is for betas",
    "flow.json --prediction v": "predict flow, x or eps, not v",
}


@pytest.mark.parametrize("words", [*WRONG, *FAILS])
def test_wrong_words_are_one_line(audit: Audit, tmp_path: Path, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loss.py").write_text(GOOD)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link.py").symlink_to("loss.py")
    for name, config in CONFIGS.items():
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / f"{name}.json").write_text(text)
    before = snapshot(tmp_path)
    result = audit(*words.split())
    assert_one_line(result, {**WRONG, **FAILS}[words], statuses=(2 if words in WRONG else 1,))
    assert snapshot(tmp_path) == before
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize("target", ["", " "])
def test_an_empty_target_is_none(audit: Audit, tmp_path: Path, target: str) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CONFIGS["betas"]))
    assert_one_line(audit("edm", target), "A target is empty", statuses=(2,))
    assert_one_line(audit("edm", "--html", ""), "--html names no file", statuses=(2,))


LATER = {
    "no.py:loss": "no.py: No such file",
    "loss.py": "loss.py: name a function, as in loss.py:FUNCTION; it defines loss.",
    "loss.py:lo-ss": "loss.py has no 'lo-ss'; it defines loss.",
    "broken.json": "broken.json is no scheduler_config.json to read",
    "wrong.json": "wrong.json: beta_start is 'small'",
}


@pytest.mark.parametrize("target", LATER)
def test_all_targets_are_looked_at_before_the_first_is_measured(
    audit: Audit, tmp_path: Path, target: str
) -> None:
    (tmp_path / "loss.py").write_text(GOOD)
    (tmp_path / "slow.py").write_text(flow("raise AssertionError('measured')"))
    for name in ("broken", "wrong"):
        config = CONFIGS[name]
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / f"{name}.json").write_text(text)
    result = audit("slow.py:loss", target, *PROBING)
    assert_one_line(result, LATER[target], statuses=(1,))


def test_the_help_shows_how_to_wrap_a_loss(audit: Audit) -> None:
    text = audit("--help").out
    assert text.startswith("usage: elbos audit TARGET... [OPTIONS]\n")
    assert "    def loss(network, x):\n        labels = " in text
    assert not re.search(r"[\\$]|None|\[STR", text)
    assert max(map(len, text.splitlines())) <= 80


# --- results -------------------------------------------------------------------------------------


def content(result: Result) -> Any:
    assert result.status == 0, result.err
    return json.loads(result.out)


PRINTS = "print('a'); print('b', file=sys.stderr); os.system('echo c'); sys.__stdout__.write('d')"


def test_one_target_is_an_object_and_what_it_prints_is_elsewhere(audit: Audit) -> None:
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


def test_several_targets_are_a_list(audit: Audit) -> None:
    Path("scheduler").mkdir()
    Path("scheduler", "scheduler_config.json").write_text(json.dumps(CONFIGS["flow"]))
    results = content(audit("scheduler", ".", "--json"))  # of a scheduler, of a pipeline
    assert [result["title"] for result in results] == ["scheduler", "."]


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_schedulers_have_a_sigma_data(audit: Audit, name: str, prediction: str) -> None:
    config = {"_class_name": name, "sigma_data": 0.7, "prediction_type": prediction}
    Path("edm.json").write_text(json.dumps(config))
    result = content(audit("edm.json", "--json"))
    assert (result["parameterization"], result["sigma_data"]) == ("edm", 0.7)
    assert result["parameterization_factor"] == (1 if prediction == "epsilon" else -1)
    assert "with sigma_data 0.7" in result["verdict"]
    assert "edm, sigma_data 0.7" in audit("edm.json").out


def test_several_targets_are_a_table(audit: Audit) -> None:
    table = audit("edm", "sd3").out
    assert all(word in table for word in ("edm", "sd3", "predicts", "EDM()", "LogitNormalFlow()"))


def called(target: str) -> torch.Tensor:
    """The loss of a network that answers with its input, x being 1."""
    with as_script(target):
        torch.manual_seed(0)
        return load_function(target, ("network", "x"), "audit")(
            lambda z, t: z, torch.ones(3, 2, 4, 4)
        )


def test_two_scripts_with_neighbours_of_one_name_are_two(tmp_path: Path) -> None:
    for folder, weight in (("a b", 1.0), ("c", 2.0)):
        (tmp_path / folder / "lib").mkdir(parents=True)
        (tmp_path / folder / "lib" / "weights.py").write_text(f"weight = {weight}")
        (tmp_path / folder / "train.py").write_text(
            flow("from lib.weights import weight", "return weight * F.mse_loss(network(z, t), u)")
        )
    first, second = (called(f"{tmp_path}/{folder}/train.py:loss") for folder in ("a b", "c"))
    torch.testing.assert_close(2 * first, second)


def test_a_file_of_a_package_may_import_relatively(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    for folder in ("outer", "outer/inner"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "outer" / "weights.py").write_text("weight = 3.0")
    (tmp_path / "outer" / "inner" / "neighbour.py").write_text("from ..weights import weight")
    (tmp_path / "outer" / "inner" / "helper.py").touch()
    (tmp_path / "outer" / "inner" / "loss.py").write_text(
        flow(
            "return weight * F.mse_loss(network(z, t), u)",
            before="from .neighbour import weight\nimport helper, outer.weights",
        )
    )
    assert called(f"{tmp_path}/outer/inner/loss.py:loss").shape == ()


A_CLASS = "class Loss:\n    def __call__(self, net, x): return loss(net, x)\n"
CALLABLES = {
    "an object": f"{A_CLASS}f = Loss()",
    "a method": f"{A_CLASS}f = Loss().__call__",
    "a static method": "class f:\n    @staticmethod\n    def f(net, x): return loss(net, x)",
    "partial": "from functools import partial\nf = partial(lambda k, *xs: k * loss(*xs), 2.0)",
    "lambda": "f = lambda net, x, k=2.0: k * loss(net, x)",
    "more arguments": "def f(*args, **kwargs): return loss(*args)",
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\n"
        "class Loss:\n    k: float = 2.0\n    def __call__(self, net, x): return loss(net, x)\n"
        "f = Loss()"
    ),
    "arguments": (
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--k', type=float, default=2.0)\nargs = parser.parse_args()\n"
        "def f(net, x): return args.k * loss(net, x)"
    ),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_whatever_can_be_called_is_a_function(tmp_path: Path, name: str) -> None:
    source = CALLABLES[name]
    future = "from __future__ import annotations\n" if name == "a dataclass" else ""
    (tmp_path / "loss.py").write_text(f"{future}{GOOD}\n{source}")
    target = f"{tmp_path}/loss.py:{'f.f' if name == 'a static method' else 'f'}"
    assert called(target).shape == ()


def test_a_page_is_written_and_says_how(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "my loss.py").write_text(GOOD)
    result = audit("my loss.py:loss", *PROBING, "--html", "page.html")
    assert result.out.endswith("Written to page.html.\n")
    page = html.unescape((tmp_path / "page.html").read_text())
    assert "elbos audit 'my loss.py:loss' --shape 2 4 4" in page
    assert sorted(tmp_path.iterdir()) == [tmp_path / "my loss.py", tmp_path / "page.html"]


def test_code_finds_the_current_folder_after_all_else(audit: Audit, tmp_path: Path) -> None:
    """What lies in the current folder stands in for no module of Python's own."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secrets.py").write_text("raise RuntimeError")
    before = "import secrets, os, sys\nassert sys.path[-1] == os.getcwd()"
    code = flow("return F.mse_loss(network(z, t), u)", before=before)
    (tmp_path / "elsewhere" / "loss.py").write_text(code)
    assert audit("elsewhere/loss.py:loss", "--shape", "2", "4", "4").status == 0


def test_code_may_change_its_directory(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    wandering = flow(
        "os.chdir('elsewhere' if os.path.exists('elsewhere') else '.')",
        "return F.mse_loss(network(z, t), u)",
        before="import os\nos.chdir('elsewhere')\nos.chdir('..')",
    )
    (tmp_path / "wandering.py").write_text(wandering)
    (tmp_path / "loss.py").write_text(GOOD)
    targets = ("wandering.py:loss", "loss.py:loss")
    results = content(audit(*targets, *PROBING, "--json", "--html", "page.html"))
    assert [result["title"] for result in results] == [*targets]
    assert Path.cwd() == tmp_path
    assert (tmp_path / "page.html").exists()
    (tmp_path / "lost.py").write_text("import os\nos.chdir('elsewhere')\na = 1 / 0")
    assert_one_line(audit("lost.py:loss", *PROBING), "cannot be run: ZeroDivisionError (line 3)")
    assert Path.cwd() == tmp_path


def test_warnings_are_one_line_each(audit: Audit) -> None:
    audit("edm", "--json")
    assert warnings.formatwarning("a\n\tb", UserWarning, "", 0) == "elbos: warning: a b\n"


def in_a_shell(words: str, **environment: str) -> Result:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m elbos.cli audit {words}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "tell"), [("edm sd3", "expected loss"), ("--help", "--snr-gamma")]
)
def test_characters_that_cannot_be_written_are_replaced(words: str, tell: str) -> None:
    result = in_a_shell(words, PYTHONIOENCODING="ascii")
    assert result.status == 0, result
    assert tell in result.out
    assert result.out.isascii() and "?" in result.out


def test_ctrl_c_while_starting_is_one_line() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "elbos.cli", "audit", "edm"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.endswith(" numpy._core\n") or "torch" in line:  # in the midst of imports
                run.send_signal(signal.SIGINT)
                break
        said = [line for line in run.stderr if not line.startswith("import time:")]
        assert run.stdout is not None and run.stdout.read() == ""
    assert run.returncode == 1
    assert said == ["elbos: Interrupted.\n"]


def test_a_full_disk_keeps_the_result(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    result = audit("edm", "--json", "--html", "page.html")
    assert json.loads(result.out)["title"] == "edm"
    assert_one_line(result._replace(out=""), "page.html: No space left", statuses=(1,))
    assert not list(tmp_path.iterdir())


# --- the examples --------------------------------------------------------------------------------

COMMANDS = [
    words
    for path in EXAMPLES
    for words in re.findall(r"^ {4}elbos audit (.+)$", path.read_text(), re.M)
]
FOUND = {
    "diffusers_v_prediction.py:correct": ("v", "min(snr, 5)/(snr + 1)"),
    "diffusers_v_prediction.py:plus_one": ("v", "min(snr, 5)/snr + 1"),
    "diffusers_v_prediction.py:snr_plus_one": ("v", "min(snr + 1, 5)/(snr + 1)"),
    "edm.py:loss": ("edm", "1"),
    "edm.py:denoiser_loss": ("x", "snr + 4"),
    "sd3_flow_matching.py:loss": ("flow", "1"),
    "sd3_flow_matching.py:unshifted": ("flow", "1"),
}


@pytest.mark.parametrize("words", COMMANDS)
def test_the_commands_of_the_examples_tell_what_they_train(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    name = words.split()[0].removeprefix("examples/audit/")
    num = 2000 if name.startswith("edm") else 400
    result = content(audit(*words.split(), "--num-samples", num, "--json"))
    assert (result["parameterization"], result["coefficient_name"]) == FOUND[name]
    if name.startswith("edm"):
        assert result["closest"][0]["name"] == "EDM()"


def test_all_examples_have_commands() -> None:
    assert {words.split()[0].removeprefix("examples/audit/") for words in COMMANDS} == set(FOUND)
