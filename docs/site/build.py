"""`make docs`: the documentation as a site, in site/html; it fails on a broken link or reference.

Pages are those of the repository, at their places: README.md is the home page. What they link to is
copied beside them. Made here are the Python reference, from the public names (tests/project/
test_public_names.py), and the command line's, from `--help` of every verb. Tutorials are run, and
shown with what they print and draw.
"""

import contextlib
import importlib
import inspect
import io
import itertools
import json
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import ziamath
from tutorials import write_page

import elbos
from elbos.cli.app import VERBS, run

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
SOURCE = SITE / "source"
LISTED = runpy.run_path(str(ROOT / "tests/project/test_public_names.py"))["NAMES"]
NAMES = {module: names.split() for module, names in LISTED.items()}
LINK = r'(?:\]\(|(?:src|href)=")([^)"\s#]+)'
PAGES = ("*.md", "docs/**/*.md")
MADE = {  # by `make pages`
    "docs/gallery": "index.html",
    "docs/results/fashion": "report.html",
    "docs/results/digits": "report.html",
}
HELP = (
    *(["train", "digits"], ["sample"], ["evaluate"], ["compare", "digits"], ["audit"], ["record"]),
    *(["weightings"], ["data", "pack"]),
)
FRAMEWORKS = tuple(  # maybe not installed
    f"elbos.adapters.{name}" for name in ("lightning", "torchmetrics", "transformers")
)

CONCEPTS = {
    "Objectives": (
        "A loss is a weighting, a noise schedule and a prediction type.",
        ["elbos.Objective", "elbos.Denoiser", "elbos.theory.denoiser.Guided", "elbos.process"],
    ),
    "Weightings": (
        "What is optimized: weights by log-SNR, and what is known of them.",
        ["elbos.weightings", "elbos.analysis"],
    ),
    "Schedules": (
        "The distribution of noise levels, of which only the variance of the loss depends.",
        ["elbos.schedules", "elbos.adaptive"],
    ),
    "Prediction types": ("The target of the network.", ["elbos.parameterizations"]),
    "Recipes": ("Published objectives by name.", ["elbos.recipes"]),
    "Audit": (
        "The weighting of a loss, measured from its code.",
        ["elbos.audit", "elbos.testing"],
    ),
    "Validation": (
        "The ELBO of any denoiser on held-out data, with its error.",
        ["elbos.validation"],
    ),
    "Adapters": (
        "Models of other projects as denoisers, and callbacks for their trainers.",
        [
            *("elbos.adapters.diffusers", "elbos.adapters.edm", "elbos.adapters.flow"),
            *FRAMEWORKS,
        ],
    ),
    "Samplers": ("From noise to samples.", ["elbos.samplers"]),
    "Likelihood": (
        "Terms of the bound, and the ODE's likelihood.",
        ["elbos.likelihood", "elbos.oracles"],
    ),
    "Networks": ("Networks that come with the library.", ["elbos.networks"]),
    "Runs": (
        "Training, trained runs, their evaluation and export.",
        ["elbos.fit", "elbos.Run", "elbos.evaluation"],
    ),
    "Comparison": (
        "Objectives against each other, paired over seeds.",
        [
            *("elbos.compare", "elbos.comparison.variants.Variant"),
            "elbos.comparison.result.Comparison",
        ],
    ),
}


def main() -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    copy_pages()
    link_names(write_reference())
    write_command_line()
    write_tutorials()
    assets = SOURCE / "assets"
    assets.mkdir()
    shutil.copy(Path(ziamath.__file__).parent / "fonts/STIXTwoMath-Regular.ttf", assets)
    for name in ("style.css", "worker.js"):
        shutil.copy(ROOT / "docs/site" / name, assets)
    entries = [f'    {{ "{title}" = "reference/{slug(title)}.md" }},' for title in CONCEPTS]
    config = (ROOT / "docs/site/zensical.toml").read_text()
    config = config.replace("@REFERENCE@", "\n".join(entries))
    named = re.findall(r'= "(\S+\.md)"', config)
    if missing := [page for page in named if not (SOURCE / page).exists()]:
        sys.exit(f"The navigation names what is not there: {', '.join(missing)}")
    (SITE / "zensical.toml").write_text(config)
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=SITE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "docs/site")},  # of mathml.py
    )
    if built.returncode:
        sys.exit("The site has errors: see above.")
    file = SITE / "html/search.json"
    index = json.loads(file.read_text())
    index["items"] = [one for one in index["items"] if "CHANGELOG" not in one["location"]]
    file.write_text(json.dumps(index))
    # A page of a folder may read scripts only.
    (SITE / "html/search.js").write_text(f"var __index = {json.dumps(index)}")
    print(SITE / "html/index.html")


