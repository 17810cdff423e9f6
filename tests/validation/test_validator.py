"""The bound is tight for the exact denoiser, and the same however the work is done."""

import copy
import math

import pytest
import torch
from oracles import ByClass, gaussian, gaussian_loss, in_parts, quantized, z_score
from scipy.integrate import quad
from torch import nn
from torch.utils.data import DataLoader
from transfers import META, Transfers

from elbos import Denoiser, Validator
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import align, alpha_sigma
from elbos.validation.diagnostics import TargetMissedWarning

NUM_LEVELS = 6
NUM_IMAGES = 3000
ENDS = {"logsnr_min": -8.0, "logsnr_max": 11.0}
SCHEDULES = [
    schedules.Cosine(**ENDS),
    schedules.Linear(**ENDS),
    schedules.Flow(**ENDS, shift=0.5),
]


def validated(denoiser, x, *, cond=None, **options):
    return Validator(x, **ENDS, **options)(denoiser, batch_size=2000, cond=cond)


# --- the value ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_bound_on_quantized_data_is_their_log_probability(schedule, generator):
    """Exact denoiser, 3 standard errors, n = 3,000; the decoder resolves 6 levels at 11."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(NUM_IMAGES, generator)
    actual = validated(data, x, num_levels=NUM_LEVELS, schedule=schedule)
    exact = -data.weights.log()[atom] / 2  # nats per dimension
    assert z_score(actual.bound.mean(1) - exact, 0.0) < 3
    entropy = -(data.weights * data.weights.log2()).sum().item() / 2
    assert abs(actual.bits_per_dim - entropy) < 3 * actual.standard_error
    assert actual.standard_error < 0.03 * entropy


@pytest.mark.slow
def test_a_tuned_bound_on_quantized_data_is_their_log_probability(generator):
    """3 standard errors, each at most 0.005 bits/dim; n = 10,000 images, 96 evaluations."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(10_000, generator)
    validator = Validator(x, num_levels=NUM_LEVELS, num_evaluations=96, **ENDS)
    actual = validator.tuned(validator.pilot(data, batch_size=2000))(
        in_parts(data), batch_size=20_000
    )
    error = (actual.bound.mean(1) + data.weights.log()[atom] / 2) / math.log(2)
    assert error.std() / 100 < 0.005
    assert z_score(error, 0.0) < 3


def test_bound_given_the_class_is_the_conditional_log_probability(generator):
    """3 standard errors, n = 3,000; and the wrong class costs."""
    classes = [quantized(NUM_LEVELS, 0.5, 0.4), quantized(NUM_LEVELS, -0.3, 0.8)]
    label = torch.arange(NUM_IMAGES) % 2
    drawn = [data.sample(NUM_IMAGES, generator) for data in classes]
    x = torch.where(label[:, None] == 0, drawn[0][0], drawn[1][0])
    log_p = [data.weights.log()[atom] for data, (_, atom) in zip(classes, drawn, strict=True)]
    exact = -torch.where(label == 0, *log_p) / 2
    actual = validated(ByClass(classes), x, num_levels=NUM_LEVELS, cond=label)
    assert z_score(actual.bound.mean(1) - exact, 0.0) < 3
    wrong = validated(ByClass(classes), x, num_levels=NUM_LEVELS, cond=1 - label)
    assert wrong.bound.mean() > exact.mean() + 0.1


