"""`elbos audit`: kinds of audit targets, and the audit of each kind.

A target is a recipe's name, a function in a Python file, a training script, the configuration of a
diffusers scheduler, or the settings of a trainer, `TRAINER:FILE` or `TRAINER:--flags`. A function
is code of the user's own, which is run (`user_code`); of a script, only the lines that make up its
loss are (`audit.script`); configurations and settings are only read.
"""

import contextlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console

from elbos import audit
from elbos.adapters.diffusers import Training, loss_table, read_config
from elbos.adapters.scripts import RefusedArgumentsError, from_script, is_training_script
from elbos.adapters.trainers import TRAINERS, read_settings
from elbos.audit.terminal import Terminal
from elbos.audit.testing import Difference, expected_audit
from elbos.audit.words import as_dict
from elbos.base import files
from elbos.base.checks import require_positive
from elbos.base.errors import UsageError, printable, suggestion
from elbos.base.numbers import fixed
from elbos.base.pages import shown_by
from elbos.base.progress import progress
from elbos.base.user_code import as_script, code_path, is_code, load_function, require_target
from elbos.cli.parse import parse
from elbos.theory.recipes import RECIPES

_MAX_ELEMENTS = 2**18  # per batch: about 10 ms of work on two cores
_MIN_WIDTH = 40  # width of the report in characters
_LOSS = (("network", "x"), "audit")  # parameters of the function; verb whose help shows one
_LATENTS = ((4, 16, 16), (4, 1, 16, 16), (256, 4))  # tried on scripts: images, videos, tokens
_MAX_SAMPLES = 10_000_000  # an hour or more; errors below 0.1 %


