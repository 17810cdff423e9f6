"""Data: splits are disjoint, cover, and never move; the order of the data is a pure function."""

import errno
import gzip
import itertools
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from elbos.runs import cache
from elbos.training import data
from elbos.training.data import fashion, folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache folder, away from the user's."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path / "elbos"


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_levels_are_an_inverse_pair(num_levels):
    k = torch.arange(num_levels, dtype=torch.uint8)
    x = data.to_unit(k, num_levels)
    assert (x[0], x[-1]) == (-1.0, 1.0)
    torch.testing.assert_close(x.diff(), torch.full_like(x[1:], 2 / (num_levels - 1)))
    assert torch.equal(data.to_levels(x, num_levels), k)
    nudge = 0.49 * 2 / (num_levels - 1)  # anything nearer than half a level away rounds back
    assert torch.equal(data.to_levels(x + nudge, num_levels), k)
    assert torch.equal(data.to_levels(x - nudge, num_levels), k)


def test_levels_outside_are_clamped_and_continuous_data_pass():
    assert data.to_levels(torch.tensor([-9.0, 9.0]), 256).tolist() == [0, 255]
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert data.to_unit(x, None) is x
    assert data.to_levels(x, None) is x


# --- the order of batches ------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "batch_size"), [(12, 4), (10, 3), (3, 7), (5, 5), (1, 4), (7, 1)])
def test_each_epoch_visits_each_sample_once(num, batch_size):
    num_epochs = 2 * batch_size
    steps = num_epochs * num // batch_size
    batches = [data.batch_indices(num, batch_size, seed=3, step=step) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch, visited in enumerate(torch.cat(batches).split(num)):
        assert visited.sort().values.tolist() == list(range(num))
        assert torch.equal(visited, data.epoch_order(num, 3, epoch))


def test_batches_are_a_pure_function_of_seed_and_step():
    arguments = [(50, 16, seed, step) for seed in (0, 1) for step in range(12)]
    forward = [data.batch_indices(*args).clone() for args in arguments]
    data.batch_indices(*arguments[-1]).zero_()  # writing to a batch must not reach the next caller
    backward = [data.batch_indices(*args) for args in reversed(arguments)][::-1]
    for first, second in zip(forward, backward, strict=True):
        assert torch.equal(first, second)
    assert len({tuple(batch.tolist()) for batch in forward}) == len(forward)


def test_the_order_is_uniform():
    orders = torch.stack([data.epoch_order(4, 0, epoch) for epoch in range(2_400)])
    _, counts = orders.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    chi_square = ((counts - 100.0) ** 2 / 100).sum()
    assert abs(chi_square - 23) < 4 * (2 * 23) ** 0.5


def test_the_order_never_changes():
    assert data.epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert data.batch_indices(8, 5, 1, 3).tolist() == [7, 6, 0, 7, 5]


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        data.batch_indices(0, 4, 0, 0)


# --- digits --------------------------------------------------------------------------------------


def rows(dataset):
    """Every sample of every split as a hashable row, split by split."""
    return [
        [x.numpy().tobytes() for x in split.x]
        for split in (dataset.train, dataset.val, dataset.test)
    ]


def test_digits_are_split_without_overlap_and_in_proportion():
    from sklearn.datasets import load_digits

    digits = data.Digits().load()
    parts = rows(digits)
    assert [len(part) for part in parts] == [1350, 150, 297]
    reference = load_digits()
    expected = [image.astype(np.uint8).tobytes() for image in reference.images]
    assert sorted(itertools.chain(*parts)) == sorted(expected)
    assert digits.shape == (1, 8, 8)
    assert digits.train.x.max() == digits.num_levels - 1
    label_of = dict(zip(expected, reference.target, strict=True))
    share = np.bincount(reference.target) / len(expected)
    for split, part in zip((digits.train, digits.val, digits.test), parts, strict=True):
        assert split.labels.tolist() == [label_of[row] for row in part]
        counts = np.bincount(split.labels, minlength=10)
        assert np.abs(counts - share * len(part)).max() <= 1.5  # two roundings, val after test


def test_digits_never_move():
    digits = data.Digits().load()
    assert digits.test.labels[:12].tolist() == [7, 3, 1, 3, 0, 3, 4, 7, 3, 5, 6, 6]
    assert rows(digits) == rows(data.Digits().load())


# --- toy -----------------------------------------------------------------------------------------

TOYS = [data.Toy(kind="ring"), data.Toy(kind="grid"), data.Toy(kind="pair")]


@pytest.mark.parametrize("toy", TOYS, ids=repr)
def test_toy_has_the_moments_of_its_mixture(toy):
    dataset, mixture = toy.load(), toy.mixture
    weights, means, stds = mixture.weights, mixture.means, mixture.stds
    mean = weights @ means
    offset = means - mean
    covariance = torch.einsum("k,ki,kj->ij", weights, offset, offset)
    covariance += (weights * stds**2).sum() * torch.eye(2, dtype=torch.float64)
    assert covariance.diagonal().max() <= 1
    for split in (dataset.train, dataset.val, dataset.test):
        x = split.x.double()
        assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / len(x)).sqrt()).all()
        products = torch.einsum("ni,nj->nij", x - mean, x - mean)
        assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / len(x) ** 0.5).all()
        counts = split.labels.bincount(minlength=dataset.num_classes)
        share = weights * len(x)
        assert ((counts - share).abs() < 4 * (share * (1 - weights)).sqrt()).all()
        distance = (x - means[split.labels]).norm(dim=1) / stds[split.labels]
        assert abs((distance**2).mean() - 2) < 4 * 2 / len(x) ** 0.5  # chi-square, 2 dimensions