@pytest.mark.parametrize("num_levels", [None, NUM_LEVELS])
def test_padding_does_not_count(num_levels, generator):
    """Whatever the padded values and estimates are; 3 standard errors, n = 3,000."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(NUM_IMAGES, generator)
    is_pad = torch.arange(NUM_IMAGES) % 3 == 0
    x = torch.stack([x, x.where(~is_pad[:, None], 0.123), 0 * x], 1)  # [b, 3, 2], not all pixels
    cond = {"is_pad": torch.stack([torch.zeros_like(is_pad), is_pad, ~is_pad | is_pad], 1)}

    def padded(z, logsnr, cond):
        _, eps_hat = data(z.flatten(0, 1), logsnr.repeat_interleave(3))
        eps_hat = eps_hat.view_as(z).masked_fill(cond["is_pad"][..., None], 7)
        return (z - alpha_sigma(align(logsnr, z))[1] * eps_hat) / alpha_sigma(align(logsnr, z))[
            0
        ], eps_hat

    actual = validated(
        padded, x, cond=cond, num_levels=num_levels, mask_of=lambda cond: ~cond["is_pad"]
    )
    plain = validated(data, x[:, 0], num_levels=num_levels)
    if num_levels:
        exact = -data.weights.log()[atom] / 2
        assert z_score(actual.bound.mean(1) - exact, 0.0) < 3
    assert abs(actual.bits_per_dim - plain.bits_per_dim) < 3 * plain.standard_error


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(4, 3),
        torch.ones(4, 2, dtype=torch.bool),
        torch.tensor([[True], [True], [False], [True]]).expand(4, 3),
        torch.tensor([3, 3, 3, 3]),
        None,
    ],
)
def test_a_mask_is_of_booleans_that_count_a_value_of_each_sample(mask):
    with pytest.raises(ValueError, match=r"booleans|no value of sample 2:"):
        validated(lambda z, *_: (z, z), torch.randn(4, 3), mask_of=lambda _: mask)
    with pytest.raises(ValueError, match="KeyError: 'pad'"):
        validated(lambda z, *_: (z, z), torch.randn(4, 3), mask_of=lambda _: {}["pad"])


def test_bound_on_continuous_data_is_their_log_density(generator):
    """3 standard errors, n = 3,000; at 11 the decoder is far narrower than the data."""
    data = GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8], [0.5]], dtype=torch.float64).expand(2, 32),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )
    x, _ = data.sample(NUM_IMAGES, generator)
    actual = validated(data, x)
    assert z_score(actual.bound.mean(1) + data.log_prob(x) / 32, 0.0) < 3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("std", [0.5, 0.9])
def test_the_diffusion_term_is_the_integral_of_the_loss(schedule, std, generator):
    """In closed form, of the exact denoiser and of a wrong one; z < 4, n = 3,000."""
    x, _ = gaussian(0.5).sample(NUM_IMAGES, generator)
    actual = validated(gaussian(std), x, schedule=schedule)
    expected = quad(lambda level: gaussian_loss(level, 0.5, std), -8, 11)[0]
    assert z_score(actual.diffusion.mean(1), expected) < 4


def test_rounds_go_on_until_the_target(generator):
    x, _ = gaussian(0.5, 16).sample(200, generator)
    validator = Validator(x, num_evaluations=4, **ENDS)
    first = validator(gaussian(0.5, 16))
    target = first.standard_error / 1.5
    actual = validator(gaussian(0.5, 16), target_se=target)
    assert actual.standard_error <= target
    assert actual.num_evaluations > 2 * first.num_evaluations
    assert torch.equal(actual.measurements.loss[:, :1], first.measurements.loss)


def test_a_target_out_of_reach_is_told_and_ends_at_half_the_sampling_error(generator):
    x, _ = quantized(NUM_LEVELS, mean=0.2, std=0.6).sample(50, generator)
    validator = Validator(x, num_levels=NUM_LEVELS, **ENDS)
    with pytest.warns(TargetMissedWarning, match="0.0001"):
        actual = validator(quantized(NUM_LEVELS, mean=0.2, std=0.6), target_se=1e-4).bits
    assert 0.4 < actual.measurement_error / actual.sampling_error <= 0.5


def test_a_difference_is_that_of_the_losses(generator):
    """Of two wrong denoisers: of the integrals of their closed-form losses, z < 4, n = 3,000."""
    x, _ = gaussian(0.5).sample(NUM_IMAGES, generator)
    validator = Validator(x, **ENDS)
    first, second = (validator(gaussian(std), batch_size=2000) for std in (0.6, 0.55))
    expected = quad(
        lambda level: gaussian_loss(level, 0.5, 0.6) - gaussian_loss(level, 0.5, 0.55), -8, 11
    )[0] / math.log(2)
    actual = validator.compare(first, second)
    assert abs(actual.mean - expected) < 4 * actual.standard_error
    assert actual.standard_error < 0.2 * first.standard_error


# --- the same however the work is done ------------------------------------------------------------


class Network(nn.Module):
    """A small network of images, with dropout: it has to be in evaluation mode."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(17, 32), nn.Linear(32, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, z, logsnr, cond=None):
        h = torch.cat([z.flatten(1), logsnr[:, None] / 10], 1)
        return self.last(self.dropout(torch.tanh(self.first(h)))).reshape(z.shape)


DENOISER = Denoiser(Network(), parameterizations.V())
IMAGES = torch.randint(256, (30, 1, 4, 4), generator=torch.Generator().manual_seed(1)) / 127.5 - 1


def bits(data=IMAGES, **options):
    return Validator(data, num_levels=256)(DENOISER, **options)


