"""Settings that are not finite, and packages that are not there, are named."""

import importlib
import math
import sys

import pytest

from elbos import schedules, weightings
from elbos.base.extras import MissingExtra


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: weightings.Sigmoid(k=bad),
        lambda bad: schedules.Cosine(shift=bad),
    ],
)
def test_settings_of_weightings_and_schedules_are_finite(make, bad):
    with pytest.raises(ValueError, match=str(bad)):
        make(bad)


def test_an_infinite_end_selects_the_schedules_own():
    assert schedules.EDMSampling(logsnr_max=math.inf).logsnr_max < math.inf


@pytest.mark.parametrize("name", ["lightning", "torchmetrics", "transformers"])
def test_an_adapter_of_a_missing_package_names_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"elbos.adapters.{name}", raising=False)
    with pytest.raises(MissingExtra, match=f"pip install {name}"):
        importlib.import_module(f"elbos.adapters.{name}")
