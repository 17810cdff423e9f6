"""Validation at intervals: the paired difference from the best, and stopping when it is worse."""

import math
import pickle
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from torch.utils.data import DataLoader

from elbos.base import processes
from elbos.theory.denoiser import Denoiser
from elbos.theory.oracles import GaussianMixture
from elbos.theory.parameterizations import V
from elbos.validation import ValidationHistory, Validator

ONE = torch.ones(1)
TRUE = GaussianMixture(ONE, torch.zeros(1, 4), ONE)
X = TRUE.sample(200, torch.Generator().manual_seed(0))[0]


def model(std):
    """The exact denoiser of data of another standard deviation."""
    return GaussianMixture(ONE, torch.zeros(1, 4), std * ONE)


def test_a_validation_is_due_every_so_many_steps():
    history = ValidationHistory(Validator(X), every=10)
    due = [step for step in range(31) if history.update(step, model(1.0)) is not None]
    assert due == list(history.results) == [10, 20, 30]
    assert history.update(30, model(1.0)) is None  # as after a resume


def test_patience_counts_validations_without_a_significant_gain():
    history = ValidationHistory(Validator(X), lambda std: model(std), every=1, patience=2)
    best, history.on_best = [], lambda result: best.append(result)
    stds = [3.0, 1.5, 1.5, 1.0, 1.4, 1.0, 1.5]
    stops = []
    for step, std in enumerate(stds, 1):
        metrics = history.update(step, std)
        stops.append(history.should_stop)
    assert history.best_step == 4
    assert stops == [False] * 5 + [True] * 2  # the third is no gain, the fourth begins again
    assert best == [history.results[step] for step in (1, 2, 4)]
    actual = history.results[7].difference(history.best)
    assert metrics["validation/worse_by"] == actual.mean
    assert metrics["validation/worse_by_error"] == actual.standard_error
    # the expected gap of a Gaussian's wrong variance: KL(N(0, 1) || N(0, s^2)) of the data
    gap = (math.log(1.5) + 1 / (2 * 1.5**2) - 0.5) / math.log(2)
    assert actual.mean == pytest.approx(gap, abs=4 * actual.standard_error)


def test_a_resumed_training_is_compared_with_the_best_before(tmp_path):
    """Through a file of torch that runs no code; the same metrics as without the interruption."""

    def history():
        return ValidationHistory(Validator(X), lambda std: model(std), every=2, patience=2)

    whole, first, second = history(), history(), history()
    for step, std in ((2, 1.0), (4, 1.5)):
        whole.update(step, std)
        first.update(step, std)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.update(4, 1.5) is None
    assert second.update(6, 2.0) == whole.update(6, 2.0)
    assert (second.best_step, second.should_stop) == (whole.best_step, whole.should_stop)
    assert whole.should_stop
    second.load_state_dict(history().state_dict())
    assert second.best is None
    with pytest.raises(ValueError, match="leave it out"):
        second.load_state_dict(first.state_dict() | {"best": []})
    for setting in {"num_evaluations": 4}, {"seed": 1}:
        with pytest.raises(ValueError, match="other noise levels"):
            ValidationHistory(Validator(X, **setting)).load_state_dict(first.state_dict())


def test_a_repeated_step_is_compared_with_the_best_before(caplog):
    """As after a rollback; the third validation without a gain says so, with the best."""
    caplog.set_level("INFO", "elbos")
    history = ValidationHistory(Validator(X), lambda std: model(std), every=1, patience=3)
    history.update(1, 1.0)
    best = history.best
    for step in (0, 1, 0, 1, 0, 1):
        metrics = history.update(step, 1.5)
    assert history.best is best
    assert metrics["validation/worse_by"] == history.results[1].difference(best).mean > 0
    stops = [record.message for record in caplog.records if "best" in record.message]
    assert len(stops) == 1 and f"step 1: {best}" in stops[0]


def test_one_sample_without_an_error_shows_a_gain_by_its_sign():
    single = ValidationHistory(Validator(X[:1]), model, every=1, patience=2)
    for step, std in enumerate((3.0, 2.5, 2.0, 1.5), 1):
        single.update(step, std)
    assert not single.should_stop


def test_items_are_dicts_and_loaders_are_their_datasets():
    items = [{"image": x, "label": torch.tensor(i % 3)} for i, x in enumerate(X)]
    loader = DataLoader(items, batch_size=7, shuffle=True)

    class Labelled:
        def __call__(self, z, logsnr, cond=None):
            assert cond.dtype == torch.int64
            return TRUE(z, logsnr)

    to_item = lambda item: (item["image"], item["label"])  # noqa: E731
    result = Validator(loader, to_item=to_item)(Labelled())
    assert result.bits_per_dim == pytest.approx(Validator(X)(TRUE).bits_per_dim, abs=1e-9)
    with pytest.raises(ValueError, match="to_item"):
        Validator(items)(TRUE)
    with pytest.raises(ValueError, match=r"to_item.*KeyError: 'img'"):
        Validator(items, to_item=lambda item: item["img"])(TRUE)
    assert pickle.dumps(ValidationHistory(Validator(X)))  # with the checkpoint of a callback


@pytest.fixture
def accelerate():
    """Accelerate, whose settings are those of the process, as before and afterwards."""
    module = pytest.importorskip("accelerate")
    module.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield module
    module.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_loops_that_train_under_autocast_validate_in_float32(accelerate):
    """As Lightning's and transformers' callbacks do: a loop's own autocast, and accelerate's."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, z, logsnr):
            return self.layer(z * torch.sigmoid(logsnr)[:, None])

    def result(network):
        history = ValidationHistory(Validator(X), lambda net: Denoiser(net, V()), every=1)
        history.update(1, network)
        return history.results[1]

    network = Network()
    plain = result(network)
    with torch.autocast("cpu", torch.bfloat16):
        around = result(network)
        assert torch.is_autocast_enabled("cpu")
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(network)
    forward = prepared.forward
    within = result(prepared)
    assert prepared.forward == forward
    assert plain.precision == around.precision == within.precision == "float32"
    assert torch.equal(plain.bound, around.bound) and torch.equal(plain.bound, within.bound)
    assert Validator(X)(Denoiser(prepared, V())).precision == "bfloat16"


def _updated_by_the_main_process():
    """Alone, in process 0, without and with `is_shared`."""
    dist.init_process_group("gloo")
    processes.MAX_WAIT = timedelta(seconds=1)
    alone = ValidationHistory(Validator(X), every=1, is_shared=False)
    shared = ValidationHistory(Validator(X), every=1)
    shared.update(1, TRUE)
    if dist.get_rank() == 0:
        alone.update(1, TRUE)
        assert torch.equal(alone.results[1].bound, shared.results[1].bound)
        with pytest.raises(ValueError, match=r"process 1 .* 1 s .*is_shared"):
            shared.update(2, TRUE)


def test_a_process_that_does_not_call_is_named():
    in_processes(2, _updated_by_the_main_process)


def test_a_network_in_an_attribute_or_partial_is_validated_in_evaluation_mode():
    """Without the warning of dropout, and back in training mode afterwards."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))

        def forward(self, z, logsnr, *, scale):
            return scale * self.layers(z) + logsnr[:, None]

    network = Network()
    for wrapped in (lambda z, logsnr: network(z, logsnr, scale=2), partial(network, scale=2)):
        history = ValidationHistory(
            Validator(X), lambda _, wrapped=wrapped: Denoiser(wrapped, V()), every=1
        )
        history.update(1, network)
        assert network.layers[1].training