def test_toy_splits_are_fixed_and_different():
    first, second = data.Toy(num_train=10_000).load(), data.Toy(num_train=10_000).load()
    assert torch.equal(first.train.x, second.train.x)
    assert not torch.equal(first.val.x, first.test.x)
    assert not torch.equal(first.val.x, first.train.x)
    assert (first.shape, first.num_levels) == ((2,), None)
    with pytest.raises(ValueError, match="num_train is 0"):
        data.Toy(num_train=0).load()


# --- fashion -------------------------------------------------------------------------------------


def write_idx(path, array):
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_fashion(path, suffix="", num_train=2_003, num_test=5):
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, num in [("train", num_train), ("t10k", num_test)]:
        write_idx(path / f"{name}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (num, 28, 28)))
        write_idx(path / f"{name}-labels-idx1-ubyte{suffix}", np.arange(num) % 10)


@pytest.mark.parametrize("where", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_reads_what_was_written(tmp_path, where, suffix):
    write_fashion(tmp_path / where, suffix)
    dataset = data.Fashion(root=tmp_path).load()
    expected = np.random.default_rng(0).integers(0, 256, (2_003, 28, 28))
    assert torch.equal(torch.cat([dataset.train.x, dataset.val.x])[:, 0], torch.tensor(expected))
    assert torch.cat([dataset.train.labels, dataset.val.labels]).tolist() == [
        i % 10 for i in range(2_003)
    ]
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [3, 2_000, 5]
    assert dataset.shape == (1, 28, 28)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "cut short": cut,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "no head": lambda path: path.write_bytes(b"\0\0\x08"),
    "magic": lambda path: path.write_bytes(b"\0\0\x0d\x03" + path.read_bytes()[4:]),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_fashion_names_a_damaged_file(tmp_path, damage, name):
    write_fashion(tmp_path)
    DAMAGE[damage](tmp_path / name)
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}[^\n]*get it again\Z"):
        data.Fashion(root=tmp_path).load()


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"not gzip")])
def test_fashion_names_a_damaged_archive(tmp_path, damage):
    write_fashion(tmp_path, ".gz")
    damage(tmp_path / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is cut short or damaged"):
        data.Fashion(root=tmp_path).load()


def test_fashion_checks_counts_and_labels(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(ValueError, match="5 t10k images but 4 labels"):
        data.Fashion(root=tmp_path).load()
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.full(5, 10))
    with pytest.raises(ValueError, match="label 10"):
        data.Fashion(root=tmp_path).load()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        data.Fashion(root=tmp_path).load()
    write_fashion(tmp_path, num_train=2_000)
    with pytest.raises(ValueError, match="2000 training images"):
        data.Fashion(root=tmp_path).load()
    with pytest.raises(FileNotFoundError, match="no Fashion-MNIST in"):
        data.Fashion(root=tmp_path / "nowhere").load()


def test_fashion_without_network_names_the_three_ways(monkeypatch, own_cache):
    def unreachable(root, download):
        assert download
        (root / "FashionMNIST").mkdir()
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried ...")

    monkeypatch.setattr(fashion, "DEBIAN", Path("/nowhere"))
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", unreachable)
    with pytest.raises(FileNotFoundError) as error:
        data.Fashion().load()
    assert "\n" not in str(error.value)
    for way in ("network", "apt install dataset-fashion-mnist", "--data.root"):
        assert way in str(error.value)
    assert not any(path.is_dir() for path in own_cache.iterdir())


def test_fashion_is_downloaded_once(monkeypatch):
    calls = []

    def fetch(root, download):
        assert download
        calls.append(root)
        write_fashion(root / "FashionMNIST" / "raw")

    monkeypatch.setattr(fashion, "DEBIAN", Path("/nowhere"))
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fetch)
    assert rows(data.Fashion().load()) == rows(data.Fashion().load())
    assert len(calls) == 1


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_of_debian():
    dataset = data.Fashion().load()
    splits = (dataset.train, dataset.val, dataset.test)
    assert [len(split) for split in splits] == [58_000, 2_000, 10_000]
    assert sum(split.labels.bincount() for split in splits).tolist() == [7_000] * 10
    assert dataset.class_names[dataset.train.labels[0]] == "Ankle boot"


