"""Completion in a shell: what bash offers after words, from the script that is printed."""

import shutil
import subprocess
from pathlib import Path

import pytest
from commands import Elbos

from elbos.cli.app import VERBS
from elbos.cli.completion import SHELLS

ASK = """
source ./script; line="$1"; COMP_LINE=$line; COMP_POINT=${#line}
read -ra COMP_WORDS <<< "$line"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _elbos
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("elbos ev", ["evaluate"]),
        ("elbos train dig", ["digits"]),
        ("elbos train digits --num", ["--num-images"]),
        ("elbos train digits weighting:s", ["sigmoid"]),  # bash splits words at colons
        ("elbos audit --sn", ["--snr-gamma"]),
    ],
)
def test_bash_offers_what_may_follow(
    line: str, offered: list[str], elbos: Elbos, tmp_path: Path
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    (tmp_path / "script").write_text(elbos("--print-completion", "bash").out)
    command = [bash, "-c", ASK, "bash", line]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_every_verb(shell: str, elbos: Elbos) -> None:
    script = elbos("--print-completion", shell).out
    assert all(verb in script for verb in VERBS)


def test_another_shell_is_refused(elbos: Elbos) -> None:
    result = elbos("--print-completion", "fish")
    assert result.status == 2
    assert all(shell in result.err for shell in SHELLS)
