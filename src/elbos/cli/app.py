"""The command line: `elbos VERB`.

Exit status 0: done. 1: a failure, explained in one line on stderr. 2: wrong usage, likewise. Errors
that a user can cause are Python's own (`ValueError`, `OSError`, ...), raised where they are noticed
with a message that says what to do, and end up here. `ELBOS_DEBUG=1` shows where they came from.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process: modules that are half imported make other errors of it."""

    def stop(*_: object) -> None:
        sys.stderr.write("elbos: Interrupted.\n")
        os._exit(1)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


with _interruptible():  # takes seconds, in which users change their minds
    import tyro
    from accelerate import PartialState
    from rich.console import Console

    from elbos import __version__, files
    from elbos.cli.audit import Audit
    from elbos.cli.compare import Compare
    from elbos.cli.help import short_help
    from elbos.cli.hints import Page, one_line
    from elbos.cli.text import readable
    from elbos.errors import explained, flat
    from elbos.evaluation.draw_samples import Request, draw_samples
    from elbos.evaluation.evaluate import Evaluation, evaluate, samples_picture
    from elbos.evaluation.page import write_evaluation_page
    from elbos.evaluation.tables import (
        evaluation_tables,
        runs_table,
    )
    from elbos.progress import begin, progress, unfailing_stderr
    from elbos.report.weightings import implied_weightings, table
    from elbos.runs.codec import encode
    from elbos.runs.directory import RunDirectory
    from elbos.runs.name import default_name, nearest_preset
    from elbos.tabulated import Tabulated
    from elbos.training.config import Config, read_config
    from elbos.training.presets import PRESETS, Chosen, Preset
    from elbos.training.sampling import Sampling
    from elbos.training.trained import TrainedRun
    from elbos.training.trainer import Diverged, Interrupted, train
    from elbos.weightings import ELBO, Monotone, Shifted

RunPath = Annotated[Path, tyro.conf.Positional]
Unprefixed = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a preset, or --config FILE; the same command again goes on with it.

    Parts are chosen as types, `weighting:sigmoid --weighting.k 3`; everything else is an option.
    On several processes: `torchrun --nproc-per-node 2 -m -- elbos.cli train PRESET`.
    """

    chosen: Annotated[Preset, Unprefixed]

    run: Path | None = None
    """The run directory. Default: runs/PRESET, with a word for all that was changed."""

    config: Path | None = None
    """In place of a preset: a file of what --dry-run printed, or a run's config.json."""

    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""

    def __call__(self) -> None:
        self.train(self.chosen.config)

    def train(self, config: Config) -> None:
        """Train `config`, a change of the preset."""
        if self.dry_run:
            print(json.dumps(encode(config), indent=2))  # noqa: T201
            return
        path = self.run or Path("runs") / default_name(config, self.chosen.preset)
        train(config, path)
        if PartialState().is_main_process:
            sys.stderr.write(f"Trained. Next: `elbos sample {path}`, `elbos evaluate {path}`.\n")


