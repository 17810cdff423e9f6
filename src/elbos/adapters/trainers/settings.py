"""Settings of a trainer, from command-line flags or a file, with a record of which settings were
read.

A trainer's adapter reads the settings that change its loss, by name and type. Settings that the
adapter never reads do not affect the loss, and are reported; an unread name that is close to a
readable one raises an error as a probable mistake. Nested keys are dotted, and found by their end:
`timestep_type` finds `config.process.0.train.timestep_type`, unless there is a key
`timestep_type`. A setting without a value, or with null, counts as missing.

Settings whose effect on the loss no weighting describes give diagnostics, each a type of
`audit.diagnostics.declared`: noise that is not white, masks, errors that are not squared.
"""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from elbos.audit.diagnostics import Diagnostic, SettingDiagnostic
from elbos.base import files
from elbos.base.checks import typed
from elbos.base.errors import flat, shortened

T = TypeVar("T", bound=str)

_NULL = ("none", "null")
_OFF = (*_NULL, "", "false", "no", "[]")


class Settings:
    """Settings of another training program as a mapping from names to values.

    It is recorded which settings were read.

    Args:
        values: Names and values, nested or dotted. Dashes in names count as underscores.

    Attributes:
        diagnostics: Findings of the adapter that reads the settings, beside those of the loss.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.diagnostics: list[Diagnostic] = []
        self._values = dict(_flattened(values, ""))
        self._read = {"script"}

    def has(self, name: str) -> bool:
        """Return whether a setting is given, and mark it as read."""
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
        """Return a setting as a finite number within the limits."""
        value = self._get(name)
        if value is None:
            return default
        number = _number(value)
        if not (math.isfinite(number) and above < number and low <= number <= high):
            limits = {f"above {above:g}": above, f"from {low:g}": low, f"up to {high:g}": high}
            words = [words for words, limit in limits.items() if math.isfinite(limit)]
            raise _wrong(name, value, " ".join(["a number", *words]))
        return number

    def integer(self, name: str, default: int, *, low: int = 0, high: int = 10**9) -> int:
        value = self._get(name)
        number = default if value is None else _number(value)
        if not (low <= number <= high and number == int(number)):
            raise _wrong(name, value, f"a whole number from {low} to {high}")
        return int(number)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a setting as a boolean; a flag without a value is True."""
        value = self._get(name)
        if value is None:
            return default
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise _wrong(name, value, "true or false")
        return words[str(value).lower()]

    def one_of(self, name: str, default: T, choices: Sequence[T]) -> T:
        """Return a setting as one of the choices, whatever its case, dashes and underscores."""
        value = self._get(name)
        if value is None:
            return default
        choice = next((option for option in choices if _plain(option) == _plain(value)), None)
        if choice is None:
            near = _misspelt(str(value), choices)
            raise _wrong(name, value, near or f"one of {', '.join(choices)}")
        return choice

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name)
        return default if value is None else str(value)

    def values(self, name: str) -> list[Any]:
        """Return all values of a trainer setting as they are, those inside of a table included."""
        self._read.add(name)
        return [value for key, value in self._values.items() if f".{name}." in f".{key}."]

    def findings(
        self, kinds: Mapping[type[SettingDiagnostic], Iterable[str]]
    ) -> tuple[Diagnostic, ...]:
        """Return diagnostics for the options of a trainer that are neither false nor 0."""
        return tuple(
            kind(name)
            for kind, names in kinds.items()
            for name in names
            if any(not _is_off(value) for value in self.values(name))
        )

    def require_default(self, defaults: Mapping[str, float]) -> None:
        """Refuse settings that are not at the value (0 for flags, texts and tables) at which the
        loss is unchanged.
        """
        for name, default in defaults.items():
            for value in self.values(name):
                is_neutral = str(value).lower() in _NULL if default else _is_off(value)
                if not is_neutral and _number(value) != default:
                    raise ValueError(
                        f"{name} is {shortened(repr(value))}, which changes the loss in a way that "
                        "is not computed here: leave it out to see the rest."
                    )

    def unread(self) -> list[str]:
        """Return the names of unread settings; refuse one that seems to be misspelt."""
        unread = [name for name in self._values if not any(_ends(name, a) for a in self._read)]
        left_out = [n for n in self._read if all(value is None for value in self.values(n))]
        full_names = {name.split(".")[-1]: name for name in left_out}
        for name in unread:
            if near := _misspelt(name.split(".")[-1], full_names):
                raise ValueError(f"There is no setting {name}: did you mean {full_names[near]}?")
        return unread

    def _get(self, name: str) -> Any:
        self._read.add(name)
        keys = [name] if name in self._values else [k for k in self._values if _ends(k, name)]
        values = {key: self._values[key] for key in keys}
        if len({repr(value) for value in values.values()}) > 1:
            first, second = list(values)[:2]
            raise ValueError(f"{name} is given twice, as {first} and {second}: leave one out.")
        value = next(iter(values.values()), None)
        return None if str(value).lower() in _NULL else value


