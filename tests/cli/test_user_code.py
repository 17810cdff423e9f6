"""Files of the user: what is no function is one line; what is one is run as a script is."""

import os
import shlex
import socket
from pathlib import Path

import pytest
import torch
from commands import GOOD, LINE, PROBING, Elbos, assert_one_line, flow, snapshot

from elbos.base.user_code import as_script, load_function

NO_FUNCTION = {
    "number": ("loss = 3", "loss.py:loss is no function, but of type int"),
    "class": ("class loss:\n    def __init__(self, a, b): ...", "of type type: wrap it"),
    "missing": (
        "import torch\ndef lose(a, b): ...\nclass A: ...",
        "no 'loss'; it defines lose, A",
    ),
    "three arguments": ("def loss(network, x, labels): ...", "takes (network, x, labels): wrap it"),
    "raises": ("a = 1\nb = a / 0", "loss.py cannot be run: ZeroDivisionError (line 2): division"),
    "syntax": ("\ndef loss(:", "SyntaxError: invalid syntax (loss.py, line 2)"),
    "exit": ("import sys\nsys.exit(3)", "exits when it is run (3): keep what trains"),
    "interrupted": ("raise KeyboardInterrupt", "Interrupted while loss.py was run: keep what"),
}


def bad(line: str, *needed: str, before: str = "") -> tuple[str, tuple[str, ...]]:
    return flow(line, before=before), needed


def raising(line: str, *needed: str) -> tuple[str, tuple[str, ...]]:
    return bad(line, f"(loss.py, line {LINE})", *needed)


BAD_LOSSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "raises": raising("raise OSError('no\\nnews')", "raised OSError", "no news"),
    "CUDA": raising("return network(z.to('cuda')).mean()", "no cuda device: compute on"),
    "not finite": bad("return F.mse_loss(network(z, t), u) * torch.nan", "The loss is not finite"),
    "dict": bad("return {'mse': F.mse_loss(network(z, t), u)}", "dict of mse", "under 'loss'"),
    "detached": bad("return F.mse_loss(network(z, t).detach(), u)", "it is detached"),
    "no network": bad("return z.square().mean()", "never calls the network"),
    "one level": bad(
        "return F.mse_loss(network(0.6 * x + 0.8 * eps, t), eps)", "draws a single noise level"
    ),
    "no noise": bad("return F.mse_loss(network(x, t), x)", "is given the clean data"),
    "exit": bad("import sys; sys.exit(3)", "loss.py:loss exits when it is called (3)"),
    "interrupted": bad("raise KeyboardInterrupt", "Interrupted."),
}


@pytest.mark.parametrize("name", NO_FUNCTION)
def test_a_file_without_a_loss_is_one_line(audit: Elbos, tmp_path: Path, name: str) -> None:
    source, needed = NO_FUNCTION[name]
    assert_refused(audit, tmp_path, source, needed)


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_a_loss_that_cannot_be_measured_is_one_line(
    audit: Elbos, tmp_path: Path, name: str
) -> None:
    source, needed = BAD_LOSSES[name]
    assert_refused(audit, tmp_path, source, *needed)


def test_a_file_without_a_function_is_not_run(audit: Elbos, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"open('ran', 'w')\n{GOOD}")
    assert_one_line(audit("train.py"), "train.py:FUNCTION", statuses=(2,))
    assert not (tmp_path / "ran").exists()


def test_an_audit_opens_no_connection_and_builds_no_network(
    audit: Elbos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: done.append("connected"))
    for layer in (torch.nn.Linear, torch.nn.Conv2d):
        monkeypatch.setattr(layer, "reset_parameters", lambda _: done.append("built"))
    (tmp_path / "loss.py").write_text(GOOD)
    assert audit("loss.py:loss", *PROBING).status == 0
    assert done == []


def assert_refused(audit: Elbos, folder: Path, source: str, *needed: str) -> None:
    (folder / "loss.py").write_bytes(source.encode("latin-1"))
    (folder / "page.html").write_text("untouched")
    before = snapshot(folder)
    result = audit("loss.py:loss", *PROBING, "--json", "--html", "page.html")
    assert_one_line(result, *needed, statuses=(1,))
    assert snapshot(folder) == before


def test_files_that_cannot_be_read_are_one_line(audit: Elbos, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "secret.py").touch(mode=0o000)
    assert_one_line(audit("no.py:loss", *PROBING), "no.py: No such file", statuses=(1,))
    assert_one_line(audit("folder.py:loss", *PROBING), "folder.py: it is a folder", statuses=(1,))
    is_root = os.geteuid() == 0
    try:
        os.seteuid(65534) if is_root else None
        result = audit("secret.py:loss", *PROBING)
    finally:
        os.seteuid(0) if is_root else None
    assert_one_line(result, "secret.py: Permission denied: change its perm", statuses=(1,))


def called(target: str) -> torch.Tensor:
    """The loss of a network that answers with its input, x being 1."""
    with as_script(target):
        torch.manual_seed(0)
        return load_function(target, ("network", "x"), "audit")(
            lambda z, t: z, torch.ones(3, 2, 4, 4)
        )


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
    "partial": "from functools import partial\nf = partial(lambda k, *xs: k * loss(*xs), 2.0)",
    "arguments": (
        "import argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--k', type=float, default=2.0)\nargs = parser.parse_args()\n"
        "def f(net, x): return args.k * loss(net, x)"
    ),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_whatever_can_be_called_is_a_function(tmp_path: Path, name: str) -> None:
    (tmp_path / "loss.py").write_text(f"{GOOD}\n{CALLABLES[name]}")
    assert called(f"{tmp_path}/loss.py:f").shape == ()


def test_code_finds_the_current_folder_after_all_else(audit: Elbos, tmp_path: Path) -> None:
    """What lies in the current folder stands in for no module of Python's own."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "secrets.py").write_text("raise RuntimeError")
    before = "import secrets, os, sys\nassert sys.path[-1] == os.getcwd()"
    code = flow("return F.mse_loss(network(z, t), u)", before=before)
    (tmp_path / "elsewhere" / "loss.py").write_text(code)
    assert audit("elsewhere/loss.py:loss", "--shape", "2", "4", "4").status == 0


NETWORK = """
from torch import nn
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 8)
    def forward(self, z, logsnr, label):
        return self.linear(z)
def own(shape, num_classes):
    return Own()
"""


def test_a_network_that_fails_is_named_with_its_line(elbos: Elbos, folder: Path) -> None:
    (folder / "net.py").write_text(NETWORK)
    result = elbos("train", "digits", "network:own", "--network.function", "net.py:own")
    assert result.status == 1
    assert "shapes cannot be multiplied" in result.err
    assert result.err.endswith(" (net.py, line 8).\n")


def test_a_trained_network_is_sampled_by_the_command_that_is_printed(
    elbos: Elbos, folder: Path
) -> None:
    (folder / "net.py").write_text(NETWORK.replace("Linear(3, 8)", "Linear(8, 8)"))
    result = elbos(
        *("train", "digits", "network:own", "--network.function", "net.py:own", "--run", "a run"),
        *("--num-images", "64", "--batch-size", "64"),
    )
    assert result.status == 0, result.err
    sample = shlex.split(result.err.split("`")[1])
    assert elbos(*sample[1:], "--num", "2", "--num-steps", "2").status == 0