def copy_pages() -> None:
    """Copy all pages, and the files that they link to."""
    pages = [page for pattern in PAGES for page in ROOT.glob(pattern)]
    linked = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(LINK, page.read_text())
        if "://" not in link
    }
    if missing := sorted(str(file) for file in linked if not file.exists()):
        sys.exit(f"Pages link to what is not there: {', '.join(missing)}")
    folders = {file for file in linked if file.is_dir()}
    listed = {folder: sorted(filter(Path.is_file, folder.iterdir())) for folder in folders}
    for file in {*pages, *linked, *itertools.chain(*listed.values())} - folders:
        place = SOURCE / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    for folder, names in listed.items():
        lines = [f"# {folder.relative_to(ROOT)}", "", *(f"- [{n.name}]({n.name})" for n in names)]
        (SOURCE / folder.relative_to(ROOT) / "README.md").write_text("\n".join(lines))
    for folder, name in MADE.items():
        if (made := ROOT / folder / name).exists():
            shutil.copy(made, SOURCE / folder / "page.html")  # index.html is that of README.md
            with (SOURCE / folder / "README.md").open("a") as page:
                page.write("\n[The page itself](page.html), without this site around it.\n")


def link_names(reference: str) -> None:
    """Link the public names that stand as code in a page's text to their place in the reference."""
    places = {}
    for module, names in NAMES.items():
        for name in names:
            item = getattr(pkgutil.resolve_name(module), name)
            if is_documented(item) and directive(item, 2)[0] in reference:
                path = f"{item.__module__}.{item.__qualname__}"
                full = f"{module}.{name}"
                places |= dict.fromkeys((full, full.removeprefix("elbos.")), path)

    def link(code: re.Match[str]) -> str:
        path = places.get(code[1].partition("(")[0])
        return f"[{code[0]}][{path}]" if path else code[0]

    for page in [SOURCE / "README.md", *(SOURCE / "docs").rglob("*.md")]:
        # Blocks of code, headings and what is a link already stay as they are.
        parts = re.split(
            r"(^```.*?^```|^#.*?$|\[[^\]]*\]\([^)]*\))", page.read_text(), flags=re.S | re.M
        )
        parts[::2] = [re.sub(r"`([^`\n]+)`", link, text) for text in parts[::2]]
        page.write_text("".join(parts))


def write_reference() -> str:
    """Write a page for each concept, with the public names of its modules; return their text."""
    index, text = ["# Python reference", "", "Public names, by concept.", ""], []
    for title, (summary, entries) in CONCEPTS.items():
        page = [f"# {title}", "", summary, *itertools.chain(*map(section, entries))]
        text += page
        (SOURCE / "reference").mkdir(exist_ok=True)
        (SOURCE / f"reference/{slug(title)}.md").write_text("\n".join(page))
        shown = ", ".join(f"`{entry}`" for entry in entries)
        index.append(f"- [{title}]({slug(title)}.md): {summary} {shown}")
    (SOURCE / "reference/README.md").write_text("\n".join(index))
    public = {name: getattr(elbos, name) for name in elbos.__all__}
    objects = {name: one for name, one in public.items() if is_documented(one)}
    missing = [name for name, one in objects.items() if directive(one, 2)[0] not in text]
    if missing:
        sys.exit(f"No page of the reference has {', '.join(missing)}: add them to CONCEPTS.")
    return "\n".join(text)


def section(entry: str) -> list[str]:
    """Return the directives that document a public object, or a module with its public names."""
    if entry in FRAMEWORKS:
        return [f"::: {entry}", ""]
    owner, name = entry.rsplit(".", 1)
    value = getattr(importlib.import_module(owner), name, None)
    if value is None or inspect.ismodule(value):
        module = value or importlib.import_module(entry)
        listed = getattr(module, "__all__", None) or NAMES.get(entry) or vars(module)
        options = "    options:\n      members: false\n      show_root_toc_entry: false\n"
        options += "      show_root_heading: false"
        lines = ["", f"## `{entry}`", "", f"::: {module.__name__}", options, ""]
        own = [getattr(module, n) for n in listed if not n.startswith("_")]
        for item in own:
            if is_documented(item) and (
                hasattr(module, "__all__") or item.__module__.startswith(module.__name__)
            ):
                lines += directive(item, 3)
        return lines
    heading = f"      heading: {entry}\n      toc_label: {name}"
    return ["", *directive(value, 2)[:-1], heading, ""]


def is_documented(item: object) -> bool:
    is_code = inspect.isclass(item) or inspect.isfunction(item)
    return is_code and item.__module__.startswith("elbos") and bool(item.__doc__)


def directive(item: object, level: int) -> list[str]:
    path = f"{item.__module__}.{item.__qualname__}"
    return [f"::: {path}", f"    options:\n      heading_level: {level}", ""]


def write_command_line() -> None:
    """Write a page for each verb, with its whole help."""
    os.environ |= {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
    assert {words[0] for words in HELP} == set(VERBS)
    index = ["# Command line", "", "```text", printed(run, []), "```", ""]
    for words in HELP:
        title, name = f"elbos {' '.join(words)}", f"cli-{slug(' '.join(words[:2]))}.md"
        text = ["```text", printed(run, [*words, "--help"]), "```", ""]
        (SOURCE / "reference" / name).write_text("\n".join([f"# {title}", "", *text]))
        index.append(f"- [{title}]({name})")
    (SOURCE / "reference/cli.md").write_text("\n".join(index))


def write_tutorials() -> None:
    """Run the tutorials, and write their pages and notebooks."""
    folder = SOURCE / "docs/tutorials"
    for script in sorted((ROOT / "docs/tutorials").glob("*.py")):
        write_page(script, folder)
    index = folder / "README.md"
    index.write_text(index.read_text().replace(".py)", ".md)"))


def printed(function: object, *arguments: object) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        function(*arguments)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    main()