@dataclass(frozen=True, kw_only=True)
class Probing:
    """Settings for measuring a loss function on random data.

    The data are uniformly distributed.
    """

    shape: tuple[int, ...] = ()
    """Shape of one sample, as `3 32 32`. Needed where a function is audited. Scripts: 4 16 16,
    or as videos or tokens, 4 1 16 16 or 256 4, if they take only those."""

    data_range: tuple[float, float] = (-1.0, 1.0)
    """Smallest and largest value of the data."""

    data_scale: float | None = None
    """The factor by which the function multiplies the data before adding noise. Default:
    detected."""

    batch_size: int | None = None
    """Samples per call of the function. Default: 64, fewer for large shapes."""

    device: str = "cpu"
    """Device of the data."""

    num_samples: int = 20_000
    """Number of samples to draw; at least 100."""

    seed: int = 0
    """Seed of the random numbers that the function draws."""

    def __post_init__(self) -> None:
        low, high = self.data_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"--data-range is {low} {high}: give two numbers, the smaller first.")
        if min(self.shape, default=1) < 1:
            raise ValueError(f"--shape is {' '.join(map(str, self.shape))}: give numbers above 0.")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}: give a number from 0 to 2**31 - 1.")
        if not 100 <= self.num_samples <= _MAX_SAMPLES:
            raise ValueError(
                f"--num-samples is {self.num_samples}: give at least 100, at most {_MAX_SAMPLES:,}."
            )
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"--device {self.device}: {str(error).splitlines()[0]}") from error
        for name in ("batch_size", "data_scale"):
            if getattr(self, name) is not None:
                require_positive(**{name: getattr(self, name)})

    def data(self) -> torch.Tensor:
        low, high = self.data_range
        num = self.batch_size or min(64, max(4, _MAX_ELEMENTS // math.prod(self.shape)))
        generator = torch.Generator().manual_seed(0)
        try:
            x = low + (high - low) * torch.rand(num, *self.shape, generator=generator)
        except (RuntimeError, OverflowError, TypeError) as error:  # depends on how much too large
            raise MemoryError from error
        try:
            return x.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {self.device}: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class _Target:
    text: str
    kind: Literal["recipe", "settings", "config", "script", "function"]
    files: tuple[Path, ...] = ()
    words: tuple[str, ...] = ()  # a script and its arguments, or a trainer and its settings' source

    @property
    def is_run(self) -> bool:
        return self.kind in ("script", "function")

    @classmethod
    def parse(cls, text: str) -> "_Target":
        if not text.strip():
            raise ValueError("A target is empty: check the quotes, and variables of your shell.")
        name, _, source = text.partition(":")
        if text.rstrip(": ") in TRAINERS:
            name = text.rstrip(": ")
            raise ValueError(
                f"{name} is a trainer: name a file of its settings, as {name}:config.toml, or give "
                f'flags, as "{name}:--min_snr_gamma 5".'
            )
        if text in RECIPES:
            return cls(text, "recipe")
        if name in TRAINERS:
            named = tuple(map(Path, re.split(r"[\s=]+", source)))  # a file, or flags that name one
            return cls(text, "settings", named, (name, source))
        words = [text]
        if not os.path.exists(text):  # noqa: PTH110, a Path may raise where a folder is unreadable
            with contextlib.suppress(ValueError):  # quotes that do not match
                words = shlex.split(text)
        is_python = bool(words) and words[0].endswith(".py")
        if is_python and (len(words) > 1 or is_training_script(Path(text))):
            return cls(text, "script", (Path(words[0]),), tuple(words))
        if is_code(text):
            return cls(text, "function", (code_path(text),))
        names = ("scheduler_config.json", "scheduler/scheduler_config.json")
        configs = [Path(text)] if text.endswith(".json") else [Path(text, name) for name in names]
        for config in configs:
            if text.endswith(".json") or config.is_file():
                return cls(text, "config", (config,))
        if Path(text).is_dir():
            raise ValueError(f"{text} is a folder without a scheduler_config.json.")
        nearest = suggestion(name, [*RECIPES, *TRAINERS])
        raise ValueError(
            f"{text} is not a FILE.py:FUNCTION, training script, scheduler_config.json, recipe of "
            f"`elbos weightings`, or trainer's settings: {nearest}"
        )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Measure the weighting that a training loss implies.

    The loss is given as code, a trainer's settings or a recipe. Several targets are shown side by
    side. For example:

        elbos audit train.py:loss --shape 3 32 32
        elbos audit "train_text_to_image.py --snr_gamma 5"
        elbos audit scheduler_config.json --prediction v --snr-gamma 5
        elbos audit "kohya:--min_snr_gamma 5 --v_parameterization"
        elbos audit edm sd3 flow

    A function is called as `loss(network, x)`, with random data and a stand-in for the network, and
    returns the loss. Where a script has a method, or a loss that wants labels, wrap it in a file
    beside the script:

        import torch
        from train import Trainer

        def loss(network, x):
            labels = torch.zeros(len(x), dtype=torch.long)
            return Trainer(network).training_step((x, labels))
    """

    targets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TARGET...")]
    """FILE.py:FUNCTION; a training script like those of diffusers (in quotes with its arguments;
    for other scripts, record some steps with elbos.audit.record); a scheduler_config.json or its
    folder; recipes of `elbos weightings`; or a trainer's settings: TRAINER:FILE (TOML, YAML or
    JSON) or "TRAINER:--flags"."""

    json: bool = False
    """Print the result as JSON: one object, or a list of several."""

    html: Path | None = None
    """Also write an HTML page to this path."""

    expect: Annotated[str | None, tyro.conf.arg(metavar="RECIPE|FILE.json")] = None
    """Exit with status 1 unless the weighting is that of a recipe, or of a file that --json
    wrote."""

    within: Annotated[str, tyro.conf.arg(metavar="SHARE")] = "2%"
    """Tolerated distance from --expect, as 2% or 0.02, beyond three standard errors."""

    fail_on: Annotated[str, tyro.conf.arg(metavar="rise,diagnostic")] = ""
    """Exit with status 1 if the weighting increases with log-SNR ("rise"), or if the loss has a
    diagnostic ("diagnostic"); both, separated by a comma."""

    markdown: bool = False
    """Print the difference from --expect as a Markdown table, for a comment on a change."""

    probing: Annotated[Probing, tyro.conf.arg(name="")] = field(default_factory=Probing)
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError(
                "Name a target: FILE.py:FUNCTION, a training script, a scheduler_config.json, a "
                "recipe, or a trainer's settings."
            )
        targets = [_Target.parse(text) for text in self.targets]
        for target in targets:
            if self.html and self.html.resolve() in [file.resolve() for file in target.files]:
                raise ValueError(f"--html {self.html} would overwrite {target.text}: rename it.")
        self._require_expectations()
        functions = [target for target in targets if target.kind == "function"]
        if functions and not self.probing.shape:
            for target in functions:
                with as_script(target.text):  # reports a misspelt name first
                    load_function(target.text, *_LOSS)
            raise ValueError("Give the shape of one sample, as in --shape 3 32 32.")
        if self.probing != Probing() and not any(target.is_run for target in targets):
            raise ValueError(
                "--shape, --num-samples and the like are for FILE.py:FUNCTION; no target is one."
            )
        if self.training != Training() and all(target.kind != "config" for target in targets):
            raise ValueError(
                "--prediction, --snr-gamma, --weighting-scheme and the like are for a "
                "scheduler_config.json; no target is one."
            )

    def _require_expectations(self) -> None:
        _share(self.within)
        for name in filter(None, self.fail_on.split(",")):
            if name not in _FAILURES:
                raise ValueError(f"--fail-on {name}: {suggestion(name, _FAILURES)}")
        if self.markdown and (self.expect is None or self.json):
            raise ValueError("--markdown is for --expect, without --json: name what to expect.")

    def __call__(self) -> None:
        page = self.html and self.html.absolute()  # the code may change the current directory
        if page:
            files.require_writable(page)
        expected = None if self.expect is None else expected_audit(self.expect)
        targets = [_Target.parse(text) for text in self.targets]
        for target in targets:
            if target.kind == "function":
                require_target(target.text, *_LOSS)
        declared = {one.text: self._declared(one) for one in targets if not one.is_run}
        audits = [declared.get(one.text) or self._measured(one) for one in targets]
        try:
            if page:
                shown_by(audits[0]).write_page(
                    audits, page, command=shlex.join(["elbos", *sys.argv[1:]])
                )
        finally:  # minutes of work, shown even where it cannot be written
            if not self.markdown:
                self._show(audits)
        if self.html and not self.json:
            print(f"Written to {printable(str(self.html))}.")  # noqa: T201
        self._check(audits, expected)

    def _check(self, audits: list[audit.Audit], expected: audit.Audit | None) -> None:
        failures = []
        for found in audits:
            if expected is not None:
                difference = Difference.between(found, expected, _share(self.within))
                if self.markdown:
                    print(difference.to_markdown())  # noqa: T201
                if difference.has_other_weighting:
                    what = str(difference).replace("\n", "; ")
                    failures.append(f"{found.title} is not weighted like {expected.title}: {what}")
            named = [_FAILURES[name](found) for name in filter(None, self.fail_on.split(","))]
            failures += [f"{found.title}: {why}" for why in named if why]
        if failures:
            raise ValueError("; ".join(failures))

    def _show(self, audits: list[audit.Audit]) -> None:
        if self.json:
            contents = [as_dict(result) for result in audits]
            content = contents if len(contents) > 1 else contents[0]
            print(json.dumps(content, indent=2, allow_nan=False))  # noqa: T201
            return
        width = max(Console().width, _MIN_WIDTH)
        Console(width=width).print(Terminal(audits), crop=False)

    def _declared(self, target: _Target) -> audit.Audit:
        text, title = target.text, printable(target.text)
        if target.kind == "recipe":
            return audit.from_recipe(text)
        if target.kind == "settings":
            name, source = target.words
            with _named(text, UsageError if source.lstrip().startswith("-") else ValueError):
                return replace(TRAINERS[name].audit(read_settings(source)), title=title)
        config = read_config(target.files[0])
        with _named(text):
            return replace(audit.from_table(loss_table(config, self.training)), title=title)

    def _measured(self, target: _Target) -> audit.Audit:
        how, text, title = self.probing, target.text, printable(target.text)
        shapes = [how.shape] if how.shape or target.kind == "function" else _LATENTS
        xs = [replace(how, shape=shape).data() for shape in shapes]
        with progress() as bar:
            task = bar.add_task(title, total=how.num_samples, unit="samples", note="")
            given: dict[str, Any] = {
                "num_samples": how.num_samples,
                "seed": how.seed,
                "data_scale": how.data_scale,
                "title": title,
                "advance": lambda num: bar.advance(task, num),
            }
            if target.kind == "script":
                script, *flags = target.words
                try:
                    return from_script(script, xs, flags, **given)
                except RefusedArgumentsError as error:
                    raise UsageError(str(error)) from error
            with as_script(text):  # the function may import modules when called
                loss_fn = load_function(text, *_LOSS)
                with _named(text):
                    return audit.probe(loss_fn, xs[0], **given)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ValueError(f"--within is {text}: give a share between 0 and 1, as 2% or 0.02.")
    return share


def _rise(found: audit.Audit) -> str:
    intervals = ", ".join(f"{fixed(low, 2)} to {fixed(high, 2)}" for low, high in found.rising)
    return f"w increases at log-SNR {intervals}" if intervals else ""


_FAILURES: dict[str, Callable[[audit.Audit], str]] = {
    "rise": _rise,
    "diagnostic": lambda found: " ".join(one.text for one in found.diagnostics),
}


def command(words: list[str]) -> Audit:
    return parse("audit", Audit, words)


@contextlib.contextmanager
def _named(target: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise kind(f"{target}: {error}") from error
