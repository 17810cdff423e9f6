"""Tutorials as pages and as notebooks: each is a script, docs/tutorials/NAME.py, that is run here.

A paragraph of comments alone is text, as in Jupytext's light format; what is between two of them is
a cell of code. A page has what each cell prints and the figures that it shows.
"""

import contextlib
import io
import itertools
import json
import os
import re
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt


def cells(script: str) -> list[tuple[bool, str]]:
    """Split a script into cells; each says first whether it is text."""
    paragraphs = [
        (all(line.startswith("#") for line in paragraph.splitlines()), paragraph)
        for paragraph in re.split(r"\n{2,}(?!\s)", script.strip())
    ]
    grouped = itertools.groupby(paragraphs, key=lambda paragraph: paragraph[0])
    joined = [(is_text, "\n\n".join(text for _, text in group)) for is_text, group in grouped]
    return [
        (is_text, re.sub(r"^# ?", "", c, flags=re.M) if is_text else c) for is_text, c in joined
    ]


def write_page(script: Path, folder: Path) -> None:
    """Run a script, and write its page, figures and notebook into a folder."""
    page, scope = [], {"__name__": "__main__"}
    parts = cells(script.read_text())
    for number, (is_text, text) in enumerate(parts):
        if is_text:
            page += [text, ""]
            continue
        page += ["```python", text, "```", ""]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, f"{script}, cell {number}", "exec"), scope)
        if out.getvalue():
            page += ["```text", out.getvalue().rstrip(), "```", ""]
        for figure in plt.get_fignums():
            name = f"{script.stem}-{number}-{figure}.svg"
            plt.figure(figure).savefig(folder / name, bbox_inches="tight")
            page += [f"![figure]({name})", ""]
        plt.close("all")
    page += [f"[As a script]({script.name}), [as a notebook]({script.stem}.ipynb)"]
    (folder / f"{script.stem}.md").write_text("\n".join(page))
    (folder / f"{script.stem}.ipynb").write_text(json.dumps(notebook(parts), indent=1))


def notebook(parts: list[tuple[bool, str]]) -> dict[str, object]:
    """Return the notebook of some cells, without results."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [
        {"id": f"cell-{number}", "metadata": {}, "source": text}
        | ({"cell_type": "markdown"} if is_text else _CODE)
        for number, (is_text, text) in enumerate(parts)
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": made}


_CODE = {"cell_type": "code", "execution_count": None, "outputs": []}
