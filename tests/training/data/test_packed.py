"""Packed pictures are those of the folder, opened without reading any of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from commands import snapshot
from PIL import Image

from elbos.training import data
from elbos.training.data import pack, packed
from elbos.training.data.batches import Batches

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


def pack_into(root, out, **how):
    data.Images(path=str(root), size=4).pack(out, **how)


def test_packed_pictures_are_those_of_the_folder(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out")
    folder = data.Images(path=str(pictures), size=4).load()
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


def test_a_split_may_be_larger_than_memory(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out")
    path = tmp_path / "out" / "train.npy"
    shape = np.load(path).shape[1:]
    num = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // np.prod(shape)
    with path.open("wb") as file:  # with a hole, which takes no room on the disk
        header = {"descr": "|u1", "fortran_order": False, "shape": (int(num), *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(num * np.prod(shape)))
    for labels in (tmp_path / "out").glob("train.labels.npy"):
        content = json.loads((tmp_path / "out" / "index.json").read_text())
        (tmp_path / "out" / "index.json").write_text(json.dumps(content | {"class_names": None}))
        labels.unlink()
    train = data.Packed(path=tmp_path / "out").load().train
    assert len(train) == num
    assert (train.batch(torch.tensor([num - 1]))[0] == -1).all()


def test_training_batches_are_the_folders(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out")
    sources = [
        data.Images(path=str(pictures), size=4).load().train,
        data.Packed(path=tmp_path / "out").load().train,
    ]
    first, other = (Batches(source, 16, 0, slice(4, 12)) for source in sources)
    for step in range(9):
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
    pack_into(pictures, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    num = len(decoded)
    pack_into(pictures, tmp_path / "out")  # it is complete
    assert len(decoded) == num


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


def with_shape(*shape):
    def change(out):
        with (out / "test.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)

    return change


DAMAGES = [
    ("train.npy", lambda out: os.truncate(out / "train.npy", 200)),
    ("val.labels.npy", lambda out: os.truncate(out / "val.labels.npy", 3)),
    ("index.json", lambda out: os.truncate(out / "index.json", 50)),
    ("dtype", changed(dtype="object")),
    ("train.npy does not match", lambda out: np.save(out / "train.npy", np.zeros((3, 8)))),
    ("test.npy", lambda out: zipfile.ZipFile(out / "test.npy", "w").close()),
    ("test.npy", with_shape(-5, 3, 8, 8)),
    ("test.npy", with_shape(True, 3, 8, 8)),
    ("test.npy", with_shape(10**18, 10**18, 8, 8)),
]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damage_is_named_on_opening(pictures, tmp_path, name, damage):
    pack_into(pictures, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}[^\n]*\Z"):
        data.Packed(path=tmp_path / "out").load()


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from elbos.training.data import Images
threading.Timer(float(sys.argv[3]), os.kill, (os.getpid(), signal.SIGKILL)).start()
Images(path=sys.argv[1], size=4).pack(Path(sys.argv[2]), jobs=1)
os._exit(0)
"""


@pytest.mark.slow
def test_a_killed_packing_leaves_a_complete_folder_or_none(pictures, tmp_path):
    pack_into(pictures, tmp_path / "whole")
    expected, statuses = snapshot(tmp_path / "whole"), set()
    for milliseconds in (3, 10, 20, 40, 80, 5000):
        words = [pictures, tmp_path / "out", milliseconds / 1000]
        done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], check=False)
        statuses.add(done.returncode)
        if (tmp_path / "out").exists():
            assert snapshot(tmp_path / "out") == expected
            shutil.rmtree(tmp_path / "out")
    assert statuses == {0, -signal.SIGKILL}
    pack_into(pictures, tmp_path / "out")
    assert snapshot(tmp_path / "out") == expected
    left = {path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")}
    assert not left
