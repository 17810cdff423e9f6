"""Images of a folder or the Hub: their splits, their cache, and what is left out."""

import io
import itertools
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import rows

from elbos.base.extras import MissingExtra
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
        save(root / ("dog" if i % 2 else "cat") / f"{i:03}.ppm", (i, 0, 0))
    return root


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("datasets")


def png(i):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (i, 0, 0)).save(buffer, format="png")
    return buffer.getvalue()


def shard(numbers, ending="png"):
    members = {}
    for i in numbers:
        members |= {f"{i:03}.{ending}": png(i), f"{i:03}.cls": b"%d\n" % (i % 2)}
    return members


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def table(datasets, numbers, names=("cat", "dog"), labels=None):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=[*names])}
    )
    columns = {
        "img": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
        "label": labels or [i % 2 for i in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def reds(dataset):
    return [split.x[:][:, 0, 0, 0].tolist() for split in dataset.splits]


def all_reds(dataset):
    return sorted(itertools.chain(*reds(dataset)))


def require_right(dataset):
    """All pictures with their labels, each once and none of them in two splits."""
    assert all_reds(dataset) == list(range(NUM))
    assert (dataset.shape, dataset.num_levels, dataset.num_classes) == ((3, 4, 4), 256, 2)
    for split, part in zip(dataset.splits, reds(dataset), strict=True):
        assert part
        assert split.labels.tolist() == [i % 2 for i in part]


# --- the four forms ------------------------------------------------------------------------------


def test_folders_are_classes(pictures):
    dataset = data.Images(path=str(pictures), size=4).load()
    require_right(dataset)
    assert dataset.class_names == ("cat", "dog")
    assert data.Images(path=str(pictures), size=4, label=None).load().num_classes is None


@pytest.mark.usefixtures("datasets")
def test_tars_are_read_whatever_the_type_of_their_pictures(tmp_path):
    for i, ending in enumerate(("png", "jpg", "PNG")):
        numbers = range(i * NUM // 3, (i + 1) * NUM // 3)
        write_tar(tmp_path / "tars" / f"{i}.tar", shard(numbers, ending))
    require_right(data.Images(path=str(tmp_path / "tars"), size=4).load())


def test_parquet_is_read(datasets, tmp_path):
    (tmp_path / "files").mkdir()
    table(datasets, range(NUM)).to_parquet(tmp_path / "files" / "some.parquet")
    dataset = data.Images(path=str(tmp_path / "files"), size=4, image="img").load()
    require_right(dataset)
    assert dataset.class_names == ("cat", "dog")


def test_a_name_is_of_the_hub_with_its_splits(datasets, monkeypatch):
    numbers = {"test": range(80, NUM), "train": range(80), "unsupervised": range(9)}
    parts = {name: table(datasets, some).to_iterable_dataset() for name, some in numbers.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **_: {"owner/name": parts}[path])
    with pytest.warns(UserWarning, match="1 split.* unsupervised"):
        dataset = data.Images(path="owner/name", size=4, image="img").load()
    require_right(dataset)
    assert sorted(reds(dataset)[2]) == list(range(80, NUM))


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"no folder any.*elbos\[datasets\]"):
        data.Images(path="any").load()


# --- splits --------------------------------------------------------------------------------------


def test_adding_a_picture_moves_no_other(pictures):
    before = [set(part) for part in reds(data.Images(path=str(pictures), size=4).load())]
    save(pictures / "cat" / "new.png", (255, 0, 0))
    after = [set(part) - {255} for part in reds(data.Images(path=str(pictures), size=4).load())]
    assert before == after


def test_held_out_shares_are_five_percent():
    samples = [pack.Sample(f"{i}.png", None) for i in range(10_000)]
    for part in pack.divided(samples)[1:]:
        assert abs(len(part) - 500) < 4 * (10_000 * 0.05 * 0.95) ** 0.5


def test_of_imagenets_validation_images_a_tenth_are_for_validation():
    samples = [
        pack.Sample(f"{i}.png", None, split="val" if i % 2 else "train") for i in range(10_000)
    ]
    train, val, test = pack.divided(samples)
    assert {sample.split for sample in val + test} == {"val"}
    assert len(train) == len(val) + len(test) == 5_000
    assert abs(len(val) - 500) < 4 * (5_000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("with_val", [True, False])
def test_train_and_test_folders_are_the_splits(tmp_path, with_val):
    for i, split in enumerate(["train"] * 9 + ["val"] * 2 * with_val + ["test"] * 3):
        save(tmp_path / split / "ab"[i % 2] / f"{i}.png", (i, 0, 0))
    dataset = data.Images(path=str(tmp_path), size=2).load()
    train, val, test = reds(dataset)
    if with_val:  # in the order of names
        assert (train, val, test) == ([0, 2, 4, 6, 8, 1, 3, 5, 7], [10, 9], [12, 11, 13])
    else:
        assert (sorted(train + val), test) == ([*range(9)], [10, 11, 9])
        assert val
    assert dataset.class_names == ("a", "b")


@pytest.mark.usefixtures("datasets")
def test_names_of_tars_tell_the_splits(tmp_path):
    for i, name in enumerate(("a-train-0", "a-valid-0", "test_0", "other")):
        write_tar(tmp_path / f"{name}.tar", shard(range(10 * i, 10 * i + 10)))
    train, val, test = map(sorted, reds(data.Images(path=str(tmp_path), size=4).load()))
    assert (train, val, test) == ([*range(10), *range(30, 40)], [*range(10, 20)], [*range(20, 30)])


# --- what is left out, and what is wrong ---------------------------------------------------------


def test_every_file_of_a_folder_that_is_not_read_is_counted(pictures):
    (pictures / "cat" / "notes.txt").write_text("words")
    (pictures / "cat" / "loop").symlink_to("..")
    save(pictures / "dog" / ".hidden.png", 0)
    with pytest.warns(UserWarning, match="3 file.*: cat/loop, cat/notes.txt, dog/.hidden.png"):
        require_right(data.Images(path=str(pictures), size=4).load())


def test_pictures_outside_of_the_splits_are_counted(tmp_path):
    for name in ("train/1.png", "train/2.png", "test/1.png", "more/1.png", "2.png"):
        save(tmp_path / name, 0)
    with pytest.warns(UserWarning, match=r"2 picture.*: 2.png, more/1.png"):
        dataset = data.Images(path=str(tmp_path), size=4).load()
    assert sum(map(len, dataset.splits)) == 3


@pytest.mark.usefixtures("datasets")
def test_a_sample_of_a_tar_without_a_picture_is_counted(tmp_path):
    members = {"a.txt": b"first", "b.cls": b"0", **shard(range(NUM)), "c.dat": b"0"}
    write_tar(tmp_path / "tars" / "0.tar", members)
    with pytest.warns(UserWarning, match=r"3 sample.*: 0.tar/a, 0.tar/b, 0.tar/c"):
        require_right(data.Images(path=str(tmp_path / "tars"), size=4).load())


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["s-000.tar", "s-001.tar", "s-003.tar"], "1 file.*: s-002.tar"),
        (["a/08.tar", "a/11.tar", "b/08.tar"], "2 file.*: a/09.tar, a/10.tar"),
        (["t-00002-of-00003.tar"], "2 file.*: t-00000-of-00003.tar, t-00001-of"),
        (["t-1-of-3.tar", "t-3-of-3.tar"], "1 file.*: t-2-of-3.tar"),
        (["t-1-of-2.tar", "t-2-of-2.tar", "2019.tar", "2021.tar", "v-000.tar", "w-005.tar"], None),
    ],
)
@pytest.mark.usefixtures("datasets")
def test_a_file_that_is_missing_in_a_numbered_range_is_named(tmp_path, names, missing):
    for i, name in enumerate(names):
        write_tar(tmp_path / "tars" / name, shard(range(10 * i, 10 * i + 10)))
    images = data.Images(path=str(tmp_path / "tars"), size=4)
    if missing is None:
        assert sum(map(len, images.load().splits)) == 10 * len(names)
        return
    with pytest.raises(ValueError, match=missing):
        images.load()
    with pytest.warns(UserWarning, match=missing.replace("file", "missing file")):
        assert sum(map(len, replace(images, skip_bad=True).load().splits)) == 10 * len(names)


