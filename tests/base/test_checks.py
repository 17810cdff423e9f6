"""Wrong types: refused where an object is made or a function called, by the name of the value."""

from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import elbos
from elbos.base.checks import typed
from elbos.base.codec import decode, digest, encode
from elbos.evaluation import EvaluationConfig
from elbos.models import samplers
from elbos.models.networks import NETWORKS
from elbos.theory import adaptive, parameterizations, schedules, weightings
from elbos.training import data
from elbos.training.config import Averaging, Execution, Optimizer, Output
from elbos.training.sampling import Sampling

MADE: list[Any] = [
    *(kind() for kind in weightings.WEIGHTINGS),
    *(kind() for kind in adaptive.SCHEDULES),
    *(kind() for kind in parameterizations.PARAMETERIZATIONS),
    *(kind() for kind in samplers.SAMPLERS),
    *(kind() for kind in NETWORKS),
    *(Optimizer(), Averaging(), Output(), Execution(), Sampling(), EvaluationConfig()),
    *(data.Images(path="."), data.Packed(path="."), data.Toy(), data.Digits()),
    elbos.Objective(
        weighting=weightings.ELBO(),
        schedule=schedules.Cosine(),
        parameterization=parameterizations.V(),
    ),
]
FIELDS = [(item, field.name) for item in MADE for field in fields(item) if field.init]


class Thing:
    """No value of any field."""


@pytest.mark.usefixtures("unchecked")
def test_fields_admit_no_other_types() -> None:
    for item, name in FIELDS:
        inputs = {f.name: getattr(item, f.name) for f in fields(item) if f.init}
        type(item)(**inputs)
        for wrong in (Thing(), Thing, 1j, [Thing()]):
            with pytest.raises(ValueError, match=name) as error:
                type(item)(**{**inputs, name: wrong})
            assert "\n" not in str(error.value)
            assert isinstance(error.value, TypeError)


ADMITTED: list[tuple[Any, list[Any], list[Any]]] = [
    (int, [0, -1, 2**63 - 1], [True, 1.0, "1", None, int, 2**63, -(10**30)]),
    (float, [0, 0.5, float("nan")], [True, "1", torch.ones(()), float]),
    (bool, [True], [0, "True", None]),
    (int | None, [None, 3], [3.0, ()]),
    (Annotated[int | str, "unit"], [3, "3"], [b"3"]),
    (Literal["on", 1], ["on", 1], ["off", True, []]),
    (tuple[float, float], [(0, 1.0), [1, 2]], [(1,), (1, "2"), 3]),
    (tuple[int, ...], [(), (1, 2)], [(1.5,), "12"]),
    (weightings.Weighting, [weightings.ELBO()], [weightings.ELBO, torch.exp]),
    (Any, [3, None], []),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), ADMITTED, ids=lambda one: str(one)[:40])
def test_an_annotation_admits_its_values_alone(
    kind: Any, right: list[Any], wrong: list[Any]
) -> None:
    for value in right:
        decode(kind, value, "value")
    for value in wrong:
        with pytest.raises(ValueError, match="value"):
            decode(kind, value, "value")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [3, np.int64(3), np.float32(3), np.float64(3)])
def test_equal_numbers_make_equal_objects_texts_and_digests(k: Any) -> None:
    made, expected = weightings.Sigmoid(k=k), weightings.Sigmoid(k=3.0)
    assert made == expected
    assert repr(made) == repr(expected)
    assert digest(encode(made)) == digest(encode(expected))


def test_functions_check_their_arguments_before_they_begin() -> None:
    begun = []

    @typed
    def function(num: int, x: Tensor, other: Any = None) -> int:
        begun.append(num)
        return num

    assert function(3, x=torch.ones(1), other=Thing) == 3
    for wrong in ({"num": "3", "x": torch.ones(1)}, {"num": 3, "x": [1.0]}):
        with pytest.raises(ValueError, match=r"num is '3'|x is "):
            function(**wrong)
    with pytest.raises(TypeError, match="missing"):
        function(3)
    assert begun == [3]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("schedule", [schedules.Cosine(), adaptive.Adaptive()])
def test_a_batch_of_levels_is_of_a_positive_whole_number(schedule: schedules.Schedule) -> None:
    for wrong in (None, "3", 1.5, 0, -1, True, [], float("nan"), 10**30, int, torch.ones(2)):
        with pytest.raises(ValueError, match="num is "):
            schedule.sample(wrong)  # type: ignore[arg-type]