@typed
def read_settings(source: str | Path | Sequence[str]) -> Settings:
    """Read the settings of a trainer from a file or a command line.

    Args:
        source: Path of a TOML, YAML or JSON file; a line of flags such as `--snr_gamma 5`, with or
            without the command; or the words of such a line. A file named by `--config_file`,
            `--config_path` or `--config`, or after the script, is read too; flags take precedence.
            The script's name is stored as the setting `script`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file or a line is malformed; the error names it.

    Examples:
        >>> settings = read_settings("train_network.py --min_snr_gamma=5 --v_parameterization")
        >>> settings.number("min_snr_gamma", 0), settings.flag("v_parameterization")
        (5.0, True)
    """
    if isinstance(source, str):
        try:
            words = shlex.split(source.replace("\\\n", " "))
        except ValueError as error:
            raise ValueError(f"{shortened(source)}: {error}: check the quotes.") from error
        is_command = any(word.startswith("--") or word.endswith(".py") for word in words)
        source = words if is_command else Path(source)
    if isinstance(source, Path):
        return Settings(_of_file(source))
    flags: dict[str, Any] = {}
    name = ""
    for word in source:
        if word.startswith("-") and math.isnan(_number(word)):
            name, has_value, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            flags[name] = value if has_value else True
        elif word.endswith(".py"):
            flags.pop("config_file", None)  # flags before the script belong to its launcher
            name, flags["script"] = "", Path(word).stem
        elif name:
            flags[name] = word if flags[name] is True else f"{flags[name]} {word}"
        elif "script" in flags:
            if Path(word).suffix not in files.TEXT_FORMATS:
                raise ValueError(f"{shortened(word)} is of no flag: give flags, as --snr_gamma 5.")
            flags["config_file"] = word
    is_file = Path(str(flags.get("config"))).suffix in files.TEXT_FORMATS
    names = ("config_file", "config_path", *(["config"] if is_file else []))
    named = next((name for name in names if name in flags), None)
    if named is None:
        return Settings(flags)
    path = str(flags.pop(named))
    content = _of_file(Path(path if Path(path).suffix in files.TEXT_FORMATS else f"{path}.toml"))
    of_file = {k: v for k, v in content.items() if not any(_ends(k, flag) for flag in flags)}
    return Settings(of_file | flags)


def _of_file(path: Path) -> dict[str, Any]:
    if path.suffix not in files.TEXT_FORMATS:
        raise ValueError(
            f"{shortened(path.name)} is not a file of settings: give a .toml, .yaml or .json file, "
            "or flags, as --snr_gamma 5."
        )
    try:
        content = files.read_value(path)
    except ValueError as error:
        raise ValueError(f"{path} is not valid {path.suffix[1:]}: {flat(error)}") from error
    content = {} if content is None else content  # an empty YAML
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}: give a table of settings.")
    return dict(_flattened(content, ""))


def _flattened(value: object, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        part = str(key).lstrip("-").replace("-", "_")
        yield from _flattened(item, f"{name}.{part}" if name else part)


def _ends(key: str, name: str) -> bool:
    return f".{key}".endswith(f".{name}")


def _plain(value: object) -> str:
    return str(value).lower().replace("-", "_")


def _misspelt(word: str, words: Iterable[str]) -> str | None:
    """Return the known word that differs by a letter, or in long words by two."""
    cutoff = max(0.8, 1 - 2.01 / max(len(word), 1))  # difflib's ratio
    near = get_close_matches(word, words, n=1, cutoff=cutoff)
    return near[0] if near else None


def _is_off(value: object) -> bool:
    return str(value).lower() in _OFF or _number(value) == 0


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _wrong(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"{name} is {shortened(repr(value))}: give {wanted}.")
