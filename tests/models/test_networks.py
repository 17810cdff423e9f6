"""Networks: what a training loop and a sampler rely on, whatever the architecture.

Each network joins every theorem by one line of `NETWORKS`.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import DIGITS
from torch import Tensor, nn
from torch._dynamo.utils import counters

from elbos.models.networks import (
    ADMConfig,
    MLPConfig,
    NetworkConfig,
    UNetConfig,
    UViTConfig,
    ViTConfig,
)
from elbos.models.networks.layers import FourierFeatures, attended
from elbos.models.networks.vit import rotated, rotations
from elbos.training.execution import checkpointed
from elbos.training.loop import Loss

NUM_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A configuration, and data that it takes; of images, the batch is as large as the width."""

    config: NetworkConfig
    shape: tuple[int, ...]
    batch_size: int = 4

    def build(self, *, num_classes: int | None = NUM_CLASSES, is_trained: bool = True) -> nn.Module:
        """The network; `is_trained` moves the weights that start at zero away from it."""
        torch.manual_seed(0)
        network = self.config.build(self.shape, num_classes)
        if is_trained:
            for parameter in network.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.1)
        return network

    def draw(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(self.batch_size, *self.shape, generator=generator, dtype=torch.float64)
        logsnr = torch.linspace(-20.0, 20.0, self.batch_size, dtype=torch.float64)
        cond = torch.arange(self.batch_size) % NUM_CLASSES
        return z.to(dtype), logsnr.to(dtype), cond


NETWORKS = {
    "mlp": Case(config=MLPConfig(num_features=32, num_blocks=2), shape=(2,)),
    "one-resolution": Case(
        config=UNetConfig(channels=(16,), num_blocks=1, head_dim=8),
        shape=(3, 4, 4),
    ),
    "attention": Case(
        config=UNetConfig(channels=(16, 32), num_blocks=2, num_attention_levels=1, head_dim=16),
        shape=(3, 4, 4),
    ),
    "rectangle": Case(
        config=UNetConfig(channels=(16, 16, 32), num_blocks=1, num_attention_levels=0),
        shape=(1, 16, 8),
        batch_size=8,
    ),
    "features": Case(
        config=UNetConfig(
            channels=(16,), num_blocks=1, num_attention_levels=0, fourier_exponents=(1, 2)
        ),
        shape=(2, 4, 4),
    ),
    "vit": Case(
        config=ViTConfig(num_features=24, num_blocks=2, head_dim=8, fourier_exponents=(2,)),
        shape=(3, 8, 4),
    ),
    "adm": Case(
        config=ADMConfig(
            channels=(16, 32),
            num_blocks=1,
            num_attention_levels=1,
            head_dim=8,
            embedding_dim=16,
            dropout=0.0,
        ),
        shape=(3, 4, 4),
    ),
    "uvit": Case(
        config=UViTConfig(
            channels=(16, 32),
            num_blocks=1,
            num_transformer_blocks=2,
            head_dim=8,
            embedding_dim=16,
            dropout=0.0,
        ),
        shape=(3, 8, 4),
    ),
    "odd-coarsest": Case(
        config=UNetConfig(channels=(16, 32), num_attention_levels=0), shape=(1, 14, 14)
    ),
}


KINDS = ["mlp", "attention", "adm", "uvit", "vit"]


@pytest.fixture(params=list(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    return NETWORKS[request.param]


def test_a_new_network_is_zero(case: Case) -> None:
    z, logsnr, cond = case.draw()
    y = case.build(is_trained=False)(z, logsnr, cond)
    assert y.shape == z.shape
    assert torch.equal(y, torch.zeros_like(z))


def test_float32_agrees_with_float64(case: Case) -> None:
    network = case.build()
    y_float32 = network(*case.draw())
    y = network.double()(*case.draw(torch.float64))
    assert y_float32.dtype == torch.float32
    assert y.dtype == torch.float64
    torch.testing.assert_close(y_float32.double(), y, rtol=0, atol=2e-5 * y.abs().max().item())


def test_float64_is_accurate_to_float64(case: Case) -> None:
    """A difference of step 1e-5 in log-SNR is the derivative: a float32 inside would drown it."""
    network = case.build().double()
    z, logsnr, cond = case.draw(torch.float64)

    def output(offset: Tensor) -> Tensor:
        y: Tensor = network(z, logsnr + offset, cond)
        return y.square().sum()

    h = torch.tensor(1e-5, dtype=torch.float64)
    offset = torch.zeros_like(h, requires_grad=True)
    (slope,) = torch.autograd.grad(output(offset), offset)
    difference = (output(h) - output(-h)) / (2 * h)
    torch.testing.assert_close(difference, slope, rtol=1e-6, atol=0)


def test_bfloat16_channels_last_is_close_to_float32(case: Case) -> None:
    network = case.build()
    z, logsnr, cond = case.draw()
    y = network(z, logsnr, cond)
    if z.ndim == 4:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.testing.assert_close(network(z, logsnr, cond), y, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_bfloat16 = network(z, logsnr, cond)
    assert y_bfloat16.dtype == z.dtype
    assert (y_bfloat16 - y).norm() < 0.03 * y.norm()


def test_a_sample_depends_on_no_other_sample(case: Case) -> None:
    network = case.build().double()
    z, logsnr, cond = case.draw(torch.float64)
    y = network(z, logsnr, cond)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(2))
    permuted = network(z[order], logsnr[order], cond[order])
    torch.testing.assert_close(permuted, y[order], rtol=0, atol=1e-12)
    alone = network(z[2:3], logsnr[2:3], cond[2:3])
    torch.testing.assert_close(alone, y[2:3], rtol=0, atol=1e-12)


def test_every_sample_depends_on_all_it_is_told(case: Case) -> None:
    network = case.build()
    z, logsnr, cond = case.draw()
    y = network(z, logsnr, cond)
    rest = {
        "z": network(z + 0.1, logsnr, cond),
        "logsnr": network(z, logsnr + 1.0, cond),
        "cond": network(z, logsnr, (cond + 1) % NUM_CLASSES),
        "no label": network(z, logsnr),
    }
    for name, other in rest.items():
        distance = (other - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
        assert distance.min() > 1e-3, name


def test_a_negative_label_is_no_label(case: Case) -> None:
    network = case.build()
    z, logsnr, cond = case.draw()
    y = network(z, logsnr)
    assert torch.equal(network(z, logsnr, torch.full_like(cond, -1)), y)
    assert torch.equal(network(z, logsnr, torch.full_like(cond, -7)), y)
    cond[0] = -1  # one label dropped from a batch, as in training for guidance
    torch.testing.assert_close(network(z, logsnr, cond)[0], y[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_the_last_label_of_a_narrow_dtype_is_not_no_label(case: Case) -> None:
    network = case.build(num_classes=256)
    z, logsnr, cond = case.draw()
    last = torch.full_like(cond, 255)
    assert torch.equal(network(z, logsnr, last.to(torch.uint8)), network(z, logsnr, last))


@pytest.mark.usefixtures("unchecked")
def test_wrong_labels_are_refused(case: Case) -> None:
    z, logsnr, cond = case.draw()
    unknown = torch.full_like(cond, NUM_CLASSES)
    for num_classes, labels, named in (
        (NUM_CLASSES, unknown, r"label 5 is out of range.* 0 to 4"),
        (NUM_CLASSES, cond[:, None], rf"\({len(cond)}, 1\)"),  # of a label that is a tensor `[1]`
        (NUM_CLASSES, cond.double(), "float64"),
        (None, cond, "without labels"),
    ):
        network = case.build(num_classes=num_classes)
        assert network(z, logsnr).shape == z.shape
        with pytest.raises(ValueError, match=named):
            network(z, logsnr, labels)


def test_gradient_reaches_every_parameter(case: Case) -> None:
    network = case.build()
    z, logsnr, cond = case.draw()
    network(z, logsnr, cond).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("name", KINDS)
def test_a_network_can_memorize(name: str) -> None:
    """From zero, 60 steps take most of the loss off one batch."""
    case = NETWORKS[name]
    network = case.build(is_trained=False)
    z, logsnr, cond = case.draw()
    y = z.flip(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(z, logsnr, cond) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * y.square().mean()


def test_fourier_features_are_those_of_the_clean_pixels_on_average() -> None:
    """E[(sin, cos)(f (x + s e))] = e^{-(f s)^2 / 2} (sin, cos)(f x); z < 4.5, n = 10,000 of 48."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    logsnr = torch.tensor([7.0], dtype=torch.float64)
    features = FourierFeatures((3, 5))
    noise = torch.randn(10_000, 3, 4, 4, generator=generator, dtype=torch.float64)
    noisy = features(x + torch.exp(-logsnr / 2) * noise, torch.full((10_000,), 60.0).double())
    mean, error = noisy.mean(0), noisy.std(0) / math.sqrt(len(noisy))
    assert ((mean - features(x, logsnr)[0])[3:].abs() / error[3:]).max() < 4.5
    assert torch.equal(features(x, logsnr)[:, :3], x)


def test_fourier_features_have_digits_that_bfloat16_has_not() -> None:
    """Of neighbours among 256 values with the noise of VDM's clean end, and at its noisy end."""
    z = torch.full((1, 1, 4, 4), 0.8977)
    close = z + 0.0013
    assert torch.equal(z.bfloat16(), close.bfloat16())
    clean, noisy = torch.tensor([13.3]), torch.tensor([-10.0])
    features = FourierFeatures((7, 8))
    difference = features(close, clean).bfloat16() - features(z, clean).bfloat16()
    assert difference.abs().amax((0, 2, 3))[1:].max() > 0.3
    assert not features(z, noisy)[:, 1:].any()


@pytest.mark.parametrize("name", ["one-resolution", "adm", "uvit", "vit"])
def test_dropout_acts_in_training_only(name: str) -> None:
    case = NETWORKS[name]
    network = replace(case, config=replace(case.config, dropout=0.5)).build()
    inputs = case.draw()
    assert not torch.equal(network(*inputs), network(*inputs))
    network.eval()
    assert torch.equal(network(*inputs), network(*inputs))


def kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """What is kept for the backward pass, which is run; without the weights."""
    remaining: dict[int, int] = {}
    mine = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            remaining[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = network(*inputs)
    y.square().sum().backward()
    return sum(remaining.values())


@pytest.mark.parametrize("name", KINDS)
def test_checkpointing_leaves_gradients_as_they_are(name: str) -> None:
    """Bit for bit, with dropout; and less is kept."""
    case = NETWORKS[name]
    if name != "mlp":
        case = replace(case, config=replace(case.config, dropout=0.5))
    gradients, remaining = [], []
    for use_checkpointing in (False, True):
        network = case.build()
        torch.manual_seed(3)
        with checkpointed(network) if use_checkpointing else nullcontext():
            remaining.append(kept_bytes(network, *case.draw()))
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)
    assert remaining[1] < 0.6 * remaining[0]


@pytest.mark.parametrize("name", ["mlp", "adm", "uvit"])
def test_a_network_compiles_to_one_graph(name: str) -> None:
    """Forward and backward; the other kinds with the loss, below."""
    network, inputs = NETWORKS[name].build().eval(), NETWORKS[name].draw()
    torch._dynamo.reset()
    actual = torch.compile(network, backend="eager", fullgraph=True)(*inputs)
    actual.sum().backward()
    torch.testing.assert_close(actual, network(*inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "use_checkpointing"), [("attention", False), ("vit", True)])
def test_noise_network_and_loss_compile_to_one_graph(name: str, use_checkpointing: bool) -> None:
    """Of what the training compiles, forward and backward."""
    config = replace(DIGITS, network=NETWORKS[name].config)
    data = config.data.load()
    network = config.build_network(data.spec)
    loss = Loss(
        network,
        config.objective,
        data.null_cond,
        seed=config.seed,
        label_dropout=config.label_dropout,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    samples = torch.arange(4)
    x, cond = data.train.batch(samples)
    logsnr = config.schedule.logsnr((samples + 0.5) / 4)
    levels = torch.stack(config.objective.levels(logsnr)).float()
    arguments = x, levels, cond, torch.tensor(0), samples
    torch._dynamo.reset()
    counters.clear()
    with (
        checkpointed(network) if use_checkpointing else nullcontext(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        actual = torch.compile(loss, backend="eager")(*arguments)
        actual.sum().backward()
        expected = loss(*arguments)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("num", [5, 513])
def test_attention_is_torchs(num: int) -> None:
    """Written out for few tokens, and as a kernel for many."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, num, 8, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attended(q, k, v), expected, rtol=1e-10, atol=1e-10)


def test_rotated_heads_meet_by_their_distance() -> None:
    """The product of a query and a key depends on where the key is from the query, and on that."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    height, width = 4, 5
    factors = rotations(height, width, 8, query)

    def everywhere(head: Tensor) -> Tensor:
        return rotated(head.expand(1, height * width, 1, 1, 8), factors)[0, :, 0, 0]

    products = (everywhere(query) @ everywhere(key).T).view(height, width, height, width)
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 1, 3, 3], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(products[3, 4, 1, 0], products[2, 4, 0, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(products[1, 1, 1, 1], query @ key, rtol=1e-12, atol=1e-12)
    distances = products[0, 0].unique()
    assert len(distances) == height * width


REFUSED = [
    (UNetConfig(), (2,), "takes images"),
    (MLPConfig(), (1, 8, 8), "takes vectors"),
    (UNetConfig(channels=(32, 32, 32, 32)), (1, 28, 28), "side 28 is not divisible by 8"),
    (UNetConfig(channels=()), (1, 28, 28), "at least one resolution"),
    (UNetConfig(channels=(32, 40)), (1, 28, 28), "multiples of 16, got 40"),
    (UNetConfig(num_attention_levels=3), (1, 28, 28), "between 0 and .* 2"),
    (UNetConfig(num_attention_levels=1, head_dim=48), (1, 28, 28), "head_dim 48"),
    (UNetConfig(fourier_exponents=(7, -1)), (1, 28, 28), "exponent is -1"),
    (ADMConfig(), (3, 28, 28), "side 28 is not divisible by 8"),
    (ADMConfig(head_dim=100), (3, 64, 64), "head_dim 100"),
    (ADMConfig(channels=(16, 32), num_attention_levels=0), (3, 64, 64), "head_dim 64"),
    (UViTConfig(), (3, 100, 128), "side 100 is not divisible by 8"),
    (UViTConfig(num_transformer_blocks=0), (3, 128, 128), "num_transformer_blocks is 0"),
    (UViTConfig(head_dim=96), (3, 128, 128), "head_dim 96"),
    (ViTConfig(patch_size=3), (3, 32, 32), "side 32 is not divisible by 3"),
    (ViTConfig(head_dim=100), (3, 32, 32), "head_dim 100"),
    (ViTConfig(num_features=66, head_dim=66), (3, 32, 32), "head_dim 66"),
]


@pytest.mark.parametrize(("config", "shape", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_work_is_refused_in_one_line(
    config: NetworkConfig, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"\A.*({message}).*\Z"):
        config.build(shape, None)