# --- folder --------------------------------------------------------------------------------------

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
    return [split.x[:, 0, 0, 0].tolist() for split in (dataset.train, dataset.val, dataset.test)]


def all_reds(dataset):
    return sorted(itertools.chain(*reds(dataset)))


def one(tmp_path, image, size, **kwargs):
    """The picture `image` as the data set gives it."""
    root = tmp_path / "one"
    name = kwargs.pop("name", "picture.png")
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True, exist_ok=True)
        image.save(root / split / name, **kwargs)
    dataset = data.Folder(root=root, size=size).load()
    assert torch.equal(dataset.train.x, dataset.test.x)
    return dataset.train.x[0]


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
    names = [folder._Picture(Path(f"{i}.png"), f"{i}.png", None) for i in range(10_000)]
    for part in folder._by_hash(names, with_test=True)[1:]:
        assert abs(len(part) - 500) < 4 * (10_000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("num", [3, 4, 10])
def test_no_split_is_empty(tmp_path, num):
    for i in range(num):
        save(tmp_path / f"{i}.png", (i, 0, 0))
    dataset = data.Folder(root=tmp_path, size=2).load()
    assert all(reds(dataset))
    assert (dataset.num_classes, dataset.train.labels) == (None, None)


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


def test_hidden_and_other_files_are_ignored(pictures):
    (pictures / "cat" / ".hidden.png").write_bytes(b"")
    (pictures / ".git").mkdir()
    (pictures / "cat" / ".thumbnails").mkdir()
    (pictures / "cat" / ".thumbnails" / "1.png").write_bytes(b"")
    (pictures / "README.txt").write_text("about")
    assert len(all_reds(data.Folder(root=pictures, size=4).load())) == NUM


def halves(width, height):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


RED, BLUE = torch.tensor([255, 0, 0]), torch.tensor([0, 0, 255])


@pytest.mark.parametrize("shape", [(64, 64), (128, 64), (64, 160), (512, 300)])
def test_the_centre_is_kept(tmp_path, shape):
    x = one(tmp_path, halves(*shape), size=16)
    assert torch.equal(x[:, :, :5].long(), RED[:, None, None].expand(3, 16, 5))
    assert torch.equal(x[:, :, 11:].long(), BLUE[:, None, None].expand(3, 16, 5))
    assert torch.equal(x[0], 255 - x[2])


def test_resizing_is_antialiased(tmp_path):
    checkers = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    x = one(tmp_path, checkers, size=8).float()
    assert (x - 127.5).abs().max() < 3


def test_a_picture_of_the_right_size_is_unchanged(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    x = one(tmp_path, Image.fromarray(levels), size=5)
    assert np.array_equal(x.permute(1, 2, 0), levels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path, orientation):
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored turned left: shown turned right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3))
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    x = one(tmp_path, stored, size=5, exif=exif)
    assert np.array_equal(x.permute(1, 2, 0), np.asarray(upright))


def palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def palette_with_hole():
    image = palette()
    image.info["transparency"] = 1
    return image


def grey16(level, dtype=np.uint16):
    return Image.fromarray(np.full((4, 4), level, dtype))


MODES = {
    "grey": (Image.new("L", (4, 4), 77), (77, 77, 77)),
    "black and white": (Image.new("1", (4, 4), 1), (255, 255, 255)),
    "opaque": (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), (10, 20, 30)),
    "transparent": (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
    "half": (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), (204, 204, 204)),
    "grey with alpha": (Image.new("LA", (4, 4), (0, 51)), (204, 204, 204)),
    "palette": (palette(), (10, 20, 30)),
    "palette with hole": (palette_with_hole(), (255, 255, 255)),
    "16-bit": (grey16(0xAB00), (0xAB, 0xAB, 0xAB)),
    "16-bit white": (grey16(65535), (255, 255, 255)),
    "16-bit black": (grey16(255), (0, 0, 0)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    image, color = MODES[mode]
    x = one(tmp_path, image, size=3)
    assert x.unique_consecutive(dim=1).unique_consecutive(dim=2).flatten().tolist() == list(color)


def test_cmyk_and_16_bit_tiff_and_mpo(tmp_path):
    x = one(tmp_path / "a", Image.new("CMYK", (8, 8), (0, 0, 0, 255)), 4, name="x.jpg")
    assert x.max() <= 2
    x = one(tmp_path / "b", grey16(0x80FF), 4, name="x.tiff")
    assert x.unique().tolist() == [0x80]
    photo, preview = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))
    x = one(
        tmp_path / "c",
        photo,
        4,
        name="x.jpg",
        format="MPO",
        save_all=True,
        append_images=[preview],
    )
    assert x.min() == 255


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
FRAMES = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]


def make_cut(path):
    NOISE.save(path)
    path.write_bytes(path.read_bytes()[:2_000])


def make_moving(path):
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])


