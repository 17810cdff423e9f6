"""`elbos audit`: kinds of audit targets, and the audit of each kind.

A target is a recipe's name, a function in a Python file, or the configuration of a diffusers
scheduler. A function is the user's code, which is run (`user_code`); configurations are only read.
"""

import json
import math
import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from elbos import audit
from elbos.adapters.diffusers import Training, loss_table, read_config
from elbos.audit.report import terminal, write_page
from elbos.audit.testing import Difference, expected_audit
from elbos.audit.words import as_dict
from elbos.base import files
from elbos.base.checks import require_positive
from elbos.base.errors import UsageError, printable, suggestion
from elbos.base.extras import needs
from elbos.base.progress import progress
from elbos.base.user_code import as_script, code_path, load_function
from elbos.cli.parse import parse
from elbos.theory.recipes import RECIPES

_MAX_ELEMENTS = 2**18  # per batch: about 10 ms of work on two cores
_MIN_WIDTH = 40  # width of the report in characters
_LOSS = (("network", "x"), "audit")  # parameters of the function; verb whose help shows one


@dataclass(frozen=True, kw_only=True)
class Probing:
    """Settings for measuring a loss function on uniformly distributed random data."""

    shape: tuple[int, ...] = ()
    """Shape of one sample, as `3 32 32`. Needed where a function is audited."""

    data_range: tuple[float, float] = (-1.0, 1.0)
    """Smallest and largest value of the data."""

    data_scale: float | None = None
    """The factor by which the function multiplies the data before adding noise. Default:
    detected."""

    device: str = "cpu"
    """Device of the data, for a function with tensors of its own on it."""

    num_samples: int = 20_000
    """Number of samples to draw; at least 100."""

    def __post_init__(self) -> None:
        low, high = self.data_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"--data-range is {low} {high}: give two numbers, the smaller first.")
        if min(self.shape, default=1) < 1:
            raise ValueError(f"--shape is {' '.join(map(str, self.shape))}: give numbers above 0.")
        if self.num_samples < 100:
            raise ValueError(f"--num-samples is {self.num_samples}: give at least 100.")
        if self.data_scale is not None:
            require_positive(data_scale=self.data_scale)

    def data(self) -> torch.Tensor:
        low, high = self.data_range
        num = min(64, max(4, _MAX_ELEMENTS // math.prod(self.shape)))
        generator = torch.Generator().manual_seed(0)
        x = low + (high - low) * torch.rand(num, *self.shape, generator=generator)
        try:
            return x.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {self.device}: {str(error).splitlines()[0]}") from error


def _config(text: str) -> Path:
    """Return a scheduler's configuration, given by itself, by its folder or by a pipeline's."""
    names = ("scheduler_config.json", "scheduler/scheduler_config.json")
    paths = (Path(text, name) for name in names)
    return next((path for path in paths if path.is_file()), Path(text))


def _kind(text: str) -> Literal["recipe", "config", "function"]:
    if text in RECIPES:
        return "recipe"
    if script := re.match(r"(.*?\.py)(\s.*|$)", text):  # may have flags, or spaces in its path
        path, flags = script.groups()
        file = shlex.quote(str(files.regular(Path(path))))
        raise UsageError(
            f"{path}: name a function, as in {file}:FUNCTION; or let the script "
            f"run, and audit its loss meanwhile: elbos record {file}{flags}."
        )
    if code_path(text).suffix == ".py":
        return "function"
    if text.strip() and _config(text).suffix == ".json":
        return "config"
    raise ValueError(
        f"{text or 'An empty word'} is not a FILE.py:FUNCTION, scheduler_config.json, or recipe of "
        f"`elbos weightings`: {suggestion(text, RECIPES)}"
    )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Measure the weighting that a training loss implies.

    The loss is given as code, a diffusers scheduler or a recipe. Several targets are shown side by
    side. For example:

        elbos audit train.py:loss --shape 3 32 32
        elbos audit scheduler_config.json --prediction v --snr-gamma 5
        elbos audit edm sd3 flow

    A function is called as `loss(network, x)`, with random data and a stand-in for the network, and
    returns the loss. Where a script has a method, or a loss that wants labels, wrap it in a file
    beside the script:

        import torch
        from train import Trainer

        def loss(network, x):
            labels = torch.zeros(len(x), dtype=torch.long)
            return Trainer(network).training_step((x, labels))

    A script as it stands is audited while it runs: `elbos record train.py`.
    """

    targets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TARGET...")]
    """FILE.py:FUNCTION; a scheduler_config.json or its folder; or recipes of `elbos weightings`."""

    json: bool = False
    """Print the result as JSON: one object, or a list of several."""

    html: Path | None = None
    """Also write an HTML page to this path."""

    expect: Annotated[str | None, tyro.conf.arg(metavar="RECIPE|FILE.json")] = None
    """Exit with status 1 unless the weighting is that of a recipe, or of a file that --json
    wrote."""

    within: Annotated[str, tyro.conf.arg(metavar="SHARE")] = "2%"
    """Tolerated distance from --expect, as 2% or 0.02, beyond three standard errors."""

    verbose: bool = False
    """Print all facts, and the nearest named weightings of a single target."""

    probing: Annotated[Probing, tyro.conf.arg(name="")] = field(default_factory=Probing)
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)

    def __post_init__(self) -> None:
        kinds = {_kind(text) for text in self.targets}
        if not kinds:
            raise ValueError("Name a target.")
        _share(self.within)
        if self.expect is not None and not self.expect.endswith(".json"):
            expected_audit(self.expect)  # of a recipe
        if "function" in kinds and not self.probing.shape:
            raise ValueError("Give the shape of one sample, as in --shape 3 32 32.")
        if self.probing != Probing() and "function" not in kinds:
            raise ValueError("--shape and the like are for FILE.py:FUNCTION; no target is one.")
        if self.training != Training() and "config" not in kinds:
            raise ValueError(
                "--prediction, --snr-gamma and the like are for a scheduler_config.json; no target "
                "is one."
            )

    def __call__(self) -> None:
        page = self.html and self.html.absolute()  # the code may change the current directory
        if page:
            files.require_writable(page)
        expected = None if self.expect is None else expected_audit(self.expect)
        functions = [text for text in self.targets if _kind(text) == "function"]
        for text in functions:
            files.regular(code_path(text))
        declared = {text: self._declared(text) for text in self.targets if text not in functions}
        audits = [declared.get(text) or self._measured(text) for text in self.targets]
        try:
            if page:
                with needs("report"):
                    write_page(audits, page, command=shlex.join(["elbos", *sys.argv[1:]]))
        finally:  # minutes of work, shown even where it cannot be written
            if self.json:
                contents = [as_dict(result) for result in audits]
                content = contents if len(contents) > 1 else contents[0]
                print(json.dumps(content, indent=2, allow_nan=False))  # noqa: T201
            else:
                width = max(Console().width, _MIN_WIDTH)
                shown = terminal(audits, width, is_verbose=self.verbose)
                Console(width=width).print(shown.rich(), crop=False)
        if self.html and not self.json:
            print(f"Written to {printable(str(self.html))}.")  # noqa: T201
        if expected is None:
            return
        failures = []
        for result in audits:
            difference = Difference(result, expected, _share(self.within))
            if difference.has_other_weighting:
                what = str(difference).replace("\n", "; ")
                failures.append(f"{result.title} is not weighted like {expected.title}: {what}")
        if failures:
            raise ValueError("; ".join(failures))

    def _declared(self, text: str) -> audit.Audit:
        if _kind(text) == "recipe":
            return audit.from_recipe(text)
        config = read_config(_config(text))
        try:
            result = audit.from_table(loss_table(config, self.training))
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error
        return replace(result, title=printable(text))

    def _measured(self, text: str) -> audit.Audit:
        settings, title = self.probing, printable(text)
        x = settings.data()
        with progress() as bar:
            task = bar.add_task(title, total=settings.num_samples, unit="samples", note="")
            with as_script(text):  # the function may import modules when called
                loss_fn = load_function(text, *_LOSS)
                try:
                    return audit.probe(
                        loss_fn,
                        x,
                        num_samples=settings.num_samples,
                        data_scale=settings.data_scale,
                        title=title,
                        advance=lambda num: bar.advance(task, num),
                    )
                except ValueError as error:
                    raise ValueError(f"{text}: {error}") from error


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ValueError(f"--within is {text}: give a share between 0 and 1, as 2% or 0.02.")
    return share


def command(words: list[str]) -> Audit:
    return parse("audit", Audit, words)