def test_a_path_in_a_row_is_not_opened(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret.png").write_bytes(png(255))
    picture = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    images = [{"bytes": png(i), "path": None} for i in range(20)]
    images += [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    rows = datasets.Dataset.from_dict(
        {"image": images}, features=datasets.Features({"image": picture})
    )
    Path("files").mkdir()
    rows.to_parquet("files/train.parquet")
    with pytest.warns(UserWarning, match="1 sample"):
        dataset = data.Images(path="files", size=4, label=None).load()
    assert all_reds(dataset) == list(range(20))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
FRAMES = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]


def grey(level, dtype):
    return Image.fromarray(np.full((4, 4), level, dtype))


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
    "float.tiff": (lambda path: grey(0.5, np.float32).save(path), "(floating-point pixels)"),
    "deep.tiff": (lambda path: grey(70_000, np.int32).save(path), "(more than 16 bits)"),
    "bomb.png": (lambda path: save(path, 0, (100, 100)), "pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_reason_and_left_out_on_demand(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)  # it refuses twice as many
    make, reason = BAD[name]
    for i in range(3):
        save(tmp_path / f"{i}.png", 0)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=tmp_path.name) as error:
        data.Images(path=str(tmp_path), size=4).load()
    message = str(error.value)
    for part in ("1 of 4 ", f"'{name}'", reason, "--data.skip-bad"):
        assert part in message
    assert "\n" not in message
    with pytest.warns(UserWarning, match=f"1 picture.*{name}"):
        dataset = data.Images(path=str(tmp_path), size=4, skip_bad=True).load()
    assert sum(map(len, dataset.splits)) == 3


@pytest.mark.parametrize("error", [MemoryError(), 5])
def test_an_error_of_the_system_is_not_one_of_the_picture(pictures, monkeypatch, error):
    """A picture that cannot be read now, or for which there is no memory, may be read later."""
    images = data.Images(path=str(pictures), size=4, skip_bad=True)

    def failing(*_, **__):
        raise OSError(error, os.strerror(error)) if isinstance(error, int) else error

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        with pytest.raises(OSError if isinstance(error, int) else MemoryError):
            images.load()
    require_right(images.load())


REFUSED = {  # files and folders, and what is named
    "nothing": ([], "png"),
    "no picture": (["notes.txt"], "png"),
    "mixed": (["cat/1.png", "2.png", "cat/3.png"], "2.png .* label None"),
    "two": (["1.png", "2.png"], "no picture for train, with 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_divided_is_refused_in_one_line(tmp_path, name):
    paths, part = REFUSED[name]
    for path in paths:
        if path.endswith(".png"):
            save(tmp_path / path, 0)
        else:
            (tmp_path / path).mkdir()
    with pytest.raises(ValueError, match=rf"\A[^\n]*{part}[^\n]*\Z"):
        data.Images(path=str(tmp_path)).load()


TARS = {
    "003.png' \\(not an image": {**shard(range(10)), "003.png": b"bad"},
    "cat": {**shard(range(10)), "003.cls": b"cat"},
    "label 1000000000, none of the 1000000 classes": {**shard(range(10)), "004.cls": b"1000000000"},
    "003.png in .* the label None": {k: v for k, v in shard(range(9)).items() if k != "003.cls"},
}


@pytest.mark.parametrize("part", TARS)
@pytest.mark.usefixtures("datasets")
def test_a_wrong_member_of_a_tar_is_named_in_one_line(tmp_path, part):
    write_tar(tmp_path / "tars" / "a.tar", TARS[part])
    with pytest.raises(ValueError, match=rf"\A[^\n]*{part}[^\n]*\Z"):
        data.Images(path=str(tmp_path / "tars"), size=4).load()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"image": "pictrue"}, "pictrue"),
        ({"label": "kind"}, "kind"),
        ({}, "label -1.*--data.label"),
    ],
)
def test_a_missing_column_or_hidden_label_is_named(datasets, tmp_path, settings, part):
    (tmp_path / "files").mkdir()
    labels = [0] * 9 + [-1]  # as labels of tests are hidden by convention
    table(datasets, range(10), labels=labels).to_parquet(tmp_path / "files" / "a.parquet")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{part}[^\n]*\Z"):
        data.Images(**{"path": str(tmp_path / "files"), "image": "img", **settings}).load()


