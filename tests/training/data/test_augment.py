"""What a training makes of images is a function of (seed, epoch, sample), on any device."""

import pytest
import torch

from elbos.base.philox import key_of
from elbos.training.data.batches import Batches
from elbos.training.data.dataset import Dataset, Split, to_levels

SEED = 3


def numbered(num: int, side: int) -> Dataset:
    """Square images whose pixels are all different; at most 256 of them."""
    first = torch.arange(num)[:, None] * side**2
    x = (first + torch.arange(side**2)).view(num, 1, side, side)
    split = Split(x.to(torch.uint8), torch.arange(num), 256)
    return Dataset("numbered", split, split, split, num, None)


def seen(dataset: Dataset, step: int, batch_size: int, share: slice) -> tuple:
    """The pixel values that a training sees, with labels, numbers and epochs of the images."""
    batch = Batches(dataset.train, batch_size, SEED, share)[step]
    x = dataset.augmented(batch.x, key_of(SEED), batch.rows, batch.epochs)
    return to_levels(x, 256), batch.cond, batch.rows, batch.epochs


def test_half_are_mirrored_by_sample_and_epoch_however_batches_are_cut() -> None:
    num, num_epochs = 40, 50
    mirrored = numbered(num, 2).with_augmentation(flip=True, crop=None)
    actual = torch.zeros(num_epochs, num, dtype=torch.bool)
    for step in range(num * num_epochs // 16):
        for share in (slice(0, 12), slice(12, 16)):
            x, labels, rows, epochs = seen(mirrored, step, 16, share)
            assert torch.equal(labels, rows)
            assert torch.equal(x.sort(-1).values, mirrored.train.x[rows])
            actual[epochs, rows] = x[:, 0, 0, 0] > x[:, 0, 0, 1]
    again, _, rows, epochs = seen(mirrored, 4, 400, slice(0, 400))  # epochs 40 to 49
    assert torch.equal(again[:, 0, 0, 0] > again[:, 0, 0, 1], actual[epochs, rows])
    assert abs(actual.double().mean() - 0.5) < 4 * 0.5 / actual.numel() ** 0.5
    for axis in (0, 1):
        assert (actual.sum(axis) > 0).all()


def test_held_out_images_are_as_they_are() -> None:
    plain, mirrored = numbered(8, 2), numbered(8, 2).with_augmentation(flip=True, crop=None)
    assert mirrored.fingerprint() == plain.fingerprint()
    assert mirrored.spec == plain.spec
    for item, other in (
        (mirrored.val, plain.val),
        (mirrored.train, plain.train),
    ):
        assert torch.equal(item.batch(torch.arange(8))[0], other.batch(torch.arange(8))[0])


@pytest.mark.parametrize("flip", [False, True])
def test_parts_are_at_places_of_sample_and_epoch_all_equally_likely(flip: bool) -> None:
    """The corner of a part tells its place, of 3 by 3; mirrored ones are turned back."""
    num, num_epochs, side, size = 7, 300, 6, 4
    dataset = numbered(num, side).with_augmentation(flip=flip, crop=size)
    assert dataset.shape == (1, size, size)
    actual = torch.full((num_epochs, num), -1)
    for step in range(num * num_epochs // 12):
        for share in (slice(0, 5), slice(5, 12)):
            x, _, rows, epochs = seen(dataset, step, 12, share)
            is_mirrored = x[:, :, :, :1] > x[:, :, :, 1:2]
            x = torch.where(is_mirrored, x.flip(-1), x).int()[:, 0]
            assert flip or not is_mirrored.any()
            corner = x[:, 0, 0] - side**2 * rows.int()
            expected = (
                corner[:, None, None] + side * torch.arange(size)[:, None] + torch.arange(size)
            )
            assert torch.equal(x - side**2 * rows.int()[:, None, None], expected.int())
            actual[epochs, rows] = (corner // side * (side - size + 1) + corner % side).long()
    counts = actual.flatten().bincount(minlength=9).double()
    expected = num * num_epochs / 9
    assert (actual >= 0).all() and len(counts) == 9
    assert ((counts - expected).abs() < 4 * (expected * 8 / 9) ** 0.5).all()


def test_held_out_images_are_cropped_at_the_centre() -> None:
    plain, dataset = numbered(5, 7), numbered(5, 7).with_augmentation(flip=True, crop=3)
    for split in (dataset.train, dataset.val, dataset.test):  # as evaluation reads them
        assert torch.equal(split.x, plain.train.x[:, :, 2:5, 2:5])
        assert split.x.shape == (5, 1, 3, 3)
    x, _ = dataset.val.batch(torch.tensor([4, 1]))
    assert torch.equal(to_levels(x, 256), plain.val.x[torch.tensor([4, 1])][:, :, 2:5, 2:5])
    x, _, rows, _ = seen(plain.with_augmentation(flip=False, crop=7), 0, 5, slice(0, 5))
    assert torch.equal(x, plain.train.x[rows])
