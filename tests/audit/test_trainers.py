"""What the adapters of trainers say, against the same losses written out and measured; and back."""

import numpy as np
import pytest
from audited import X, kinds
from trainer_losses_kohya import KOHYA, MUSUBI
from trainer_losses_onetrainer import ONETRAINER

from elbos import audit
from elbos.adapters.trainers import TRAINERS, Settings, read_settings
from elbos.audit.declare import log_weighting
from elbos.audit.matching import distance

CASES = [
    *(("kohya", flags, loss) for flags, loss in KOHYA.items()),
    *(("musubi", flags, loss) for flags, loss in MUSUBI.items()),
    *(("onetrainer", keys, loss) for keys, loss in ONETRAINER),
]
TOLERANCE = 0.02


def settings_of(source):
    return read_settings(source) if isinstance(source, str) else Settings(source)


@pytest.mark.parametrize(("name", "source", "loss"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_settings_train_what_is_measured_of_the_code(name, source, loss):
    declared = TRAINERS[name].loss(settings_of(source))
    measured = audit.probe(loss, X[:64, :, :4, :4], 4000)
    log_v = log_weighting(declared, measured.logsnr.numpy())
    p = np.where(np.isfinite(log_v), measured.density.numpy(), 0)
    assert p.sum() > 0.99 * measured.density.sum().item()
    off = distance(measured.weight.log().numpy(), np.nan_to_num(log_v), p / p.sum())
    assert off < TOLERANCE
    assert kinds(declared) == []
    exact = TRAINERS[name].audit(settings_of(source))
    assert measured.parameterization == exact.parameterization
    assert measured.parameterization_factor == pytest.approx(exact.parameterization_factor)
