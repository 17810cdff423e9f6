"""What the audit says about every loss of the tests has not changed.

`golden_audits.json` holds it; `python tests/audit/test_golden_audits.py` writes it anew, which
needs a reason in the commit. The numbers are those of one machine: the tolerances leave room for
the rounding of another, far below the errors that the audit itself claims.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from audited import all_audits

GOLDEN = Path(__file__).with_name("golden_audits.json")
NAMES = (
    "parameterization",
    "sigma_data",
    "coefficient_name",
    "schedule",
    "density_kind",
    "num_steps",
    "process",
    "is_monotone",
    "is_weighted_elbo",
)


def digits(values, num=4):
    """With `num` significant digits, and no more than five decimals."""
    return [round(float(f"{value:.{num}g}"), 5) + 0.0 for value in values]


def summary(result):
    """The parts of an audit that are kept, with few digits: curves on a coarse grid."""
    numbers = ("parameterization_factor", "data_scale", "data_offset", "share_pure_noise",
               "weight_pure_noise", "share_clean", "negative_share", "mass_at_max")  # fmt: skip
    return {
        **{name: getattr(result, name) for name in NAMES},
        "logsnr": digits(result.logsnr[[0, -1]].tolist()),
        "log_weight": digits(result.weight.log()[::16].tolist()),
        "weight_error": digits(result.weight_error[::50].tolist(), 3),
        "density": digits(result.density[::16].tolist()),
        "a": digits(result.a[::100].tolist()),
        "b": digits(result.b[::100].tolist()),
        "numbers": digits(getattr(result, name) for name in numbers),
        "rising": [digits(interval) for interval in result.rising],
        "closest": [[name, *digits([distance], 3)] for name, distance in result.closest[:3]],
        "diagnostics": [actual.kind for actual in result.diagnostics],
        "has_code": result.monotone_code is not None,
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if i % 18 else [])
        for i, name in enumerate(json.loads(GOLDEN.read_text()))
    ]
    if GOLDEN.exists()
    else [],
)
def test_audits_equal_their_golden_numbers(name):
    golden = json.loads(GOLDEN.read_text())[name]
    actual = json.loads(json.dumps(summary(all_audits()[name]())))
    exact = (*NAMES, "diagnostics", "has_code")
    assert {key: actual[key] for key in exact} == {key: golden[key] for key in exact}
    close = np.testing.assert_allclose
    for curve in ("logsnr", "a", "b", "numbers"):
        close(actual[curve], golden[curve], rtol=2e-3, atol=2e-3, err_msg=curve)
    close(actual["log_weight"], golden["log_weight"], rtol=2e-3, atol=5e-3)
    close(actual["weight_error"], golden["weight_error"], rtol=0.05, atol=1e-4)
    close(actual["density"], golden["density"], rtol=1e-2, atol=2e-5)
    assert len(actual["rising"]) == len(golden["rising"])
    close(actual["rising"], golden["rising"], atol=0.06)
    assert [name for name, _ in actual["closest"]] == [name for name, _ in golden["closest"]]
    distances = [[d for _, d in content["closest"]] for content in (actual, golden)]
    close(*distances, rtol=1e-2, atol=5e-4)


def test_every_loss_has_a_golden_audit():
    assert json.loads(GOLDEN.read_text()).keys() == all_audits().keys()


if __name__ == "__main__":
    lines = [
        f"{json.dumps(name)}: {json.dumps(summary(audit()))}"
        for name, audit in all_audits().items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
