"""Fashion-MNIST: from wherever its files are, and damaged files are named."""

import gzip
import hashlib
import io
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import rows

from elbos.training import data
from elbos.training.data import fashion


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


@pytest.mark.parametrize("where", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_reads_what_was_written(tmp_path, where, suffix):
    write_fashion(tmp_path / where, suffix)
    dataset = data.Fashion(root=tmp_path).load()
    expected = np.random.default_rng(0).integers(0, 256, (2_003, 28, 28))
    actual = torch.cat([dataset.train.x[:], dataset.val.x[:]])
    assert torch.equal(actual[:, 0], torch.tensor(expected))
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
    with pytest.raises(ValueError, match=rf"\A[^\n]*{name}[^\n]*\Z"):
        data.Fashion(root=tmp_path).load()


def test_fashion_checks_counts_and_names_missing_files(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(4))
    with pytest.raises(ValueError, match=r"5 t10k .* 4"):
        data.Fashion(root=tmp_path).load()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        data.Fashion(root=tmp_path).load()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.Fashion(root=tmp_path / "nowhere").load()


def test_fashion_is_downloaded_once_and_only_whole(monkeypatch, tmp_path):
    write_fashion(tmp_path, ".gz")
    names = []

    def fetch(url, timeout):
        names.append(url.rpartition("/")[2])
        return io.BytesIO((tmp_path / names[-1]).read_bytes())

    monkeypatch.setattr(fashion, "DEBIAN", Path("/nowhere"))
    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        data.Fashion().load()
    written = {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in tmp_path.iterdir()
    }
    assert written.keys() == fashion._MD5.keys()
    monkeypatch.setattr(fashion, "_MD5", written)
    assert rows(data.Fashion().load()) == rows(data.Fashion().load())
    assert sorted(names[1:]) == sorted(written)


@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_of_debian():
    dataset = data.Fashion().load()
    splits = (dataset.train, dataset.val, dataset.test)
    assert [len(split) for split in splits] == [58_000, 2_000, 10_000]
    assert sum(split.labels.bincount() for split in splits).tolist() == [7_000] * 10
    assert dataset.class_names[dataset.train.labels[0]] == "Ankle boot"