def test_classes_may_be_links(pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "elsewhere" / name).symlink_to(pictures / name)
    require_right(data.Images(path=str(tmp_path / "elsewhere"), size=4).load())


# --- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_used_and_refreshed(pictures, monkeypatch, own_cache):
    decoded = []

    def counting(path, size, decode=pack.decode):
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", counting)
    images = data.Images(path=str(pictures), size=4)
    first = images.load()
    assert len(decoded) == NUM
    assert rows(images.load()) == rows(first)
    assert len(decoded) == NUM

    save(pictures / "cat" / "000.ppm", (199, 0, 0))
    os.utime(pictures / "cat" / "000.ppm", ns=(0, 1))
    assert all_reds(images.load()) == [*range(1, NUM), 199]
    assert len(decoded) == 2 * NUM
    assert {path.suffix for path in own_cache.iterdir()} <= {"", ".lock"}


DAMAGES = {
    "samples cut short": lambda cached: os.truncate(cached / "train.npy", 200),
    "index cut short": lambda cached: os.truncate(cached / "index.json", 20),
    "index gone": lambda cached: (cached / "index.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_built_again(pictures, own_cache, damage):
    images = data.Images(path=str(pictures), size=4)
    images.load()
    (cached,) = (path for path in own_cache.iterdir() if path.is_dir())
    DAMAGES[damage](cached)
    with pytest.warns(UserWarning, match=cached.name):
        require_right(images.load())
    require_right(images.load())
