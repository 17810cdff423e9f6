"""Packed pictures are those of the folder, opened without a look at any of them."""

import json
import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from commands import endless, few_files, snapshot
from PIL import Image
from tiny import rows

from elbos.training import data
from elbos.training.data import pack, shards

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


def pack_into(root, out, size, skip_bad=False, **how):
    return pack.pack(data.Folder(root=root, size=size, skip_bad=skip_bad), out, **how)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Of at most ten samples."""
    monkeypatch.setattr(pack, "SHARD_SAMPLES", 10)


def test_packed_pictures_are_those_of_the_folder(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out", 4)
    folder, packed = data.Folder(root=pictures, size=4).load(), data.Packed(path=tmp_path / "out")
    opened = packed.load()
    assert opened.spec == folder.spec
    assert opened.class_names == folder.class_names
    for mine, other in zip((opened.train, opened.val, opened.test), splits(folder), strict=True):
        assert mine.x.shape == other.x.shape
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.x[:], other.x[:])
        assert torch.equal(mine.x[-1], other.x[-1])
        some = torch.tensor([0, len(mine) - 1, 0])
        assert torch.equal(mine.x[some], other.x[some])
        assert torch.equal(torch.cat(list(mine.x.split(7))), other.x[:])
    assert len(list((tmp_path / "out").glob("train-*.bin"))) > 3


def splits(dataset):
    return dataset.train, dataset.val, dataset.test


def test_training_batches_are_the_folders(pictures, tmp_path):
    """Pickled, too, as processes that load ahead get them."""
    pack_into(pictures, tmp_path / "out", 4)
    sources = [
        data.Folder(root=pictures, size=4).load().training,
        data.Packed(path=tmp_path / "out").load().training,
    ]
    sources.append(pickle.loads(pickle.dumps(sources[1])))  # noqa: S301, our own
    all_made = [data.Batches(one, 16, 0, slice(4, 12)) for one in sources]
    for step in range(9):
        first, *others = (made[step] for made in all_made)
        assert all(torch.equal(first.x, other.x) for other in others)
        assert all(torch.equal(first.cond, other.cond) for other in others)


def test_opening_looks_at_no_sample(pictures, tmp_path):
    """The samples are gone, and only the sizes of their files have a part in it."""
    out = tmp_path / "out"
    pack_into(pictures, out, 4)
    before = data.Packed(path=out).load()
    for file in out.glob("*.bin"):
        file.rename(tmp_path / file.name)
        file.touch()
        os.truncate(file, (tmp_path / file.name).stat().st_size)
    opened = data.Packed(path=out).load()
    assert opened.fingerprint() == before.fingerprint()
    assert opened.spec == before.spec
    assert not opened.train.x[torch.tensor([0])].any()
    (out / "train-00001.bin").unlink()
    with pytest.raises(FileNotFoundError, match="train-00001"):
        data.Packed(path=out).load()


def test_the_identifier_is_of_all_samples(pictures, tmp_path):
    def identifier(out):
        pack_into(pictures, tmp_path / out, 4)
        return data.Packed(path=tmp_path / out).load().fingerprint()

    first = identifier("a")
    assert identifier("b") == first
    last = sorted(pictures.glob("dog/*"))[-1]
    Image.new("RGB", (6, 6)).save(last)
    assert identifier("c") != first


def test_several_threads_make_the_same(pictures, tmp_path):
    told = []

    def start(what, total, unit):
        told.append(total)
        return lambda num, is_kept=False: told.append(-num)

    pack_into(pictures, tmp_path / "one", 4, jobs=1)
    pack_into(pictures, tmp_path / "two", 4, jobs=4, start=start)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert told[0] == NUM
    assert sum(told) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_the_same_call_goes_on_where_it_was_stopped(pictures, tmp_path, monkeypatch, error):
    pack_into(pictures, tmp_path / "whole", 4)
    decoded, decode = [], pack.decode

    def stopping(path, size):
        decoded.append(path)
        if len(decoded) == 25:
            raise error
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", stopping)
    again = partial(pack_into, pictures, tmp_path / "out", 4)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        again(jobs=1)
    with pytest.raises(FileNotFoundError, match="not complete"):
        data.Packed(path=tmp_path / "out").load()
    assert not list((tmp_path / "out").glob(".*partial"))
    num = len(decoded)  # the thread has finished its shard
    again()
    assert len(decoded) == num + NUM - 20  # two shards were done
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")
    again()  # nothing is left
    assert len(decoded) == num + NUM - 20


def test_bad_pictures_are_named_and_left_out_on_demand(pictures, tmp_path):
    (pictures / "cat" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    folder = data.Folder(root=pictures, size=4, skip_bad=True)
    again = partial(pack_into, pictures, tmp_path / "out", 4)
    with pytest.raises(ValueError, match=rf"\A1 of {NUM} [^\n]*'cat/001.png'[^\n]*--skip-bad\Z"):
        again()
    with pytest.warns(UserWarning, match="001"):
        pack_into(pictures, tmp_path / "out", 4, skip_bad=True)
    with pytest.warns(UserWarning, match="001"):
        expected = rows(folder.load())
    assert rows(data.Packed(path=tmp_path / "out").load()) == expected


def test_a_picture_that_changes_before_the_end_is_packed_as_it_is_then(
    pictures, tmp_path, monkeypatch
):
    """Shards of pictures that are as they were are not made again."""
    decoded, decode = [], pack.decode

    def stopping(path, size):
        decoded.append(path)
        if len(decoded) == 25:
            raise OSError(28, "No space left on device")
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", stopping)
    again = partial(pack_into, pictures, tmp_path / "out", 4)
    with pytest.raises(OSError, match="28"):
        again(jobs=1)
    num = len(decoded)
    changed = Image.fromarray(255 - np.asarray(Image.open(decoded[3])))
    changed.save(decoded[3])
    again()
    assert len(decoded) == num + NUM - 10  # of two shards that were done one is as it was
    pack_into(pictures, tmp_path / "other", 4)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "other")


def add(pictures):
    Image.new("RGB", (6, 6)).save(pictures / "cat" / "added.png")


def change(pictures):
    Image.new("RGB", (6, 6)).save(pictures / "cat" / "001.png")


@pytest.mark.parametrize(
    "done", [add, change, lambda pictures: (pictures / "cat/001.png").unlink()]
)
def test_pictures_that_change_after_the_end_are_noticed(pictures, tmp_path, done):
    out = tmp_path / "out"
    pack_into(pictures, out, 4)
    before = snapshot(out)
    done(pictures)
    with pytest.raises(ValueError, match=rf"\A{pictures}[^\n]*{out}[^\n]*\Z"):
        pack_into(pictures, out, 4)
    assert snapshot(out) == before
    index = json.loads((out / shards.INDEX).read_text())
    del index["fingerprint"]  # as version 0.1.0 wrote it
    (out / shards.INDEX).write_text(json.dumps(index))
    assert rows(data.Packed(path=out).load())
    assert pack_into(pictures, out, 4).splits == shards.Index.read(out).splits


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_folder_that_shrinks_before_the_end_leaves_no_shards(pictures, tmp_path, monkeypatch):
    again = partial(pack_into, pictures, tmp_path / "out", 4)
    with monkeypatch.context() as stopped:
        stopped.setattr(pack.PackWriter, "finish", full)
        with pytest.raises(OSError, match="28"):
            again()
    for i in range(20, NUM):
        next(pictures.glob(f"*/{i:03}.png")).unlink()
    again()
    pack_into(pictures, tmp_path / "other", 4)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "other")


@pytest.mark.parametrize("name", ["out", "out/notes.txt"])
def test_a_folder_of_something_else_is_refused(pictures, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        pack_into(pictures, tmp_path / "out", 4)
    assert len(snapshot(tmp_path)) == NUM + 1


@pytest.mark.parametrize("is_complete", [True, False])
def test_other_settings_are_refused(pictures, tmp_path, monkeypatch, is_complete):
    again = partial(pack_into, pictures, tmp_path / "out", 4)
    if is_complete:
        again()
    else:
        with monkeypatch.context() as stopped:
            stopped.setattr(pack.PackWriter, "finish", full)
            with pytest.raises(OSError, match="28"):
                again()
    before = snapshot(tmp_path / "out")
    with pytest.raises(ValueError, match=r"size 4.*size 5"):
        pack_into(pictures, tmp_path / "out", 5)
    assert snapshot(tmp_path / "out") == before


def longer(out):
    with (out / "train-00000.bin").open("ab") as file:
        file.write(b"0")


def changed(**entries):
    def change(out):
        index = json.loads((out / shards.INDEX).read_text())
        (out / shards.INDEX).write_text(json.dumps({**index, **entries}))

    return change


SPLIT = {"type": "SplitIndex", "sha256": ["0"]}
DAMAGES = {
    "train-00000.bin": lambda out: os.truncate(out / "train-00000.bin", 100),
    "train-00000.bin has": longer,
    "labels": lambda out: os.truncate(out / "val.labels", 3),
    "index.json": lambda out: os.truncate(out / "index.json", 50),
    "format": changed(format=2),
    "dtype": changed(dtype="object"),
    "splits": changed(splits=[]),
}
FORGED = [
    *({"shape": shape} for shape in ([-1, 4, 4], [3, 0, 4], [3, 4], [3, 4, 10**30], [2**20] * 3)),
    *({"num_levels": num} for num in (-1, 1, 257, 10**30, None)),
    *({"class_names": []}, {"dtype": "float16"}, {"labels_sha256": []}),
    *({"splits": [{**SPLIT, "nums": [num]}] * 3} for num in (-1, 2**40, 10**30)),
]


def test_no_index_is_believed_that_cannot_be(pictures, tmp_path):
    out = tmp_path / "out"
    pack_into(pictures, out, 4)
    before = (out / shards.INDEX).read_bytes()
    for entries in FORGED:
        (out / shards.INDEX).write_bytes(before)
        changed(**entries)(out)
        with pytest.raises(ValueError, match=rf"\A[^\n]*{tmp_path}[^\n]*\Z"):
            data.Packed(path=out).load()


def test_labels_beyond_the_classes_are_noticed_before_a_training(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out", 4)
    num = (tmp_path / "out" / "val.labels").stat().st_size // 8
    (tmp_path / "out" / "val.labels").write_bytes(np.full(num, 2).tobytes())
    with pytest.raises(ValueError, match="2 classes"):
        data.Packed(path=tmp_path / "out").load().fingerprint()


def test_more_shards_than_files_may_be_open(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "SHARD_SAMPLES", 1)
    pack_into(pictures, tmp_path / "out", 4)
    opened = data.Packed(path=tmp_path / "out").load()
    expected = rows(opened)
    with few_files(20):
        assert rows(data.Packed(path=tmp_path / "out").load()) == expected


def test_a_shard_that_is_cut_short_after_opening_is_named(pictures, tmp_path):
    pack_into(pictures, tmp_path / "out", 4)
    opened = data.Packed(path=tmp_path / "out").load()
    assert opened.train.x[:].any()
    os.truncate(tmp_path / "out" / "train-00001.bin", 100)
    with pytest.raises(ValueError, match="train-00001"):
        opened.train.x[:]


@pytest.mark.usefixtures("at_once")
def test_no_file_may_be_endless(pictures, tmp_path):
    out = tmp_path / "out"
    pack_into(pictures, out, 4)
    for path in endless(out):
        if path.name == ".lock":
            continue  # it is not read
        with pytest.raises((OSError, ValueError), match=f"{path}|{out} holds no packed data"):
            data.Packed(path=out).load()


def test_every_changed_byte_is_found(pictures, tmp_path):
    out = tmp_path / "out"
    index = pack_into(pictures, out, 4)
    assert shards.verify(out) == index
    for path in (*out.glob("*.bin"), *out.glob("*.labels")):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"\A1 of [^\n]*{path.name}[^\n]*\Z"):
            shards.verify(out)
        path.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_named(pictures, tmp_path, name):
    pack_into(pictures, tmp_path / "out", 4)
    DAMAGES[name](tmp_path / "out")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}[^\n]*\Z"):
        data.Packed(path=tmp_path / "out").load().train.x[:]


def test_without_classes_there_are_no_labels(tmp_path):
    for i in range(5):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    pack_into(tmp_path / "in", tmp_path / "out", 4)
    opened = data.Packed(path=tmp_path / "out").load()
    assert (opened.num_classes, opened.train.labels) == (None, None)
    assert not list((tmp_path / "out").glob("*.labels"))