def assert_same(found, expected=None):
    expected = expected or bits()
    torch.testing.assert_close(found.bound, expected.bound, rtol=1e-6, atol=1e-7)
    assert found.bits_per_dim == pytest.approx(expected.bits_per_dim, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "batch_size"),
    [
        (IMAGES, 1),
        (IMAGES, 7),
        ([image.clone() for image in IMAGES], 256),
        (torch.utils.data.TensorDataset(IMAGES), 256),
    ],
    ids=["batches of 1", "batches of 7", "list", "dataset"],
)
def test_batches_and_the_kind_of_dataset_do_not_count(data, batch_size):
    assert_same(bits(data, batch_size=batch_size))


def test_nothing_waits_for_a_device_batch_by_batch():
    """Noise is drawn there, and losses come back at the end of a round; `meta` is the device."""

    def waits(num):
        x = torch.zeros(num, 4)
        with Transfers() as transfers:
            Validator(x)(lambda z, logsnr, cond=None: (z, z), batch_size=8, device=META)
        return transfers.found

    assert waits(2) == waits(8)


class Averaged(Network):
    """Its average is swapped in for evaluation, and out for training."""

    def train(self, mode=True):
        if mode != self.training:
            for parameter in self.parameters():
                parameter.data.mul_(2.0 if mode else 0.5)
        return super().train(mode)


@pytest.mark.parametrize("is_training", [True, False])
def test_weights_that_a_mode_swaps_are_swapped(is_training):
    """The number is that of a loop that calls `eval` by hand; afterwards all is as it was."""
    network = Averaged().train(is_training)
    denoiser, weights = Denoiser(network, parameterizations.V()), network.first.weight.clone()
    actual = Validator(IMAGES, num_levels=256)(denoiser)
    assert network.training == is_training
    assert torch.equal(network.first.weight, weights)
    network.eval()
    assert_same(actual, Validator(IMAGES, num_levels=256)(denoiser))


def test_a_schedule_that_goes_on_learning_changes_no_result():
    schedule = Adaptive(logsnr_min=-10.0, logsnr_max=13.3)
    actual = Validator(IMAGES, num_levels=256, schedule=schedule)(DENOISER)
    levels = torch.linspace(-10, 13.3, 100, dtype=torch.float64)
    schedule.update(levels, torch.exp(levels))
    even = Validator(IMAGES, num_levels=256)(DENOISER)
    torch.testing.assert_close(actual.diffusion, even.diffusion, rtol=1e-5, atol=0)


def test_what_is_kept_is_not_computed_again(tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    def start(what, total, unit):
        left = iter([None] * (5 if what == "round 2" else 100))

        def advance(num, is_kept=False):
            if next(left, "stop") == "stop":
                raise StoppedError

        return advance

    pytest.importorskip("safetensors")
    from elbos.base.store import Store

    store, expected = Store(tmp_path), bits()
    with pytest.raises(StoppedError):
        bits(parts=store, batch_size=8, start=start)
    evaluations = []
    forward = Network.forward

    def counted(self, z, *others):
        evaluations.append(len(z))
        return forward(self, z, *others)

    monkeypatch.setattr(Network, "forward", counted)
    assert_same(bits(parts=store, batch_size=8), expected)
    assert sum(evaluations) < 240 / 2
    assert_same(bits(parts=store, batch_size=12), expected)  # nothing of other batches is taken
    other = Validator(IMAGES, num_levels=256, seed=1)
    assert_same(other(DENOISER, parts=store, batch_size=12), other(DENOISER))


def test_under_autocast_losses_are_in_float32():
    """bfloat16 rounds the network's output alone."""
    with torch.autocast("cpu", torch.bfloat16):
        actual = bits()
    assert actual.bound.isfinite().all()
    assert actual.bits_per_dim == pytest.approx(bits().bits_per_dim, rel=0.01)
    assert actual.bits_per_dim != bits().bits_per_dim


def test_a_result_states_the_precision_of_the_networks_arithmetic():
    """Of weights, of autocast around the call and within it, and of a compiled network."""
    network, x = Network(), IMAGES.double()

    class Rounded(Network):
        def forward(self, z, logsnr, cond=None):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(z, logsnr, cond)

    def precision(network, x=IMAGES):
        return Validator(x, num_levels=256)(Denoiser(network, parameterizations.V())).precision

    compiled = torch.compile(network, backend="eager")
    assert precision(network) == precision(compiled) == "float32"
    assert precision(copy.deepcopy(network).double(), x) == "float64"
    half = copy.deepcopy(network).bfloat16().eval()
    cast = lambda z, logsnr: half(z.bfloat16(), logsnr.bfloat16())  # noqa: E731
    assert precision(cast) == precision(Rounded()) == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16):
        assert precision(network) == "bfloat16"