@dataclass(frozen=True, kw_only=True)
class TrainFile(Train):
    """Train what a file says, with options over it."""

    chosen: Annotated[Chosen, Unprefixed]

    weighting: tyro.conf.Suppress[Any] = None
    """The file's, where the command line has no words for its parts, and none for another."""

    @classmethod
    def of(cls, config: Config, words: list[str]) -> "TrainFile":
        """With `config` for the default of everything that `words` leave out."""
        chosen = Chosen(config=config, preset=nearest_preset(config))
        has_words = any(word.startswith("weighting:") for word in words)
        if has_words or not isinstance(config.weighting, Monotone | Shifted | Tabulated):
            return cls(chosen=chosen)
        stand_in = replace(config, weighting=ELBO())
        return cls(chosen=replace(chosen, config=stand_in), weighting=config.weighting)

    def __call__(self) -> None:
        config = self.chosen.config
        if self.weighting is not None:
            config = replace(config, weighting=self.weighting)
        self.train(config)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a trained run, into a PNG grid and an .npz.

    On several processes: `torchrun --nproc-per-node 2 -m -- elbos.cli sample RUN`.
    """

    run: RunPath
    """The run directory."""

    request: Annotated[Request, Unprefixed] = field(default_factory=Request)
    sampling: Annotated[Sampling, Unprefixed] = field(default_factory=Sampling)

    json: bool = False
    """Print the paths as JSON."""

    def __call__(self) -> None:
        run = TrainedRun.load(self.run)
        is_main = PartialState().is_main_process
        with progress(Console(stderr=True, quiet=not is_main)) as bar:
            task = bar.add_task("sampling", total=self.request.num, unit="images", note="")
            picture, archive = draw_samples(
                run, self.sampling, self.request, lambda num: bar.advance(task, num)
            )
        if not is_main:
            return
        paths = {"png": str(picture), "npz": str(archive)}
        print(json.dumps(paths) if self.json else "\n".join(paths.values()))  # noqa: T201


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure likelihood, noise levels and samples of trained runs; writes RUN/eval.json and .html.

    The same command again goes on where it was interrupted. Several runs end in one table; each is
    sampled as it says, or with an option of sampling, all as the first says but for the option.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The run directories."""

    evaluation: Annotated[Evaluation, Unprefixed] = field(default_factory=Evaluation)
    sampling: Annotated[Sampling, Unprefixed] = field(default_factory=Sampling)

    json: bool = False
    """Print the results as JSON."""

    def __call__(self) -> None:
        runs = [TrainedRun.load(path) for path in self.runs]
        _ = [run.dataset for run in runs]  # fails here, if it does, and not after hours
        is_changed = self.sampling != runs[0].config.sampling
        try:
            results = [
                self._measure(run, self.sampling if is_changed else run.config.sampling)
                for run in runs
            ]
        except KeyboardInterrupt:
            raise Interrupted(
                "Stopped: what was measured is kept, and the same command goes on from there."
            ) from None
        if self.json:
            print(json.dumps(results if len(results) > 1 else results[0], indent=2))  # noqa: T201
        elif len(results) > 1:
            Console().print(runs_table(results))

    def _measure(self, run: TrainedRun, sampling: Sampling) -> dict[str, Any]:
        path = run.directory.path
        files.require_writable(path / "eval.json")
        files.require_writable(path / "eval.html")
        with progress() as bar:
            result = evaluate(run, self.evaluation, sampling, partial(begin, bar))
        try:
            files.write(path / "eval.json", json.dumps(result, indent=2).encode())
            picture = samples_picture(run, self.evaluation, sampling)
            command = shlex.join(["elbos", *sys.argv[1:]])
            write_evaluation_page(result, path / "eval.html", samples=picture, command=command)
        finally:  # minutes of work, shown even where it cannot be written
            if not self.json:
                Console().print(*evaluation_tables(result))
        if not self.json:
            print(f"Written to {path / 'eval.json'} and {path / 'eval.html'}.")  # noqa: T201
        return result


@dataclass(frozen=True, kw_only=True)
class Weightings:
    """Print what published recipes weigh: monotone or not, and where the weighting rises."""

    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> None:
        weightings = implied_weightings()
        if self.json:
            print(json.dumps([one.to_dict() for one in weightings], indent=2))  # noqa: T201
        else:
            Console().print(table(weightings).rich())


VERBS = {
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "compare": Compare,
    "audit": Audit,
    "weightings": Weightings,
}
_PARALLEL = ("train", "sample")


class UsageError(Exception):
    """The words of the command are wrong."""


def main() -> None:
    """Run the command that the process was called with, and exit with its status."""
    warnings.formatwarning = lambda message, *_: f"elbos: warning: {flat(message)}\n"
    _open_streams()
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except UsageError as error:
        _fail(error, 2)
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Interrupted, Diverged) as error:  # in all processes; one says it
        if not PartialState().is_main_process:
            sys.exit(1)
        _fail(error, 1)
    except (ValueError, OSError) as error:
        _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):  # torch's, of all devices
            raise
        advice = _LESS_MEMORY.get(sys.argv[1], _LESS)
        _fail(MemoryError(f"Out of memory: {advice}."), 1)
    except KeyboardInterrupt:
        _fail(InterruptedError("Interrupted."), 1)


