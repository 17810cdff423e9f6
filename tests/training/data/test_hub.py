"""Data sets of the library `datasets`, where it is installed."""

import io
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import rows

from elbos.base.extras import MissingExtra
from elbos.training import data
from elbos.training.data.pack import Encoded, Pictures

NUM = 30
NAMES = ["cat", "dog", "frog"]


def png(number):
    levels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    levels[0, 0, 0] = number
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("datasets")


def dataset(datasets, numbers, names=None):
    kind = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": kind, "text": datasets.Value("string")}
    )
    columns = {
        "picture": [{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
        "kind": [i % 3 for i in numbers],
        "text": ["words" for _ in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def opened(path, **settings):
    given = {"image": "picture", "label": "kind", "size": 6, **settings}
    return data.Hub(path=str(path), **given).load()


def require_right(dataset):
    """Pictures with their labels, each once."""
    found = []
    for split in (dataset.train, dataset.val, dataset.test):
        some = split.x[:][:, 0, 0, 0].tolist()
        assert split.labels.tolist() == [i % 3 for i in some]
        for i, x in zip(some, split.x[:], strict=True):
            assert np.array_equal(x, np.asarray(Image.open(io.BytesIO(png(i)))).transpose(2, 0, 1))
        found += some
    assert sorted(found) == list(range(NUM))


def test_a_saved_data_set_is_read(datasets, tmp_path):
    dataset(datasets, range(NUM), NAMES).save_to_disk(tmp_path / "saved")
    found = opened(tmp_path / "saved")
    require_right(found)
    assert (found.class_names, found.shape) == (("cat", "dog", "frog"), (3, 6, 6))
    again = opened(tmp_path / "saved", flip=True)
    assert again.fingerprint() == found.fingerprint()
    assert rows(again) == rows(found)
    assert opened(tmp_path / "saved", label=None).num_classes is None


def test_splits_are_taken_and_divided(datasets, tmp_path):
    parts = {"train": range(20), "validation": range(20, 30), "unsupervised": range(5)}
    whole = {name: dataset(datasets, numbers) for name, numbers in parts.items()}
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "saved")
    found = opened(tmp_path / "saved")
    require_right(found)
    assert len(found.train) == 20
    assert len(found.val) < len(found.test)


def test_a_split_of_hidden_labels_is_as_if_it_were_missing(datasets, tmp_path):
    parts = {"test": range(9), "train": range(20), "validation": range(20, 30)}
    whole = {name: dataset(datasets, numbers, NAMES) for name, numbers in parts.items()}
    hidden = {"kind": [-1] * 9, "picture": whole["test"]["picture"], "text": whole["test"]["text"]}
    whole["test"] = datasets.Dataset.from_dict(hidden, features=whole["test"].features)
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "all")
    del whole["test"]
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "without")
    with pytest.warns(UserWarning, match="test"):
        found = opened(tmp_path / "all")
    require_right(found)
    expected = opened(tmp_path / "without")
    assert (found.num_classes, found.class_names) == (3, expected.class_names)
    assert rows(found) == rows(expected)
    assert len(opened(tmp_path / "all", label=None).test) == 9


@pytest.mark.parametrize(("label", "num_classes"), [("kind", 3), ("None", None)])
def test_a_data_set_is_packed_with_and_without_labels(
    datasets, elbos, tmp_path, label, num_classes
):
    dataset(datasets, range(NUM)).save_to_disk(tmp_path / "saved")
    words = ["--image", "picture", "--label", label, "--size", 6, "--jobs", 1]
    found = elbos("data", "pack", f"hub:{tmp_path / 'saved'}", tmp_path / "out", *words)
    assert found.status == 0, found.err
    packed = data.Packed(path=tmp_path / "out").load()
    assert packed.num_classes == num_classes
    expected = opened(tmp_path / "saved", label="kind" if num_classes else None)
    assert rows(packed) == rows(expected)


def test_a_folder_of_parquet_is_read(datasets, tmp_path):
    (tmp_path / "files").mkdir()
    dataset(datasets, range(NUM)).to_parquet(tmp_path / "files" / "train.parquet")
    found = opened(tmp_path / "files")
    require_right(found)
    made = data.Batches(found.train, 8, 0, slice(0, 8))
    for step, batch in enumerate(made.prefetched(0, 4)):
        assert torch.equal(batch.x, made[step].x)


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"image": "pictrue"}, "did you mean picture"), ({"label": "lable"}, "lable")],
)
def test_a_missing_column_is_named(datasets, tmp_path, settings, part):
    dataset(datasets, range(NUM)).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{part}[^\n]*\Z"):
        opened(tmp_path / "saved", **settings)


def saved_with_paths(datasets, folder, paths):
    """A folder of parquet whose first rows name files instead of holding their bytes."""
    binary, text = datasets.Value("binary"), datasets.Value("string")
    picture = {"bytes": binary, "path": text}
    names = [*map(str, paths), *[None] * (NUM - len(paths))]
    pictures = [{"bytes": None if name else png(i), "path": name} for i, name in enumerate(names)]
    columns = {"picture": pictures, "kind": [i % 3 for i in range(NUM)]}
    features = datasets.Features({"picture": picture, "kind": datasets.Value("int64")})
    folder.mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return folder


def test_a_row_that_names_a_file_outside_of_the_data_set_is_refused(
    datasets, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").write_bytes(png(0))
    for i, path in enumerate((tmp_path / "0.png", "../0.png", f"{tmp_path}/files2/../0.png")):
        folder = saved_with_paths(datasets, tmp_path / f"files{i}", [path])
        for skip_bad in (False, True):
            with pytest.raises(
                ValueError, match=r"\A[^\n]*files\d[^\n]*row 0 [^\n]*0\.png[^\n]*\Z"
            ):
                opened(folder, skip_bad=skip_bad)


def test_a_row_whose_file_is_missing_is_named_or_skipped(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.png").write_bytes(png(1))  # beside the folder, where a path leads as well
    folder = saved_with_paths(datasets, tmp_path / "files", ["0.png", "1.png"])
    (folder / "0.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"\A[^\n]*files[^\n]*000000001[^\n]*\Z"):
        opened(folder)
    with pytest.warns(UserWarning, match="000000001"):
        splits = opened(folder, skip_bad=True).splits
    assert sorted(i for split in splits for i in split.x[:][:, 0, 0, 0].tolist()) == [
        *(0, *range(2, NUM)),
    ]


@dataclass(frozen=True, kw_only=True)
class Nulls(Pictures):
    """Images of which every other one is missing."""

    place = "nulls"

    def source(self):
        return "nulls"

    def images(self):
        splits = ("train", "val", "test")
        images = (
            Encoded(f"{i:02}", None if i % 2 else png(i), splits[i // 4 % 3]) for i in range(NUM)
        )
        return images, None


def test_a_missing_image_is_a_bad_one():
    with pytest.raises(ValueError, match=f"{NUM // 2} of {NUM} .*missing"):
        Nulls(size=6).load()
    with pytest.warns(UserWarning, match=f"{NUM // 2} of {NUM} "):
        dataset = Nulls(size=6, skip_bad=True).load()
    assert dataset.train.x[:][:, 0, 0, 0].tolist() == [0, 2, 12, 14, 24, 26]


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"elbos\[datasets\]"):
        data.Hub(path="any").load()
