"""The gallery: a command makes its page."""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_command_makes_the_page(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "index.html"
    monkeypatch.syspath_prepend(ROOT / "docs/gallery")
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(out), "--only", "edm", "flow"])
    runpy.run_path(str(ROOT / "docs/gallery/make.py"), run_name="__main__")
    assert re.findall(r"<tr>\n<td>(.*?)</td>", out.read_text()) == ["edm", "flow"]
    assert str(out) in capsys.readouterr().out
