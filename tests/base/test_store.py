"""Parts of long work: computed once, read back, computed again where they are damaged."""

from dataclasses import dataclass

import pytest
import torch

from elbos.base.store import Part, Store


@dataclass
class Counting:
    """Computes a part, and counts how often."""

    num: int = 0

    def __call__(self):
        self.num += 1
        return {"x": torch.arange(3.0)}


def test_a_part_is_computed_once(tmp_path):
    compute = Counting()
    parts = [Store(tmp_path / "s").part("a", compute)["x"] for _ in range(3)]
    assert compute.num == 1
    assert all(torch.equal(part, torch.arange(3.0)) for part in parts)


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100])
def test_a_damaged_part_is_computed_again_with_a_warning(tmp_path, content):
    compute, store = Counting(), Store(tmp_path)
    store.part("a", compute)
    path = tmp_path / "a.safetensors"
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"a\.safetensors"):
        store.part("a", compute)
    assert compute.num == 2
    assert path.read_bytes() == whole


def test_a_part_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Store(tmp_path / "s").part("a", fail)
    assert not (tmp_path / "s").exists()


def test_parts_are_put_together_and_those_that_were_kept_are_told(tmp_path):
    told = []
    parts = [Part(name, 3, Counting()) for name in "abc"]
    store = Store(tmp_path)
    store.part("b", parts[1].compute)
    actual = store.concatenated(parts, lambda num, is_kept: told.append((num, is_kept)))
    assert torch.equal(actual["x"], torch.arange(3.0).repeat(3))
    assert told == [(3, False), (3, True), (3, False)]