def test_labels_of_another_type_are_named():
    class Labelled(Network):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(3, 1)

        def forward(self, z, logsnr, cond=None):
            return super().forward(z, logsnr) + self.embedding(cond).reshape(-1, 1, 1, 1)

    denoiser = Denoiser(Labelled(), parameterizations.V())
    labels = torch.zeros(len(IMAGES), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"z of torch.float32 and cond of torch.uint8"):
        Validator(IMAGES)(denoiser, cond=labels)
    Validator(IMAGES)(denoiser, cond=labels.long())


# --- results --------------------------------------------------------------------------------------


def test_curves_integrate_to_the_diffusion_term():
    """The loss by noise level over bins that fill the range; the last ELBO less the prior."""
    actual = bits()
    curve, elbo = actual.by_level, actual.elbo_by_level
    width = (13.3 + 10) / len(curve.logsnr)
    diffusion = actual.diffusion.mean().item()
    assert sum(curve.nats_per_dim) * width == pytest.approx(diffusion, rel=1e-6)
    assert elbo.nats_per_dim[-1] - elbo.nats_per_dim[0] == pytest.approx(diffusion, rel=1e-6)
    assert elbo.nats_per_dim[0] == pytest.approx(actual.prior.mean().item())
    assert actual.weighted(weightings.ELBO()).mean == pytest.approx(diffusion, rel=1e-6)


@pytest.mark.parametrize(("num", "num_bins"), [(8, 3), (60, 24)])
def test_no_bin_of_a_curve_is_empty(num, num_bins, generator):
    """Of tuned levels, too, which are rare where the loss hardly scatters."""
    data = gaussian(0.1, 4)
    validator = Validator(data.sample(num, generator)[0], **ENDS)
    for item in (validator, validator.tuned(validator.pilot(data))):
        curve = item(data).by_level
        assert len(curve.logsnr) == num_bins
        assert min(curve.standard_error) > 0


def test_added_rounds_leave_the_bins_of_a_curve(generator):
    """So that conditions and seeds that reach a target after several numbers of them compare."""
    data = gaussian(0.1, 4)
    x, _ = data.sample(20, generator)
    few, many = (validated(data, x, num_evaluations=num) for num in (8, 80))
    assert few.by_level.logsnr == many.by_level.logsnr
    assert few.elbo_by_level.logsnr == many.elbo_by_level.logsnr


# --- bad input ------------------------------------------------------------------------------------


def nan_where_clean(z, logsnr):
    return torch.where((logsnr > 12.9)[:, None, None, None], math.nan, z)


class TwoArguments(nn.Module):
    def forward(self, z, logsnr):
        return z


MISTAKES = {
    "strings": (lambda: Validator(["a", "b"]), "x"),
    "ends": (lambda: Validator(IMAGES, logsnr_min=3.0, logsnr_max=2.0), "logsnr_min"),
    "collated": (lambda: Validator(DataLoader(IMAGES, collate_fn=torch.stack)), "collate_fn"),
    "schedule": (lambda: Validator(IMAGES, schedule=schedules.Cosine()), "same ends"),
    "batch": (lambda: bits(batch_size=0), "batch_size"),
    "levels": (lambda: Validator(IMAGES * 0.99, num_levels=256)(DENOISER), "num_levels=256"),
    "nan": (lambda: Validator(IMAGES)(Denoiser(nan_where_clean, parameterizations.Eps())),
        "log-SNR 1[23]",),
    "network": (lambda: Validator(IMAGES)(Network()), "pair|x_hat"),
    "two arguments": (lambda: Validator(IMAGES)(TwoArguments()), "Denoiser"),
    "cond": (lambda: bits(cond=torch.zeros(7)), "7"),
    "other draws": (lambda: bits().difference(Validator(IMAGES, num_levels=256, seed=1)(DENOISER)),
        "one Validator"),
    "other samples": (lambda: bits().difference(bits(IMAGES.flip(0))), "other samples"),
    "no device": (lambda: bits(device="gpu"), "device is 'gpu'"),
    "processes": (lambda: bits(is_shared=True), "torch.distributed"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "match"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(call, match):
    with pytest.raises(ValueError, match=rf"\A.*({match}).*\Z"):
        call()


def test_the_order_of_a_loader_does_not_count():
    loader = DataLoader(IMAGES, batch_size=7, shuffle=True)
    actual = Validator(loader, num_levels=256)(DENOISER)
    assert actual.bits_per_dim == Validator(IMAGES, num_levels=256)(DENOISER).bits_per_dim
    scaled = DataLoader(IMAGES, collate_fn=torch.stack)
    assert len(Validator(scaled, to_item=lambda x: x)) == len(IMAGES)
