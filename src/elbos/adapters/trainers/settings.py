"""The settings of a trainer: flags of a shell or keys of a file, and which of them were read.

A trainer's adapter reads the settings that change its loss, by name and type. What it never reads
changes nothing, and is named; what is nearly the name of something that it reads is a mistake, and
is refused. Nested keys are dotted, and found by their end: `timestep_type` finds
`config.process.0.train.timestep_type`. A setting without a value, or with null, counts as left out.

Findings that an adapter makes of settings which no weighting shows, with `setting`, its words:

| kind | the setting | a weighting describes the loss |
|---|---|---|
| `declared-not-squared` | Huber, L1, perceptual and the like | no |
| `declared-noise` | noise offset, pyramid noise: noise that is not white or not normal | no |
| `declared-target` | a target of more than data and noise: distillation | no |
| `declared-uneven` | masks, weights per pixel or channel | yes, its mean |
| `declared-perturbed` | input perturbation | yes, without it |
| `declared-term` | a term added to the loss | yes, the loss without it |
| `declared-model` | a `model` that was assumed, for lack of the script's name | yes |
| `declared-resolution` | a shift by resolution, of a `resolution` that was assumed | yes |
| `declared-override` | one that the trainer sets to a `value` of its own for the model | yes |
"""

import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml

from elbos.base import files
from elbos.base.errors import flat, shortened

T = TypeVar("T", bound=str)

