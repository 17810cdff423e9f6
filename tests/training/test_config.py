"""Configurations: JSON there and back, and nothing in them that would fail later."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tables import PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS
from tiny import DIGITS

from elbos.base.codec import decode, encode
from elbos.models.networks import MLPConfig
from elbos.models.samplers import DDIM, SAMPLERS, Ancestral, Heun, StochasticDPMSolver
from elbos.theory import schedules, weightings
from elbos.theory.weightings import Tabulated
from elbos.training.config import Averaging, Config, Execution, Optimizer, Output
from elbos.training.data import Fashion, Images, Packed, Toy
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling

TABLE = Tabulated.from_function(weightings.Sigmoid())
CHANGED = [
    Ancestral(variance=0.5),
    DDIM(eta=0.2),
    Heun(churn=40.0, churn_max=50.0),
    StochasticDPMSolver(eta=0.5),
]
GRIDS = [schedules.EDMSampling(), schedules.Cosine(), schedules.Flow(), schedules.Linear()]
DATA = [
    Toy(num_train=9),
    Fashion(),
    Fashion(root=Path("a/b")),
    Images(path="a", skip_bad=True),
    Images(path="a", flip=True),
    Packed(path=Path("a")),
    Packed(path=Path("a"), crop=48),
    Images(path="owner/name", label=None),
]
WRAPPED = [
    weightings.Monotone(weightings.Shifted(weightings.EDM(mean=0.8), -0.3)),
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


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_json_there_and_back_is_the_same_configuration(config: Config) -> None:
    text = json.dumps(encode(config), allow_nan=False)
    assert decode(Config, json.loads(text)) == config


def test_all_but_output_and_execution_is_in_the_identity() -> None:
    rarer = replace(DIGITS, output=Output(save_every=7), execution=Execution(shard_size=2))
    wider = replace(DIGITS, averaging=Averaging(relative_width=0.1))
    assert rarer.identity() == DIGITS.identity() != wider.identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": weightings.Exponential(rate=1e3)}, "rate=1000.* inf "),
        (
            {"weighting": Tabulated(name="w", weights=(1.0, 2.0), logsnr_min=-5.0)},
            r"on \[-8, 7.8\]",
        ),
        ({"weighting": weightings.Shifted(TABLE, 8.0)}, r"\[-24, -8.2\]"),
        ({"sampling": Sampling(guidance=2.0), "use_labels": False}, "guidance"),
        ({"sampling": Sampling(grid=schedules.Linear(logsnr_min=8.0))}, "ends"),
        ({"num_images": 15}, "num_images"),
        ({"batch_size": -8}, "batch_size is -8"),
        ({"label_dropout": 1.0}, r"label_dropout is 1\.0.*--no-use-labels"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_would_fail_later_or_do_nothing_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DIGITS, **change)


REFUSED = [
    (lambda: replace(DIGITS, execution=Execution(num_micro_batches=0)), "num_micro_batches is 0"),
    (lambda: replace(DIGITS, optimizer=Optimizer(learning_rate=0.0)), r"learning_rate is 0\.0"),
    (lambda: replace(DIGITS, optimizer=Optimizer(betas=(0.9, 1.0))), "betas"),
    (lambda: replace(DIGITS, optimizer=Optimizer(weight_decay=-1.0)), "weight_decay"),
    (lambda: replace(DIGITS, optimizer=Optimizer(weight_decay=math.nan)), "weight_decay is nan"),
    (lambda: replace(DIGITS, averaging=Averaging(relative_width=0.29)), r"relative_width is 0\.29"),
    (lambda: replace(DIGITS, output=Output(save_every=0)), "save_every is 0"),
    (lambda: Sampling(num_steps=1), "num_steps is 1"),
    (lambda: schedules.Cosine(logsnr_min=math.nan), "logsnr_min=nan"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_setting_out_of_range_is_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
