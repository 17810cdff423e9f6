"""Masks of dropout are functions of seed, step, sample, layer and value."""

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from elbos.training.dropout import Masks, dropped_out, hashed, layers, observed

STEP = torch.tensor(3)


def network() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(12, 12), nn.Dropout(0.5), nn.Dropout(0.0))


def keys(num: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (num, 2), dtype=torch.int64).to(torch.int32)


def masks_of(model: nn.Module, seed: int = 0) -> Masks:
    return Masks(list(layers(model).values()), seed)


def test_a_sample_is_masked_alike_in_every_part_of_a_batch() -> None:
    torch.manual_seed(0)
    model, z, samples = network(), torch.randn(16, 12), torch.arange(16)
    masks = masks_of(model)
    assert len(masks.layers) == 2
    with masks.used():
        masks.draw(STEP, samples)
        whole = model(z)
        for sizes in ([16], [1] * 16, [5, 11]):
            found = []
            for part in samples.split(sizes):
                masks.draw(STEP, part)
                found.append(model(z[part]))
            torch.testing.assert_close(torch.cat(found), whole)
        masks.draw(STEP + 1, samples)
        assert not torch.equal(model(z), whole)
        model.eval()
        expected = model[1](z)
        assert torch.equal(model(z), expected)
    assert "forward" not in vars(model[0])


class Foreign(nn.Module):
    """Layers that are called once, twice, never, on tokens ahead of samples, and on weights."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("once", "twice", "never", "tokens", "weights"):
            setattr(self, name, nn.Dropout(0.3))
        self.inplace = nn.Dropout(0.3, inplace=True)
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, z: Tensor) -> Tensor:
        h = self.twice(self.twice(self.once(z))) * self.weights(self.weight)
        tokens = h[None].expand(3, *h.shape)
        return self.inplace(self.tokens(tokens)).sum(0)


def test_layers_that_are_not_of_samples_or_are_called_twice_are_left_to_torch() -> None:
    model = Foreign()
    with observed(model, 4) as by_sample:
        model(torch.ones(4, 6))
    assert by_sample == ["once"]
    assert not any(module._forward_hooks for module in model.modules())


def test_a_probability_may_change_up_to_one() -> None:
    masks = masks_of(model := network())
    masks.draw(STEP, torch.arange(4))
    ones = torch.ones(4, 12)
    with masks.used():
        model[0].p = 0.0
        assert torch.equal(model[0](ones), ones)
        model[0].p = 1 - 1e-9
        kept = model[0](ones)
        assert kept.isfinite().all()
        assert (kept != 0).sum() <= 1
        model[0].p = 1.0
        assert torch.equal(model[0](ones), 0 * ones)


@pytest.mark.parametrize("shape", [(5, 7), (4, 9, 6), (3, 5, 7, 11), (2, 3, 4, 5, 3)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_values_are_dropped_with_the_probability_and_the_mean_is_kept(shape, p: float) -> None:
    torch.manual_seed(0)
    dropped = torch.stack([dropped_out(torch.ones(shape), keys(shape[0]), p) for _ in range(200)])
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    num_zero = int((dropped == 0).sum())
    assert stats.binomtest(num_zero, dropped.numel(), p).pvalue > 1e-4
    by_value = (dropped == 0).sum(0).flatten().numpy()
    assert stats.chisquare(by_value, by_value.sum() / len(by_value) + 0 * by_value).pvalue > 1e-4


def test_a_mask_is_the_same_in_any_memory_format_and_precision() -> None:
    torch.manual_seed(0)
    h, own = torch.randn(2, 3, 4, 5), keys(2)
    expected = dropped_out(h, own, 0.25)
    channels_last = dropped_out(h.to(memory_format=torch.channels_last), own, 0.25)
    assert torch.equal(channels_last, expected)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dropped_out(h.bfloat16(), own, 0.25) == 0, expected == 0)


def test_words_are_uniform_and_independent() -> None:
    """Of 5 seeds: 256 classes of the upper and of the lower bits, bit by bit, and neighbours,
    samples, and keys that differ by one bit.
    """
    for seed in range(5):
        torch.manual_seed(seed)
        own = keys(64)
        near = own ^ torch.tensor([1, 0], dtype=torch.int32)
        x = hashed(own, 4097)
        assert x.shape == (64, 4097)
        for bits in (x >> 8, x & 0xFF):
            counts = torch.bincount((bits & 0xFF).flatten().int(), minlength=256)
            assert stats.chisquare(counts.numpy()).pvalue > 1e-4
        others = [x.roll(lag, 1) for lag in (1, 2, 64)]
        others += [x.roll(1, 0), hashed(near, 4097)]
        for other in others:
            for bit in range(16):
                differ = int(((x ^ other) >> bit & 1).sum())
                assert stats.binomtest(differ, x.numel(), 0.5).pvalue > 1e-5
