"""`elbos train`: train a preset or the configuration in a file."""

import argparse
import contextlib
import json
import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from elbos.adapters.diffusers.network import DiffusersConfig
from elbos.base.codec import encode
from elbos.base.errors import UsageError, flat, is_out_of_memory
from elbos.base.user_code import code_path, line_of
from elbos.cli.parse import parse
from elbos.models.networks import UNetConfig
from elbos.runs.fit import train
from elbos.theory import schedules, weightings
from elbos.theory.schedules import Cosine
from elbos.theory.tabulated import Tabulated
from elbos.theory.weightings import ELBO
from elbos.training.config import Config, read_config
from elbos.training.data import Given
from elbos.training.network import OwnNetwork
from elbos.training.presets import (
    PRESETS,
    SUMMARIES,
    Chosen,
    Preset,
    default_name,
    nearest_preset,
)

_STAND_INS: dict[str, Any] = {
    "weighting": ELBO(),
    "schedule": Cosine(),
    "network": UNetConfig(),
}
_WITHOUT_WORDS = {*weightings.WRAPPERS, Tabulated, *schedules.WRAPPERS, DiffusersConfig}


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model from a preset or a configuration file.

    The file is given by --config FILE. The same command again resumes. Parts are chosen as types,
    `weighting:sigmoid --weighting.k 3`; everything else is an option. On several processes:
    `torchrun --nproc-per-node 2 -m -- elbos train PRESET`.
    """

    chosen: Annotated[Chosen, tyro.conf.arg(name="")]

    run: Path | None = None
    """The run directory. Default: runs/PRESET, with a digest of the settings if any differs."""

    config: Path | None = None
    """A file to use instead of a preset: the output of --dry-run, a run's config.json, or the
    same as TOML or YAML."""

    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""

    def __call__(self) -> None:
        self.train(self.chosen.config)

    def train(self, config: Config) -> None:
        if self.dry_run:
            print(json.dumps(encode(config), indent=2))  # noqa: T201
            sys.stderr.write(f"{_extent(config)}\n")
            return
        path = self.run or Path("runs") / default_name(config, self.chosen.preset)
        try:
            train(config, path)
        except Exception as error:  # of the user's network, of any type: name its line
            network = config.network
            file = code_path(network.name).resolve() if isinstance(network, OwnNetwork) else None
            line = file and line_of(error, file)
            if not (file and line) or f"(line {line})" in str(error) or is_out_of_memory(error):
                raise
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            what = f"{kind}{flat(error).rstrip('.')}"
            raise ValueError(f"{what} ({file.name}, line {line}).") from error
        if int(os.environ.get("RANK", "0")) == 0:
            name = shlex.quote(str(path))
            following = f"`elbos sample {name}`, `elbos evaluate {name}`"
            sys.stderr.write(f"Trained: {_extent(config)} Next: {following}.\n")


def _extent(config: Config) -> str:
    return f"{config.num_images:,} images, {config.num_steps:,} steps of {config.batch_size:,}."


@dataclass(frozen=True, kw_only=True)
class TrainAny(Train):
    __doc__ = Train.__doc__

    chosen: Annotated[Preset, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class TrainFile(Train):
    """Train a model from a configuration file.

    Command-line options override the file.
    """

    weighting: tyro.conf.Suppress[Any] = None
    """The file's weighting if the command line cannot express it and gives no other, else None."""

    schedule: tyro.conf.Suppress[Any] = None
    network: tyro.conf.Suppress[Any] = None

    @classmethod
    def from_config(cls, config: Config, words: list[str]) -> "TrainFile":
        if isinstance(config.data, Given):
            raise ValueError(f"{config.data.name} was given to `elbos.fit`: call that again.")
        if isinstance(config.network, OwnNetwork):
            if not any(word.startswith("network:") for word in words):
                raise ValueError(
                    f"The network {config.network.name} is not stored: give network:own "
                    "--network.function FILE.py:FUNCTION."
                )
            config = replace(config, network=UNetConfig())
        chosen = Chosen(config=config, preset=nearest_preset(config))
        parts = {
            name: getattr(config, name)
            for name in _STAND_INS
            if type(getattr(config, name)) in _WITHOUT_WORDS
            and not any(word.startswith(f"{name}:") for word in words)
        }
        stand_in = replace(config, **{name: _STAND_INS[name] for name in parts})
        return cls(chosen=replace(chosen, config=stand_in), **parts)

    def __call__(self) -> None:
        parts = {name: getattr(self, name) for name in _STAND_INS}
        parts = {name: part for name, part in parts.items() if part is not None}
        self.train(replace(self.chosen.config, **parts))


def command(words: list[str]) -> Train:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    file, chosen = None, Chosen.from_words(words)
    with contextlib.suppress(argparse.ArgumentError):  # the full parser reports it
        file = parser.parse_known_args(words)[0].config
    if file is None:
        if words == ["--help"]:  # all options, the same for every preset
            summary = (
                f"Train a preset, which is {', '.join(SUMMARIES)}, or --config FILE; the same "
                "command again resumes. Defaults are those of digits."
            )
            digits = Chosen(config=PRESETS["digits"], preset="digits")
            return parse("train PRESET", Train, words, Train(chosen=digits), summary=summary)
        if chosen is None:
            return parse("train", TrainAny, words)
        verb, summary = f"train {chosen.preset}", SUMMARIES[chosen.preset]
        return parse(verb, Train, words[1:], Train(chosen=chosen), summary=summary)
    if chosen:
        raise UsageError(f"{words[0]} and --config: leave one of the two out.")
    default = TrainFile.from_config(read_config(file), words)
    return parse("train", TrainFile, words, default)