_MAX_SETTINGS = 10_000  # references in a YAML file can stand for billions
_SIMILAR = 0.8  # of difflib: two letters swapped, one missing or doubled
_FILES = {".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
_FILES |= {".json": json.loads}
_NULL = ("none", "null")
_OFF = (*_NULL, "", "false", "0", "0.0", "[]")


class Settings:
    """Settings by name, which remember those that were read.

    Args:
        values: Names and values, nested or dotted. Dashes in names count as underscores.

    Raises:
        ValueError: If there are more than 10,000.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = _dotted(values)
        self._read: set[str] = set()
        self._others: set[str] = set()

    def __repr__(self) -> str:
        return f"Settings({self._values!r})"

    def has(self, name: str) -> bool:
        """Return whether a setting is given; it counts as read."""
        return self._get(name) is not None

    def number(
        self,
        name: str,
        default: float,
        *,
        above: float = -math.inf,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """Read a finite number.

        Args:
            name: Its name, or the end of it.
            default: What stands where it is left out.
            above: What it has to be above.
            low: The least that it can be.
            high: The largest that it can be.

        Raises:
            ValueError: If it is none, in one line that names it.
        """
        value = self._get(name)
        if value is None:
            return default
        number = _number(value)
        if not (math.isfinite(number) and above < number and low <= number <= high):
            limits = [f"above {above:g}"] * (above > -math.inf)
            limits += [f"from {low:g}"] * (low > -math.inf) + [f"up to {high:g}"] * (
                high < math.inf
            )
            raise _wrong(name, value, " ".join(["a number", *limits]))
        return number

    def number_or_none(self, name: str, **limits: float) -> float | None:
        """A finite number, as `number`; None where it is left out."""
        return self.number(name, math.nan, **limits) if self.has(name) else None

    def integer(self, name: str, default: int, *, low: int = 0, high: int = 10**9) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(name)
        number = default if value is None else _number(value)
        if not (low <= number <= high and number == int(number)):
            raise _wrong(name, value, f"a whole number from {low} to {high}")
        return int(number)

    def numbers(self, name: str) -> list[float]:
        """Finite numbers, none below 0: a list, or words with commas or spaces between them."""
        words = re.split(r"[\s,;]+", self.text(name).strip("[]() "))
        numbers = [_number(word) for word in words if word]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise _wrong(name, self.text(name), "numbers of 0 or more, as 1,2")
        return numbers

    def flag(self, name: str, default: bool = False) -> bool:
        """Return whether a flag is set: it stands alone, or is true."""
        value = self._get(name)
        if value is None:
            return default
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise _wrong(name, value, "true or false")
        return words[str(value).lower()]

    def one_of(self, name: str, default: T, choices: Sequence[T]) -> T:
        """One of several words; upper and lower case count alike."""
        value = self._get(name)
        if value is None:
            return default
        found = next((one for one in choices if one.lower() == str(value).lower()), None)
        if found is None:
            near = get_close_matches(str(value), choices, n=1)
            raise _wrong(name, value, f"{near[0]}" if near else f"one of {', '.join(choices)}")
        return found

    def text(self, name: str, default: str = "") -> str:
        """The words of a setting."""
        value = self._get(name)
        return default if value is None else str(value)

    def is_on(self, name: str) -> bool:
        """Return whether a setting is given, if only for one data set, and neither false nor 0."""
        return any(str(value).lower() not in _OFF for value in self._all(name))

    def require_default(self, defaults: Mapping[str, float]) -> None:
        """Refuse settings that change the loss in a way that is not computed here.

        Args:
            defaults: Their names, each with the value that leaves the loss as it is; 0 for flags,
                texts and tables.

        Raises:
            ValueError: If one has another value, in one line that names it.
        """
        for name, default in defaults.items():
            neutral = _NULL if default else _OFF
            for value in self._all(name):
                if str(value).lower() not in neutral and _number(value) != default:
                    raise ValueError(
                        f"{name} is {shortened(repr(value))}, which changes the loss in a way that "
                        "is not computed here: leave it out to see the rest."
                    )

    def ignore(self, *names: str) -> None:
        """Name further settings of the trainer, which are no slips though they are not read."""
        self._others |= set(names)

    def unread(self) -> list[str]:
        """The names that were not read.

        Raises:
            ValueError: If one is nearly the name of one that was read.
        """
        unread = [name for name in self._values if not any(_ends(name, a) for a in self._read)]
        left_out = [n for n in self._read if all(value is None for value in self._all(n))]
        known = {name.split(".")[-1]: name for name in left_out}
        for name in unread:
            last = name.split(".")[-1]
            near = get_close_matches(last, known, n=1, cutoff=_SIMILAR)
            if near and last not in self._others:
                raise ValueError(f"There is no setting {name}: did you mean {known[near[0]]}?")
        return unread

    def _all(self, name: str) -> list[Any]:
        """The values of a setting in all tables that have it, and what it holds if it is one."""
        self._read.add(name)
        return [value for key, value in self._values.items() if f".{name}." in f".{key}."]

    def _get(self, name: str) -> Any:
        self._read.add(name)
        found = {key: value for key, value in self._values.items() if _ends(key, name)}
        if len({repr(value) for value in found.values()}) > 1:
            first, second = list(found)[:2]
            raise ValueError(f"{name} is given twice, as {first} and {second}: leave one out.")
        value = next(iter(found.values()), None)
        return None if str(value).lower() in _NULL else value


def read_settings(source: str | Path | Sequence[str]) -> Settings:
    """The settings in a file, or of a command.

    Args:
        source: A path of a TOML, YAML or JSON file, by its suffix; a line of flags, as
            `--snr_gamma 5`, with the words of the command before them or without; or the words of
            such a line. A file that `--config_file` or `--config` names is read, too; flags count
            more. The script's name is the setting `script`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If it is malformed; it names the file.

    Examples:
        >>> settings = read_settings("train_network.py --min_snr_gamma=5 --v_parameterization")
        >>> settings.number("min_snr_gamma", 0), settings.flag("v_parameterization")
        (5.0, True)
    """
    if isinstance(source, Path):
        return Settings(_of_file(source))
    if isinstance(source, str):
        words = _words(source)
        is_command = any(word.startswith("--") or word.endswith(".py") for word in words)
        if not is_command:
            return Settings(_of_file(Path(source)))
        source = words
    flags = _of_words(source)
    names = ["config_file"] + ["config"] * (Path(str(flags.get("config"))).suffix in _FILES)
    path = next((str(flags[name]) for name in names if name in flags), None)
    if path is None:
        return Settings(flags)
    file = Path(path if Path(path).suffix in _FILES else f"{path}.toml")
    del flags["config_file" if "config_file" in flags else "config"]
    kept = {k: v for k, v in _of_file(file).items() if not any(_ends(k, name) for name in flags)}
    return Settings(kept | flags)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line.replace("\\\n", " "))
    except ValueError as error:
        raise ValueError(f"{shortened(line)}: {error}: check the quotes.") from error


def _of_words(words: Sequence[str]) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("-") and math.isnan(_number(word)):
            name, has_value, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            flags[name] = value if has_value else True
        elif word.endswith(".py"):
            flags.pop("config_file", None)  # before the script it is its launcher's
            flags["script"] = Path(word).stem
        elif name:
            given = flags[name]
            flags[name] = word if given is True else f"{given} {word}"
    return flags


def _of_file(path: Path) -> dict[str, Any]:
    if path.suffix not in _FILES:
        raise ValueError(
            f"{shortened(path.name)} is no file of settings: give a .toml, .yaml or .json file, or "
            "flags, as --snr_gamma 5."
        )
    try:
        content = _FILES[path.suffix](files.read(path).decode("utf-8-sig"))
        return _dotted(_table({} if content is None else content))  # an empty YAML
    except (ValueError, yaml.YAMLError) as error:  # TOML's, JSON's and the encoding's, too
        raise ValueError(f"{path} is no {path.suffix[1:]} to read: {flat(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be a file of settings.") from error


def _table(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"it is no table of settings, but of type {type(content).__name__}")
    return content


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    dotted = dict(islice(_flattened(values, ""), _MAX_SETTINGS + 1))
    if len(dotted) > _MAX_SETTINGS:
        raise ValueError(f"there are more than {_MAX_SETTINGS} settings.")
    return dotted


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of what is nested."""
    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = iter(enumerate(value))
    if items is None:
        yield name, value
        return
    for key, item in items:
        part = str(key).lstrip("-").replace("-", "_")
        yield from _flattened(item, f"{name}.{part}" if name else part)


def _ends(key: str, name: str) -> bool:
    return f".{key}".endswith(f".{name}")


def _number(value: Any) -> float:
    """The number that a value is; NaN if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{name} is {shortened(repr(value))}: give {wanted}.")
