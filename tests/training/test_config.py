"""Configurations: JSON there and back, and nothing in them that would fail later."""

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from tables import PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS
from tiny import DIGITS

from elbos.base.codec import decode, encode
from elbos.models.networks import MLPConfig
from elbos.models.samplers import DDIM, SAMPLERS, Ancestral, Heun, StochasticDPMSolver, UniPC
from elbos.theory import schedules, weightings
from elbos.theory.tabulated import Tabulated
from elbos.training.config import Averaging, Config, Execution, Optimizer, Output, read_config
from elbos.training.data import Fashion, Folder, Hub, Latents, Packed, Tar, Toy
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling

TABLE = Tabulated.from_function(weightings.Sigmoid())
CHANGED = [
    Ancestral(variance=0.5),
    DDIM(eta=0.2),
    Heun(churn=40.0, churn_max=50.0),
    StochasticDPMSolver(eta=0.5),
    UniPC(order=2),
]
GRIDS = [schedules.EDMSampling(), schedules.Cosine(), schedules.Flow(), schedules.Linear()]
DATA = [
    Toy(kind="pair"),
    Fashion(),
    Fashion(root=Path("a/b")),
    Folder(root=Path("a"), skip_bad=True),
    Folder(root=Path("a"), flip=True),
    Packed(path=Path("a")),
    Packed(path=Path("a"), crop=48),
    Latents(path=Path("a")),
    Tar(path=Path("a/*.tar"), flip=True),
    Hub(path="owner/name", label=None),
]
WRAPPED = [
    weightings.Monotone(weightings.Shifted(weightings.EDM2(), -0.3)),
    weightings.Shifted(weightings.Monotone(weightings.P2(gamma=0.5)), 0.3),
    weightings.Monotone(Tabulated(name="mine", weights=(0.5, 1.0, 0.25))),
]
CONFIGS = [
    *PRESETS.values(),
    *(
        replace(DIGITS, weighting=weighting)
        for weighting in [*WEIGHTINGS, *WRAPPED]
        if not isinstance(weighting, Tabulated)
    ),  # a large one: a small one is wrapped
    *(replace(DIGITS, schedule=schedule) for schedule in SCHEDULES),
    *(replace(DIGITS, parameterization=prediction) for prediction in PARAMETERIZATIONS),
    *(
        replace(DIGITS, sampling=Sampling(sampler=sampler))
        for sampler in [*(cls() for cls in SAMPLERS), *CHANGED]
    ),
    *(replace(DIGITS, sampling=Sampling(grid=grid)) for grid in GRIDS),
    *(replace(DIGITS, data=data) for data in DATA),
    replace(DIGITS, network=MLPConfig(num_blocks=1), precision="fp32"),
    replace(DIGITS, sampling=Sampling(guidance=1.5)),
    replace(DIGITS, averaging=Averaging(relative_width=0.1)),
]

Keys = tuple[str | int, ...]