def _open_streams() -> None:
    """Let output go nowhere where its stream is closed, let no character keep it back, and let
    nothing end because standard error cannot be written.
    """
    for number in range(3):  # or the next file to be opened would be taken for the stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = unfailing_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())  # noqa: T201
    elif words[0] == "--version":
        print(__version__)  # noqa: T201
    elif words[0] not in VERBS:
        raise UsageError(f"There is no verb {words[0]!r}: choose from {', '.join(VERBS)}.")
    else:
        verb, *rest = words
        if verb not in _PARALLEL and _num_processes() > 1:
            if os.environ.get("RANK") == "0":  # the others end well: a launcher would end this one
                raise UsageError(f"`elbos {verb}` runs in one process: start it without torchrun.")
            return
        _parse(verb, rest)()


def _num_processes() -> int:
    """As torchrun and `accelerate launch` tell it; to look costs nothing and joins nothing."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def _usage() -> str:
    lines = (f"  {verb:12}{(cls.__doc__ or '').splitlines()[0]}" for verb, cls in VERBS.items())
    usage = "usage: elbos VERB [OPTIONS]; `elbos VERB -h` has the most used options, --help all"
    return "\n".join([usage, *lines])


def _parse(verb: str, words: list[str]) -> Any:
    """The command that the words stand for; tyro's boxed message becomes one line."""
    if "-h" in words:
        print(short_help(verb))  # noqa: T201
        sys.exit(0)
    command, default, start = VERBS[verb], tyro.MISSING_NONPROP, []
    if verb == "train" and (file := _config_file(words)):
        if words[0].replace("_", "-") in PRESETS:
            raise UsageError(f"{words[0]} and --config: leave one of the two out.")
        command, default = TrainFile, TrainFile.of(read_config(file), words)
        start = ["--config", str(file)]
    if verb in ("sample", "evaluate") and words[:1] != ["--help"]:
        if not words or words[0].startswith("-"):  # the run's options are the others' defaults
            raise UsageError(f"The run directory comes first: elbos {verb} RUN [OPTIONS]")
        path, start = Path(words[0]), words[:1]
        sampling = RunDirectory(path).config().sampling
        default = (
            Sample(run=path, sampling=sampling)
            if verb == "sample"
            else Evaluate(runs=(path,), sampling=sampling)
        )

    def parsed(args: list[str], shown: io.StringIO) -> Any:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            return tyro.cli(
                command,
                prog=f"elbos {verb}",
                args=args,
                default=default,
                config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
            )

    shown, listing = io.StringIO(), io.StringIO()
    try:
        return parsed(words, shown)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except SystemExit as stop:
        if not stop.code:
            print(readable(shown.getvalue()))  # noqa: T201
            raise
    chosen = [word for word in words[:1] if word.replace("_", "-") in PRESETS and not start]
    with contextlib.suppress(SystemExit):
        parsed([*start, *chosen, "--help"], listing)
    page = Page(
        command=shlex.join(["elbos", verb, *start, *chosen]),
        start=shlex.join(["elbos", verb, *start]),
        options=tuple(re.findall(r"^ +(--[\w.-]+)", listing.getvalue(), re.MULTILINE)),
    )
    raise UsageError(one_line(shown.getvalue(), page))


def _config_file(words: list[str]) -> Path | None:
    """What --config names, if it is among the words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    found: dict[str, Path | None] = {}
    with contextlib.suppress(argparse.ArgumentError):  # which the whole parser explains
        found = vars(parser.parse_known_args(words)[0])
    return found.get("config")


_LESS = "lower --batch-size or --num, or use less data"
_LESS_MEMORY = {
    "audit": "give a smaller --shape, or lower --batch-size",
    "evaluate": "lower --num-images or --num-samples",
    "compare": "lower --scoring.num-images or --scoring.num-samples, or --workers",
}


def _fail(error: BaseException, status: int) -> None:
    """Say what went wrong in one line, and exit."""
    if os.environ.get("ELBOS_DEBUG"):
        raise error
    sys.stderr.write(f"elbos: {explained(error)}\n")
    sys.exit(status)
