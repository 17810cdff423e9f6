"""`elbos train`: train a preset or the configuration in a file."""

import json
import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from elbos.base.codec import encode
from elbos.base.errors import UsageError, flat, is_out_of_memory, printable
from elbos.base.numbers import count
from elbos.base.user_code import code_path, line_of
from elbos.cli.parse import parse
from elbos.training.config import Config, read_config
from elbos.training.data.given import Given
from elbos.training.loop import train
from elbos.training.network import OwnNetwork
from elbos.training.presets import SUMMARIES, Chosen, default_name, nearest_preset


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model from a preset.

    The same command again resumes. Parts are chosen as types, `weighting:sigmoid --weighting.k 3`;
    everything else is an option. On several processes:
    `PYTHONSAFEPATH=1 torchrun --nproc-per-node 2 -m -- elbos train PRESET`.
    """

    chosen: Annotated[Chosen, tyro.conf.arg(name="")]

    run: Path | None = None
    """The run directory. Default: runs/PRESET, with a digest of the settings if any differs."""

    dry_run: bool = False
    """Print the resolved configuration as JSON, and stop."""

    def __call__(self) -> None:
        _train(self.chosen.config, self.chosen.preset, self.run, self.dry_run)


@dataclass(frozen=True, kw_only=True)
class TrainFile:
    """Train the configuration in a file.

    The same command again resumes. What is not an option here is changed in the file.
    """

    config: Path
    """The output of --dry-run, or a run's config.json."""

    run: Path | None = None
    """The run directory. Default: runs/PRESET with a digest of the settings."""

    network: Annotated[str | None, tyro.conf.arg(name="network.function")] = None
    """FILE.py:FUNCTION of a user-defined network."""

    dry_run: bool = False
    """Print the configuration as JSON, and stop."""

    def __call__(self) -> None:
        config = read_config(self.config)
        if isinstance(config.data, Given):
            raise ValueError(f"{config.data.name} was given to `elbos.fit`: call that again.")
        if self.network is not None:
            config = replace(config, network=OwnNetwork.from_file(self.network))
        elif isinstance(config.network, OwnNetwork):
            raise ValueError(
                f"The network {config.network.name} is not stored: give --network.function "
                "FILE.py:FUNCTION."
            )
        _train(config, nearest_preset(config), self.run, self.dry_run)


def _train(config: Config, preset: str, run: Path | None, is_dry: bool) -> None:
    steps = count(config.num_steps, "steps")
    extent = f"{count(config.num_images, 'images')}, {steps} of {config.batch_size:,}."
    if is_dry:
        print(json.dumps(encode(config), indent=2))  # noqa: T201
        sys.stderr.write(f"{extent}\n")
        return
    path = run or Path("runs") / default_name(config, preset)
    try:
        train(config, path)
    except Exception as error:  # may be the user's network's: name its line
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
        if isinstance(config.network, OwnNetwork):
            name += f" --network.function {shlex.quote(config.network.name)}"
        following = f"`elbos sample {name}`, `elbos evaluate {name}`"
        sys.stderr.write(printable(f"Trained: {extent} Next: {following}.") + "\n")


def command(words: list[str]) -> Train | TrainFile:
    if any(word.partition("=")[0] == "--config" for word in words):
        if not words[0].startswith("-"):
            raise UsageError(f"--config FILE takes the place of a preset: leave out {words[0]}.")
        return parse("train", TrainFile, words, rest="beside --config, change the file.")
    words = ["digits", *words] if words == ["--help"] else words
    chosen = Chosen.from_words(words)
    verb, summary = f"train {chosen.preset}", SUMMARIES[chosen.preset]
    return parse(verb, Train, words[1:], Train(chosen=chosen), summary=summary)
