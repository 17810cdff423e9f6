"""What is read from a file is what was written, bit for bit, or refused in one line."""

import pytest
import torch
from oracles import gaussian

from elbos import Validator
from elbos.theory import schedules, weightings
from elbos.validation import Validation

ENDS = {"logsnr_min": -9, "logsnr_max": 8}  # whole numbers, as people write them
DATA = gaussian(0.5, 4)
X, _ = DATA.sample(40, torch.Generator().manual_seed(0))
UNIFORM = Validator(X)
TUNED = UNIFORM.tuned(UNIFORM.pilot(DATA))


RESULTS = {
    "uniform": UNIFORM(DATA),
    "tuned": TUNED(DATA),
    "discrete": Validator(X.sign(), num_levels=2, schedule=schedules.Cosine(**ENDS), **ENDS)(DATA),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_what_is_read_is_what_was_written(result, tmp_path):
    """All that follows from it is equal, and so the difference is nothing at all."""
    result.save(tmp_path / "new" / "result.json")
    actual = Validation.load(str(tmp_path / "new" / "result.json"))
    assert actual.bits == result.bits
    assert actual.by_level == result.by_level
    assert actual.weighted(weightings.EDM()) == result.weighted(weightings.EDM())
    assert actual.num_levels == result.num_levels
    assert actual.difference(result).mean == actual.difference(result).standard_error == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


SPOILED = {
    "cut": cut,
    "text": lambda path: path.write_text("{}"),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_file_that_is_none_is_named_in_one_line(spoil, tmp_path):
    path = tmp_path / "result.json"
    RESULTS["uniform"].save(path)
    spoil(path)
    with pytest.raises(ValueError, match=r"\A.*result.*\Z"):
        Validation.load(path)


def missing(data):
    del data["tensors"]["prior"]


def later(data):
    data["version"] = 2


def unknown(data):
    data["schedule"]["type"] = "Nope"


@pytest.mark.parametrize("spoil", [missing, later, unknown])
def test_values_that_are_none_are_refused(spoil):
    data = RESULTS["tuned"].to_dict()
    spoil(data)
    with pytest.raises(ValueError, match=r"prior|version|Nope"):
        Validation.from_dict(data)


def test_nothing_is_written_through_a_link_nor_lost(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        RESULTS["uniform"].save(tmp_path / "link")
    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Validation.load(tmp_path / "nowhere")


class Own(schedules.Linear):
    """A schedule of the user's own."""


def test_a_schedule_that_could_not_be_read_is_not_written(tmp_path):
    mine = Validator(X, schedule=Own(logsnr_min=-10.0, logsnr_max=13.3))(DATA)
    with pytest.raises(ValueError, match="Own"):
        mine.save(tmp_path / "own")
    assert not list(tmp_path.iterdir())
