"""Packed pictures are those of the folder, opened without reading any of them."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from commands import snapshot
from PIL import Image
from tiny import rows

from elbos.training import data
from elbos.training.data import pack, packed

NUM = 60


@pytest.fixture
def pictures(tmp_path):
    """Pictures of noise in two classes."""
    rng = np.random.default_rng(0)
    for i in range(NUM):
        path = tmp_path / "pictures" / ("cat" if i % 2 else "dog") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def pack_into(root, out, size=4, skip_bad=False, **how):
    pack.pack(data.Folder(root=root, size=size, skip_bad=skip_bad), out, **how)


def test_packed_pictures_are_those_of_the_folder(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out")
    folder = data.Folder(root=pictures, size=4).load()
    packed = data.Packed(path=tmp_path / "out").load()
    assert packed.spec == folder.spec
    assert packed.class_names == folder.class_names
    assert packed.fingerprint() == folder.fingerprint()
    for mine, other in zip(packed.splits, folder.splits, strict=True):
        assert mine.x.shape == other.x.shape
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.x[:], other.x[:])
        assert torch.equal(mine.x[-1], other.x[-1])
        some = torch.tensor([0, len(mine) - 1, 0])
        assert torch.equal(mine.x[some], other.x[some])
        assert torch.equal(torch.cat(list(mine.x.split(7))), other.x[:])


def test_training_batches_are_the_folders(pictures, tmp_path):
    """Pickled, too, as processes that load ahead get them."""
    pack_into(pictures, tmp_path / "out")
    sources = [
        data.Folder(root=pictures, size=4).load().train,
        data.Packed(path=tmp_path / "out").load().train,
    ]
    pickled = pickle.dumps(sources[1])
    assert len(pickled) < 2000
    sources.append(pickle.loads(pickled))  # noqa: S301, our own
    first, *others = (data.Batches(source, 16, 0, slice(4, 12)) for source in sources)
    for step in range(9):
        for other in others:
            assert torch.equal(first[step].x, other[step].x)
            assert torch.equal(first[step].cond, other[step].cond)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_packing_begins_again(pictures, tmp_path, monkeypatch, error):
    pack_into(pictures, tmp_path / "whole")
    decoded, decode = [], pack.decode

    def stopping(path, size):
        decoded.append(path)
        if len(decoded) == 25:
            raise error
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", stopping)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        pack_into(pictures, tmp_path / "out", jobs=1)
    with pytest.raises(FileNotFoundError, match="out"):
        data.Packed(path=tmp_path / "out").load()
    (tmp_path / ".out.partial").mkdir()  # as a killed process leaves it
    (tmp_path / ".out.partial" / "train.npy").write_bytes(b"half")
    pack_into(pictures, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    num = len(decoded)
    pack_into(pictures, tmp_path / "out")  # it is complete
    assert len(decoded) == num


def test_bad_pictures_are_named_and_left_out_on_demand(pictures, tmp_path):
    (pictures / "cat" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=rf"\A1 of {NUM} [^\n]*'cat/001.png'[^\n]*--skip-bad\Z"):
        pack_into(pictures, tmp_path / "out")
    with pytest.warns(UserWarning, match="001"):
        pack_into(pictures, tmp_path / "out", skip_bad=True)
    with pytest.warns(UserWarning, match="001"):
        expected = rows(data.Folder(root=pictures, size=4, skip_bad=True).load())
    assert rows(data.Packed(path=tmp_path / "out").load()) == expected


def add(pictures):
    Image.new("RGB", (6, 6)).save(pictures / "cat" / "added.png")


def change(pictures):
    Image.new("RGB", (6, 6)).save(pictures / "cat" / "001.png")


CHANGES = [add, change, lambda pictures: (pictures / "cat/001.png").unlink()]


@pytest.mark.parametrize("done", CHANGES)
def test_pictures_that_change_after_the_end_are_noticed(pictures, tmp_path, done):
    out = tmp_path / "out"
    pack_into(pictures, out)
    before = snapshot(out)
    done(pictures)
    with pytest.raises(ValueError, match=rf"\A{out}[^\n]*{pictures}[^\n]*\Z"):
        pack_into(pictures, out)
    assert snapshot(out) == before


@pytest.mark.parametrize("name", ["out", "out/notes.txt"])
def test_a_folder_of_something_else_is_refused(pictures, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        pack_into(pictures, tmp_path / "out")
    assert len(snapshot(tmp_path)) == NUM + 1


def changed(**entries):
    def change(out):
        index = json.loads((out / packed.INDEX).read_text())
        (out / packed.INDEX).write_text(json.dumps({**index, **entries}))

    return change


DAMAGES = {
    "train.npy": lambda out: os.truncate(out / "train.npy", 200),
    "val.labels.npy": lambda out: os.truncate(out / "val.labels.npy", 3),
    "index.json": lambda out: os.truncate(out / "index.json", 50),
    "dtype": changed(dtype="object"),
    "train.npy does not match": changed(dtype="float16"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_on_opening(pictures, tmp_path, name):
    pack_into(pictures, tmp_path / "out")
    DAMAGES[name](tmp_path / "out")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}[^\n]*\Z"):
        data.Packed(path=tmp_path / "out").load()


def test_every_changed_byte_is_found(pictures, tmp_path):
    out = tmp_path / "out"
    pack_into(pictures, out)
    packed.verify(out)
    for path in out.glob("*.npy"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"\A[^\n]*{out}[^\n]*\Z"):
            packed.verify(out)
        path.write_bytes(content)
