"""A folder of pictures: its splits, its cache, and files that are no pictures."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image
from tiny import rows

from elbos.training import data
from elbos.training.data import pack

NUM = 120


def save(path, color, size=(6, 6), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **kwargs)


@pytest.fixture
def pictures(tmp_path):
    """One-coloured pictures of equal file size in two classes; the red level tells them apart."""
    root = tmp_path / "pictures"
    for i in range(NUM):
        save(root / ("cat" if i % 2 else "dog") / f"{i:03}.ppm", (i, 0, 0))
    return root


def reds(dataset):
    return [split.x[:][:, 0, 0, 0].tolist() for split in (dataset.train, dataset.val, dataset.test)]


def all_reds(dataset):
    return sorted(itertools.chain(*reds(dataset)))


def test_folder_splits_are_disjoint_and_cover(pictures):
    dataset = data.Folder(root=pictures, size=4).load()
    parts = reds(dataset)
    assert all_reds(dataset) == list(range(NUM))
    assert min(len(part) for part in parts) >= 1
    assert dataset.class_names == ("cat", "dog")
    assert (dataset.shape, dataset.num_levels, dataset.num_classes) == ((3, 4, 4), 256, 2)
    for split, part in zip((dataset.train, dataset.val, dataset.test), parts, strict=True):
        assert split.labels.tolist() == [int(red % 2 == 0) for red in part]


def test_adding_a_picture_moves_no_other(pictures):
    before = [set(part) for part in reds(data.Folder(root=pictures, size=4).load())]
    save(pictures / "cat" / "new.png", (255, 0, 0))
    after = [set(part) - {255} for part in reds(data.Folder(root=pictures, size=4).load())]
    assert before == after


def test_held_out_shares_are_five_percent():
    images = [pack.Encoded(f"{i}.png", None) for i in range(10_000)]
    for part in pack.by_hash(images, with_test=True)[1:]:
        assert abs(len(part) - 500) < 4 * (10_000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("with_val", [True, False])
def test_train_and_test_folders_are_the_splits(tmp_path, with_val):
    for i, split in enumerate(["train"] * 9 + ["val"] * 2 * with_val + ["test"] * 3):
        save(tmp_path / split / "ab"[i % 2] / f"{i}.png", (i, 0, 0))
    dataset = data.Folder(root=tmp_path, size=2).load()
    train, val, test = reds(dataset)
    if with_val:  # in the order of names
        assert (train, val, test) == ([0, 2, 4, 6, 8, 1, 3, 5, 7], [10, 9], [12, 11, 13])
    else:
        assert (sorted(train + val), test) == ([*range(9)], [10, 11, 9])
        assert val
    assert dataset.class_names == ("a", "b")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
FRAMES = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]


def make_cut(path):
    NOISE.save(path)
    path.write_bytes(path.read_bytes()[:2_000])


def make_moving(path):
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])


BAD = {
    "cut.png": (make_cut, "truncated"),
    "text.png": (lambda path: path.write_text("words"), "(not an image)"),
    "link.png": (lambda path: path.symlink_to("nowhere.png"), "(not a file)"),
    "pipe.png": (os.mkfifo, "(not a file)"),
    "moving.gif": (make_moving, "(several frames)"),
    "float.tiff": (lambda path: grey16(0.5, np.float32).save(path), "(floating-point pixels)"),
    "deep.tiff": (lambda path: grey16(70_000, np.int32).save(path), "(more than 16 bits)"),
    "bomb.png": (lambda path: save(path, 0, (100, 100)), "pixels"),
}


@pytest.fixture
def low_pixel_limit(monkeypatch):
    """Pillow warns above 64x64 pixels and refuses above twice as many."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)


@pytest.mark.usefixtures("low_pixel_limit")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason(tmp_path, name):
    make, reason = BAD[name]
    for i in range(3):
        save(tmp_path / f"{i}.png", 0)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=str(tmp_path)) as error:
        data.Folder(root=tmp_path, size=4).load()
    message = str(error.value)
    for part in ("1 of 4 ", f"'{name}'", reason, "--data.skip-bad"):
        assert part in message
    assert "\n" not in message


def test_the_cache_is_used_and_refreshed(pictures, monkeypatch, own_cache):
    decoded = []

    def counting(path, size, decode=pack.decode):
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", counting)
    config = data.Folder(root=pictures, size=4)
    first = config.load()
    assert len(decoded) == NUM
    assert rows(config.load()) == rows(first)
    assert len(decoded) == NUM

    save(pictures / "dog" / "000.ppm", (199, 0, 0))
    os.utime(pictures / "dog" / "000.ppm", ns=(0, 1))
    changed = all_reds(config.load())
    assert len(decoded) == 2 * NUM
    assert 199 in changed
    assert 0 not in changed
    assert data.Folder(root=pictures, size=5).load().shape == (3, 5, 5)
    assert {path.suffix for path in own_cache.iterdir()} <= {"", ".lock"}


DAMAGES = {
    "samples cut short": lambda cached: os.truncate(cached / "train.npy", 200),
    "index cut short": lambda cached: os.truncate(cached / "index.json", 20),
    "index gone": lambda cached: (cached / "index.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_built_again(pictures, own_cache, damage):
    config = data.Folder(root=pictures, size=4)
    first = rows(config.load())
    (cached,) = (path for path in own_cache.iterdir() if path.is_dir())
    DAMAGES[damage](cached)
    with pytest.warns(UserWarning, match=cached.name):
        assert rows(config.load()) == first
    assert rows(config.load()) == first


def grey16(level, dtype=np.uint16):
    return Image.fromarray(np.full((4, 4), level, dtype))


@pytest.mark.parametrize("error", [MemoryError(), 5])
def test_what_may_pass_is_no_bad_picture(pictures, monkeypatch, error):
    """A picture that cannot be read now, or for which there is no memory, may be read later."""
    config = data.Folder(root=pictures, size=4, skip_bad=True)

    def failing(*_, **__):
        raise OSError(error, os.strerror(error)) if isinstance(error, int) else error

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        with pytest.raises(OSError if isinstance(error, int) else MemoryError):
            config.load()
    assert all_reds(config.load()) == list(range(NUM))


def named_low(path):
    """A picture whose name's hash is below 0.05: it falls into validation."""
    return next(
        n
        for n in (path.format(i) for i in range(1000))
        if pack.hashed(pack.Encoded(n, None)) < 0.05
    )


MANY = [f"a/{i}.png" for i in range(10)]
REFUSED = {  # files and folders, and what is named
    "nothing": ([], "png"),
    "no picture": (["notes.txt"], "png"),
    "mixed": (["cat/1.png", "2.png"], "sub-folders"),
    "no test": (["train/1.png", "val/1.png"], "test"),
    "held-out class": ([*MANY, named_low("b/{}.png")], "'b'"),
    "two": (["1.png", "2.png"], "2 pictures"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_in_one_line(tmp_path, name):
    paths, named = REFUSED[name]
    for path in paths:
        if path.endswith(".png"):
            save(tmp_path / path, 0)
        else:
            (tmp_path / path).mkdir()
    with pytest.raises(ValueError, match=rf"\A[^\n]*{named}[^\n]*\Z"):
        data.Folder(root=tmp_path).load()


def test_classes_may_be_links_and_links_in_a_class_are_not_followed(pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (pictures / "cat" / "loop").symlink_to("..")
    for name in ("cat", "dog"):
        (tmp_path / "elsewhere" / name).symlink_to(pictures / name)
    assert all_reds(data.Folder(root=tmp_path / "elsewhere").load()) == list(range(NUM))