BAD = {
    "cut.png": (make_cut, "truncated"),
    "cut.jpg": (make_cut, "truncated"),
    "empty.png": (lambda path: path.write_bytes(b""), "(empty)"),
    "text.png": (lambda path: path.write_text("words"), "(not an image)"),
    "none.ppm": (lambda path: path.write_bytes(b"P6 0 0 255\n"), "none.ppm"),
    "link.png": (lambda path: path.symlink_to("nowhere.png"), "(not a file)"),
    "loop.png": (lambda path: path.symlink_to("loop.png"), "(not a file)"),
    "pipe.png": (os.mkfifo, "(not a file)"),
    "moving.gif": (make_moving, "(several frames)"),
    "moving.png": (make_moving, "(several frames)"),
    "moving.webp": (make_moving, "(several frames)"),
    "pages.tiff": (make_moving, "(several frames)"),
    "float.tiff": (lambda path: grey16(0.5, np.float32).save(path), "(floating-point pixels)"),
    "deep.tiff": (lambda path: grey16(70_000, np.int32).save(path), "(more than 16 bits)"),
    "bomb.png": (lambda path: save(path, 0, (100, 100)), "(too many pixels)"),
    "large.png": (lambda path: save(path, 0, (80, 80)), "(too many pixels)"),
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
    with pytest.raises(ValueError, match="cannot be used") as error:
        data.Folder(root=tmp_path, size=4).load()
    message = str(error.value)
    assert message.startswith(f"1 of 4 pictures in {tmp_path} cannot be used: '{name}' (")
    assert reason in message
    assert message.endswith("; repair or remove them, or pass --data.skip-bad")
    assert "\n" not in message


@pytest.mark.usefixtures("low_pixel_limit")
def test_bad_files_are_counted_and_left_out_on_demand(pictures):
    good = reds(data.Folder(root=pictures, size=4).load())
    for name, (make, _) in BAD.items():
        make(pictures / "cat" / name)
    count = f"{len(BAD)} of {NUM + len(BAD)} pictures"
    with pytest.raises(ValueError, match=rf"{count} .*cat/.*cat/.*cat/.*\), \.\.\.; repair"):
        data.Folder(root=pictures, size=4).load()
    with pytest.warns(UserWarning, match=rf"\A{count} [^\n]* are left out\Z") as caught:
        dataset = data.Folder(root=pictures, size=4, skip_bad=True).load()
    assert len(caught) == 1
    assert reds(dataset) == good


def test_a_folder_of_bad_files_only(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 4 pictures"):
        data.Folder(root=tmp_path).load()
    with (
        pytest.warns(UserWarning, match="4 of 4"),
        pytest.raises(ValueError, match="no usable picture for train"),
    ):
        data.Folder(root=tmp_path, skip_bad=True).load()


def test_the_cache_is_used_and_refreshed(pictures, monkeypatch, own_cache):
    decoded = []

    def counting(path, size, decode=folder.decode):
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(folder, "decode", counting)
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


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_pictures_of_the_same_names_sizes_and_times_are_others(pictures, is_elsewhere):
    config = data.Folder(root=pictures, size=4)
    assert all_reds(config.load()) == list(range(NUM))
    root = pictures.rename(pictures.with_name("before")) if is_elsewhere else pictures
    for path in sorted(root.glob("*/*")):
        times = path.stat().st_mtime_ns
        save(pictures / path.relative_to(root), (255 - int(path.stem), 0, 0))
        os.utime(pictures / path.relative_to(root), ns=(times, times))
    assert all_reds(config.load()) == list(range(256 - NUM, 256))
    if is_elsewhere:
        assert all_reds(data.Folder(root=root, size=4).load()) == list(range(NUM))


def flipped(path, number):
    """The file with a bit changed."""
    content = bytearray(path.read_bytes())
    content[number] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "levels cut short": lambda cached: os.truncate(cached / "levels", 3 * 16 * NUM - 1),
    "levels empty": lambda cached: os.truncate(cached / "levels", 0),
    "first level flipped": lambda cached: flipped(cached / "levels", 0),
    "last level flipped": lambda cached: flipped(cached / "levels", 3 * 16 * NUM - 1),
    "levels gone": lambda cached: (cached / "levels").unlink(),
    "index cut short": lambda cached: os.truncate(cached / "index.json", 80),
    "index flipped": lambda cached: flipped(cached / "index.json", 70),
    "seal no text": lambda cached: (cached / "index.json").write_bytes(b"\xff"),
    "index gone": lambda cached: (cached / "index.json").unlink(),
    "all gone": lambda cached: [path.unlink() for path in cached.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(pictures, own_cache, damage):
    (pictures / "dog" / "empty.ppm").touch()
    config = data.Folder(root=pictures, size=4, skip_bad=True)
    with pytest.warns(UserWarning, match=r"empty.ppm"):
        first = rows(config.load())
    (cached,) = (path for path in own_cache.iterdir() if path.is_dir())
    DAMAGES[damage](cached)
    for num_warnings in (1, 0):
        with pytest.warns(UserWarning) as found:
            assert rows(config.load()) == first
        assert sum(cached.name in str(warning.message) for warning in found) == num_warnings


def test_without_a_home_the_cache_is_asked_for(monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(FileNotFoundError, match="XDG_CACHE_HOME"):
        cache.cache_dir()
    for config in (data.Folder, data.Fashion):
        with pytest.raises(FileNotFoundError, match="home directory is not known"):
            config(root=Path("~/pictures"))


# --- what tells data from others -----------------------------------------------------------------


def of_levels(x, labels=None):
    split = data.Split(x, labels)
    few = data.Split(x[:2], None if labels is None else labels[:2])
    return data.Dataset("some", split, few, few, 256, None, None)


@pytest.mark.parametrize("is_of_points", [True, False])
def test_the_fingerprint_is_of_all_samples(is_of_points):
    x = torch.arange(5000 * 3).remainder(251).to(torch.uint8).reshape(5000, 3, 1, 1)
    x = x.flatten(1).float() if is_of_points else x
    before = of_levels(x).fingerprint()
    assert of_levels(x.clone()).fingerprint() == before
    for row in (0, 1, 2, 1234, 4999):
        changed = x.clone()
        changed[row, 2] += 1
        assert of_levels(changed).fingerprint() != before
    labels = torch.zeros(5000, dtype=torch.int64)
    with_labels = of_levels(x, labels).fingerprint()
    assert with_labels != before
    labels[1234] = 1
    assert of_levels(x, labels).fingerprint() != with_labels


def test_the_fingerprint_of_a_folder_is_that_of_its_levels(pictures):
    found = data.Folder(root=pictures, size=4).load()
    assert found.known_digest is not None
    assert replace(found, known_digest=None).fingerprint() == found.fingerprint()


def test_an_interrupted_cache_leaves_nothing(pictures, monkeypatch, own_cache):
    def interrupted(path, size, decode=folder.decode):
        if path.name == "031.ppm":
            raise KeyboardInterrupt
        return decode(path, size)

    config = data.Folder(root=pictures, size=4)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            config.load()
    assert not any(path.is_dir() for path in own_cache.iterdir())

    folder_name = f"{next(own_cache.glob('*.lock')).stem}.partial"  # as a killed process leaves it
    (own_cache / folder_name).mkdir()
    (own_cache / folder_name / "levels").write_bytes(b"half")
    assert all_reds(config.load()) == list(range(NUM))
    assert not (own_cache / folder_name).exists()


def test_a_full_or_forbidden_cache_is_explained(monkeypatch, tmp_path):
    def fill_the_disk(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with pytest.raises(OSError, match=r"\Acannot write the cache .*XDG_CACHE_HOME[^\n]*\Z"):
        cache.build_once("x", fill_the_disk, read=Path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"\Acannot write the cache .*XDG_CACHE_HOME[^\n]*\Z"):
        cache.build_once("x", fill_the_disk, read=Path)


def test_unreadable_files_are_an_error_not_skipped(pictures, monkeypatch):
    def forbidden(path, size):
        assert size == 32
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(folder, "decode", forbidden)
    with pytest.raises(PermissionError, match=r"\A.*ppm may not be read: .*chmod[^\n]*\Z"):
        data.Folder(root=pictures, skip_bad=True).load()


def nothing(root):
    pass


def no_picture(root):
    (root / "notes.txt").write_text("")


def empty_class(root):
    save(root / "cat" / "1.png", 0)
    (root / "dog").mkdir()


def mixed(root):
    save(root / "cat" / "1.png", 0)
    save(root / "2.png", 0)


def no_test(root):
    save(root / "train" / "1.png", 0)
    save(root / "val" / "1.png", 0)


def unknown_class(root):
    save(root / "train" / "a" / "1.png", 0)
    save(root / "train" / "a" / "2.png", 0)
    save(root / "test" / "b" / "1.png", 0)


def held_out_class(root):
    """One picture of b, whose name's hash is below 0.05: it falls into validation."""
    for i in range(10):
        save(root / "a" / f"{i}.png", 0)
    name = next(f"{i}.png" for i in range(1000) if folder._hash(f"b/{i}.png") < 0.05)
    save(root / "b" / name, 0)


def held_out_class_of_train(root):
    """The same where validation is cut from the folder train."""
    for i in range(10):
        save(root / "train" / "a" / f"{i}.png", 0)
    name = next(f"{i}.png" for i in range(1000) if folder._hash(f"train/b/{i}.png") < 0.05)
    save(root / "train" / "b" / name, 0)
    save(root / "test" / "a" / "1.png", 0)


def two(root):
    save(root / "1.png", 0)
    save(root / "2.png", 0)


REFUSED = {
    nothing: "there is no picture in",
    no_picture: "there is no picture in",
    empty_class: "there is no picture in .*dog: add some or remove the folder",
    mixed: "both directly and in sub-folders",
    no_test: "train but no test",
    unknown_class: "class 'b' has no usable picture for training",
    held_out_class: "class 'b' has no usable picture for training",
    held_out_class_of_train: "class 'b' has no usable picture for training",
    two: "only 2 pictures",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_cannot_be_split_is_refused_in_one_line(tmp_path, make):
    make(tmp_path)
    with pytest.raises(ValueError, match=rf"\A[^\n]*{REFUSED[make]}[^\n]*\Z"):
        data.Folder(root=tmp_path).load()


def test_a_class_whose_training_pictures_are_all_bad_is_named(tmp_path):
    for split, label in ((split, label) for split in ("train", "test") for label in "ab"):
        for i in range(2):
            save(tmp_path / split / label / f"{i}.png", 0)
    save(tmp_path / "val" / "a" / "0.png", 0)
    for path in (tmp_path / "train" / "b").iterdir():
        path.write_bytes(b"bad")
    with (
        pytest.warns(UserWarning, match="2 of 9 pictures"),
        pytest.raises(ValueError, match="class 'b' has no usable picture for training"),
    ):
        data.Folder(root=tmp_path, skip_bad=True).load()


def test_links_that_lead_in_circles_are_refused(tmp_path):
    """Two of them in each folder would be followed 2^40 times."""
    for name, others in {"a": "bc", "b": "ac", "c": "ab"}.items():
        save(tmp_path / name / "one.png", (0, 0, 0))
        for other in others:
            (tmp_path / name / other).symlink_to(tmp_path / other)
    with pytest.raises(ValueError, match="is a link to a folder that it is in"):
        data.Folder(root=tmp_path).load()


def test_links_are_followed(pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "elsewhere" / name).symlink_to(pictures / name)
    assert all_reds(data.Folder(root=tmp_path / "elsewhere").load()) == list(range(NUM))


def test_missing_folder_and_wrong_size(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.Folder(root=tmp_path / "nowhere").load()
    with pytest.raises(ValueError, match="size is 0"):
        data.Folder(root=tmp_path, size=0).load()


# --- command line --------------------------------------------------------------------------------


def test_configurations_are_parsed_from_the_command_line():
    import tyro

    def parse(*args):
        return tyro.cli(data.Data, args=args)

    assert parse("digits") == data.Digits()
    assert parse("fashion", "--root", "x") == data.Fashion(root=Path("x"))
    assert parse("folder", "--root", "x", "--skip-bad") == data.Folder(
        root=Path("x"), skip_bad=True
    )
    assert parse("toy", "--kind", "grid") == data.Toy(kind="grid")
