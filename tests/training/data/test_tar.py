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


def with_header(path, index, size, kind=tarfile.REGTYPE):
    """The content of a tar, one header of which is another's, with a valid checksum."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmembers()[index].offset
    header = content[start : start + 512]
    header[124:136] = (size % 2**96 | (size >= 0) << 95).to_bytes(12, "big")
    header[156:157] = kind
    if kind == tarfile.GNUTYPE_SPARSE:
        header[386:410], header[483:495] = b"%011o\0%011o\0" % (0, 4), header[124:136]
        header[124:136] = b"%011o\0" % 4
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(content[:start] + header + content[start + 512 :])


def test_no_truncated_or_damaged_tar_loses_its_rest(tmp_path):
    """The end is between two members, too, or zeros or a damaged header are in its midst."""
    path = tmp_path / "a.tar"
    write(path, shard(range(10)))
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    middle = members[15].offset  # a picture without a label would be an error in itself
    damaged = bytearray(content)
    damaged[middle + 150] ^= 1  # in the checksum
    broken = {
        "damaged header": bytes(damaged),
        "zeroed header": content[:middle] + bytes(512) + content[middle + 512 :],
        "zeroed member": content[:middle] + bytes(1024) + content[middle + 1024 :],
        "zeros between": content[:middle] + bytes(1024) + content[middle:],
        "two tars": content + content,
        "more bytes": content + b"more",
    }
    for cut in (middle, middle + 100, middle + 512, members[15].offset_data + 7, 5000):
        broken[f"cut at {cut}"] = content[:cut]
    for kind, some in broken.items():
        path.write_bytes(some)
        with pytest.raises(ValueError, match=r"\A[^\n]*a\.tar is corrupt[^\n]*byte \d[^\n]*\Z"):
            pytest.fail(f"{kind}: {len(data.Tar(path=tmp_path, size=4).load().train)} are read")


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        *((2**80, tarfile.REGTYPE), (2**62, tarfile.REGTYPE), (-1024, tarfile.REGTYPE)),
        *((10**11, tarfile.GNUTYPE_SPARSE), (-1024, tarfile.GNUTYPE_LONGNAME)),
    ],
)
def test_a_forged_size_ends_with_the_name_of_the_tar(tmp_path, size, kind):
    path = tmp_path / "a.tar"
    write(path, shard(range(10)))
    path.write_bytes(with_header(path, 15, size, kind))
    with pytest.raises(ValueError, match=r"\A[^\n]*a\.tar is corrupt[^\n]*byte \d[^\n]*\Z"):
        data.Tar(path=tmp_path, size=4).load()
