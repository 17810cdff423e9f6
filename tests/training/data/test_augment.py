"""What a training makes of images is a function of (seed, epoch, sample), on any device."""

import torch

from elbos.training import data
from elbos.training.data.augment import augmented
from elbos.training.randomness import Visits

SEED = 3


def numbered(num: int, side: int) -> data.Dataset:
    """Square images whose pixels are all different, but for `num` times 16 above 256."""
    first = torch.arange(num)[:, None] * side**2
    x = (first + torch.arange(side**2)).view(num, 1, side, side)
    split = data.Split(data.InMemory(x.to(torch.uint8)), torch.arange(num))
    return data.Dataset("numbered", split, split, split, 256, num, None)


def seen(dataset: data.Dataset, step: int, batch_size: int, share: slice) -> tuple:
    """The pixel values that a training sees, with labels, numbers and epochs of the images."""
    batch = data.Batches(dataset.training, batch_size, SEED, share)[step]
    x = dataset.augmented(batch.x, Visits(SEED, batch.rows, batch.epochs))
    return data.to_levels(x, 256), batch.cond, batch.rows, batch.epochs


def test_half_are_mirrored_by_sample_and_epoch_however_batches_are_cut() -> None:
    num, num_epochs = 40, 50
    mirrored = augmented(numbered(num, 2), flip=True)
    found = torch.zeros(num_epochs, num, dtype=torch.bool)
    for step in range(num * num_epochs // 16):
        for share in (slice(0, 12), slice(12, 16)):
            x, labels, rows, epochs = seen(mirrored, step, 16, share)
            assert torch.equal(labels, rows)
            assert torch.equal(x.sort(-1).values, mirrored.train.x[rows])
            found[epochs, rows] = x[:, 0, 0, 0] > x[:, 0, 0, 1]
    again, _, rows, epochs = seen(mirrored, 4, 400, slice(0, 400))  # epochs 40 to 49
    assert torch.equal(again[:, 0, 0, 0] > again[:, 0, 0, 1], found[epochs, rows])
    assert abs(found.double().mean() - 0.5) < 4 * 0.5 / found.numel() ** 0.5
    for axis in (0, 1):
        assert (found.sum(axis) > 0).all()


def test_held_out_images_are_as_they_are() -> None:
    plain, mirrored = numbered(8, 2), augmented(numbered(8, 2), flip=True)
    assert mirrored.fingerprint() == plain.fingerprint()
    assert mirrored.spec == plain.spec
    for one, other in (
        (mirrored.validation, plain.validation),
        (mirrored.training, plain.training),
    ):
        assert torch.equal(one.batch(torch.arange(8))[0], other.batch(torch.arange(8))[0])
