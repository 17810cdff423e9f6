"""Pictures in tars are those of the folder that the tars were made from."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import rows

from elbos.training import data

NUM = 40


def png(number, size=(6, 6)):
    """A picture of noise, with its number as the red level of the first pixel."""
    levels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    levels[0, 0, 0] = number
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="png")
    return buffer.getvalue()


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def shard(numbers, label=lambda i: b"%d\n" % (i % 3), picture=png):
    contents = {}
    for i in numbers:
        contents |= {f"{i:04}.png": picture(i), f"{i:04}.cls": label(i), f"{i:04}.txt": b"words"}
    return contents


@pytest.fixture
def shards(tmp_path):
    for i in range(4):
        write(tmp_path / f"{i:02}.tar", shard(range(10 * i, 10 * i + 10)))
    return tmp_path


def numbers(split):
    """The numbers of a split's pictures."""
    return split.x[:][:, 0, 0, 0].tolist()


def test_all_pictures_are_read_with_their_labels(shards):
    dataset = data.Tar(path=shards, size=6).load()
    found = []
    for split in (dataset.train, dataset.val, dataset.test):
        some = numbers(split)
        assert split.labels.tolist() == [i % 3 for i in some]
        for i, x in zip(some, split.x[:], strict=True):
            expected = np.asarray(Image.open(io.BytesIO(png(i)))).transpose(2, 0, 1)
            assert np.array_equal(x, expected)
        assert some
        found += some
    assert sorted(found) == list(range(NUM))
    assert dataset.spec == data.DataSpec(shards.name, (3, 6, 6), 256, 3)
    at_random = torch.tensor([7, 0, 7])
    assert torch.equal(dataset.train.x[at_random], dataset.train.x[:][at_random])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train-0 train-1 test-0", (20, 10)),
        ("imagenet_train_0 imagenet_train_1 imagenet_val_0", (20, None)),
        ("a-training-0 a-validation-0 a-test-0", (10, 10)),
    ],
)
def test_names_of_tars_tell_the_splits(tmp_path, names, expected):
    for i, name in enumerate(names.split()):
        write(tmp_path / f"{name}.tar", shard(range(10 * i, 10 * i + 10)))
    dataset = data.Tar(path=tmp_path, size=4).load()
    num_train, num_test = expected
    num_cut = 0 if "val" in names else len(dataset.val)
    assert len(dataset.train) + num_cut == num_train
    assert num_test is None or len(dataset.test) == num_test
    assert sum(map(len, (dataset.train, dataset.val, dataset.test))) == 30


BAD = {
    "0003.png and 0003.mask.png": {**shard(range(10)), "0003.mask.png": png(3)},
    "0003.png' \\(not an image": {**shard(range(10)), "0003.png": b"bad"},
    "0003.cls": {**shard(range(10)), "0003.cls": b"cat"},
    "0004.cls": {**shard(range(10)), "0004.cls": b"1000000000"},
    "has no .cls": {name: one for name, one in shard(range(10)).items() if name != "0003.cls"},
    "no picture": {"1.cls": b"0"},
}


@pytest.mark.parametrize("part", BAD)
def test_what_is_wrong_is_named_in_one_line(tmp_path, part):
    write(tmp_path / "a.tar", BAD[part])
    with pytest.raises(ValueError, match=rf"\A[^\n]*{part}[^\n]*\Z") as error:
        rows(data.Tar(path=tmp_path, size=4).load())
    assert str(tmp_path) in str(error.value)


def test_no_truncated_or_damaged_tar_loses_its_rest(tmp_path):
    """Wherever it ends, between two members, too; and where a header in its midst is damaged."""
    path = tmp_path / "a.tar"
    write(path, shard(range(10)))
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    cuts = [members[8].offset, members[8].offset + 100, members[8].offset_data + 7, 5000]
    damaged = bytearray(content)
    damaged[members[8].offset + 150] ^= 1  # in the checksum
    for broken in (bytes(damaged), *(content[:cut] for cut in cuts)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"\A[^\n]*a\.tar is corrupt[^\n]*\Z"):
            data.Tar(path=tmp_path, size=4).load()