def leaves(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every number and word in an encoded configuration, and the way to it."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        yield path, value
    for name, child in children:
        yield from leaves(child, (*path, name))


def changed(encoded: Any, path: Keys, value: Any) -> Any:
    encoded = copy.deepcopy(encoded)
    inner = encoded
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return encoded


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_json_there_and_back_is_the_same_configuration(config: Config) -> None:
    text = json.dumps(encode(config), allow_nan=False)
    assert decode(Config, json.loads(text)) == config


def test_all_but_output_and_execution_is_in_the_identity() -> None:
    rarer = replace(DIGITS, output=Output(save_every=7), execution=Execution(shard_size=2))
    wider = replace(DIGITS, averaging=Averaging(relative_width=0.1))
    assert rarer.identity() == DIGITS.identity() != wider.identity()


def test_no_number_may_be_nan_or_infinite_but_by_default() -> None:
    """In every part, which many configurations share, and in the configuration itself."""
    kinds, tried = get_type_hints(Config, include_extras=True), set()
    for config in CONFIGS:
        encoded = encode(config)
        for path, leaf in leaves(encoded):
            if not isinstance(leaf, float):
                continue
            name, inner = path[0], path[1:]
            part, kind = (encoded[name], kinds[name]) if inner else (encoded, Config)
            if (place := (path, json.dumps(part if inner else 0))) in tried:
                continue
            tried.add(place)
            for value in (math.nan, math.inf, -math.inf):
                is_schedule_end = path[-1] in ("logsnr_min", "logsnr_max") and math.isinf(value)
                is_churn_max = path[-1] == "churn_max" and value == math.inf
                if is_schedule_end or is_churn_max:
                    continue
                with pytest.raises(ValueError):
                    decode(kind, changed(part, inner or path, value))  # a part takes less time
                    decode(Config, changed(encoded, path, value))
    assert len(tried) > 100


@pytest.mark.parametrize("value", [None, True, "text", [], {}, [1, 2, 3], {"type": "os.system"}])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    encoded = encode(DIGITS)
    for path, leaf in leaves(encoded):
        is_path = path == ("init",) and isinstance(value, str)
        is_default = value is None and (leaf is None or path[-1] == "save_every")
        if (
            not is_path
            and not is_default
            and not (isinstance(leaf, bool) and isinstance(value, bool))
        ):
            with pytest.raises(ValueError, match="config"):
                decode(Config, changed(encoded, path, value))


def test_missing_entries_have_their_default_or_are_refused() -> None:
    """The rest is as it was."""
    encoded = encode(DIGITS)
    for path, leaf in leaves(encoded):
        smaller, (*parents, last) = copy.deepcopy(encoded), path
        inner = smaller
        for name in parents:
            inner = inner[name]
        if not isinstance(inner, dict):
            continue
        del inner[last]
        if last == "type":
            try:  # which only unions of classes need
                assert decode(Config, smaller) == DIGITS
            except ValueError as error:
                assert re.search(r"config.*type", str(error))
        else:
            assert changed(encode(decode(Config, smaller)), path, leaf) == encoded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": weightings.Exponential(rate=1e3)}, "inf .*rate=1000"),
        (
            {"weighting": Tabulated(name="w", weights=(1.0, 2.0), logsnr_min=-5.0)},
            r"on \[-8, 7.8\]",
        ),
        ({"weighting": weightings.Shifted(TABLE, 8.0)}, r"\[-24, -8.2\]"),
        ({"weighting": weightings.Monotone(weightings.Shifted(TABLE, -8.0))}, r"on \[8, 23.8\]"),
        ({"sampling": Sampling(guidance=2.0), "use_labels": False}, "guidance"),
        ({"sampling": Sampling(guidance=2.0), "label_dropout": 0.0}, "guidance"),
        ({"sampling": Sampling(grid=schedules.Linear(logsnr_min=8.0))}, "ends"),
        ({"optimizer": Optimizer(weight_decay=math.nan)}, "optimizer.weight_decay"),
        ({"num_images": 15}, "num_images"),
        ({"num_images": 0}, "num_images is 0"),
        ({"batch_size": -8}, "batch_size is -8"),
        ({"label_dropout": 2.0}, r"label_dropout is 2\.0"),
        ({"label_dropout": 1.0}, r"label_dropout is 1\.0.*--no-use-labels"),
        ({"label_dropout": math.nan}, "label_dropout is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_would_fail_later_or_do_nothing_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DIGITS, **change)


REFUSED = [
    (lambda: Execution(num_micro_batches=0), "num_micro_batches is 0"),
    (lambda: Execution(shard_size=0), "shard_size is 0"),
    (lambda: Optimizer(learning_rate=0.0), r"learning_rate is 0\.0"),
    (lambda: Optimizer(learning_rate=math.nan), "learning_rate is nan"),
    (lambda: Optimizer(betas=(0.9, 1.0)), "betas"),
    (lambda: Optimizer(weight_decay=-1.0), "weight_decay"),
    (lambda: Averaging(relative_width=0.0), r"relative_width is 0\.0"),
    (lambda: Averaging(relative_width=math.nan), "relative_width is nan"),
    (lambda: Averaging(relative_width=0.29), r"relative_width is 0\.29"),
    (lambda: Output(save_every=0), "save_every is 0"),
    (lambda: Sampling(num_steps=1), "num_steps is 1"),
    (lambda: Sampling(guidance=math.nan), "guidance is nan"),
    (lambda: schedules.Cosine(logsnr_min=math.nan), "logsnr_min=nan"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_setting_out_of_range_is_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def toml(value):
    """A value as TOML, which has no null: an entry that is left out has its default."""
    if isinstance(value, dict):
        entries = [f"{name} = {toml(one)}" for name, one in value.items() if one is not None]
        return f"{{{', '.join(entries)}}}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def test_a_configuration_may_be_toml_or_yaml(tmp_path):
    config = replace(PRESETS["digits"], seed=3)
    values = encode(config)
    lines = [f"{name} = {toml(one)}" for name, one in values.items() if one is not None]
    (tmp_path / "config.toml").write_text("\n".join(lines))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    for suffix in ("toml", "yaml"):
        assert read_config(tmp_path / f"config.{suffix}") == config
        (tmp_path / f"wrong.{suffix}").write_text("type: [")
        with pytest.raises(ValueError, match=f"wrong.{suffix}"):
            read_config(tmp_path / f"wrong.{suffix}")
