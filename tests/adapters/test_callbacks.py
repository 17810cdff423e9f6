"""Recordings by the callbacks of other trainers; skipped where those are not installed."""

import copy
import csv
import os
import random
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from torch import Tensor, nn

from elbos import LossByLevel
from elbos.adapters import flow
from elbos.adapters.recorded import RecordedSteps
from elbos.validation import ValidationHistory, Validator, scalars


def loss(network: nn.Module, x: Tensor) -> Tensor:
    t, eps = torch.rand(len(x), 1), torch.randn_like(x)
    return (network((1 - t) * x + t * eps) - (eps - x)).square().mean()


def validated() -> ValidationHistory:
    """A history of the network of both trainers, whose loss is that of rectified flow."""
    x = torch.rand(64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ValidationHistory(
        Validator(x),
        lambda model: flow.denoiser(lambda z, _: model.network(z), data_at=0),
        every=5,
    )


def test_a_training_that_fails_leaves_no_recording_behind() -> None:
    functions = random.random, np.random.randn
    steps = RecordedSteps("", 10)
    steps.start(nn.Linear(32, 32))
    assert (random.random, np.random.randn) != functions
    steps.close()
    assert (random.random, np.random.randn) == functions


def test_a_second_training_is_recorded_as_the_first() -> None:
    model, steps, audits = nn.Linear(32, 32), RecordedSteps("", 5), []
    for _ in range(2):
        steps.audit = None
        steps.start(model)
        for _ in range(8):
            loss(model, torch.rand(64, 32)).backward()
            steps.step()
        audits.append(steps.audit)
    assert [audit.num_samples for audit in audits if audit] == [5 * 64] * 2


def test_a_training_outlives_a_loss_that_cannot_be_audited() -> None:
    model = nn.ModuleDict({"network": nn.Linear(32, 32)})
    steps = RecordedSteps("network", 10)
    steps.start(model)
    with pytest.warns(UserWarning) as warned:
        for _ in range(15):
            x = torch.rand(64, 32)
            t, eps = torch.rand(64, 1), torch.randn_like(x)
            y = model["network"]((1 - t) * x + t * eps)
            nn.functional.smooth_l1_loss(y, eps - x).backward()
            steps.step()
        steps.stop()
    assert len(warned) == 1
    assert (steps.audit, type(steps.error)) == (None, ValueError)


def _recorded_by_rank() -> None:
    """Record steps in the first of two processes, and none in the other."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    model = nn.ModuleDict({"network": nn.Linear(32, 32)})
    steps = RecordedSteps("network", 10)
    steps.start(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(10):
            if rank == 0:
                loss(model["network"], torch.rand(64, 32)).backward()
            steps.step()
    assert (steps.audit is None, steps.error is None) == (rank == 1, rank == 0)


def test_no_process_waits_for_one_whose_audit_fails() -> None:
    in_processes(2, _recorded_by_rank)


QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False}
QUIET |= {"enable_checkpointing": False, "enable_progress_bar": False}


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request: Any) -> Any:
    """Each of Lightning's two packages."""
    pytest.importorskip(f"{request.param}.callbacks")
    return pytest.importorskip(request.param)


def lightning_module(lightning: Any) -> Any:
    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5))

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return loss(self.network, batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.filterwarnings("error::elbos.validation.diagnostics.VaryingEstimatesWarning")
def test_lightning(lightning: Any, tmp_path: Any) -> None:
    """Without a warning of the dropout, which `validated` hides in a lambda."""
    from elbos.adapters.lightning import AuditCallback, ValidationCallback

    data = torch.utils.data.TensorDataset(torch.rand(1024, 32))
    callback, history = AuditCallback("network", num_steps=12), validated()
    best = lightning.callbacks.ModelCheckpoint(
        tmp_path, monitor="validation/bits_per_dim", every_n_train_steps=5
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[callback, ValidationCallback(history), best],
        default_root_dir=tmp_path,
        **QUIET | {"enable_checkpointing": True, "logger": lightning.loggers.CSVLogger(tmp_path)},
    )
    trainer.fit(lightning_module(lightning), torch.utils.data.DataLoader(data, batch_size=64))
    assert callback.audit is not None
    assert (callback.audit.parameterization, callback.audit.num_samples) == ("flow", 12 * 64)
    assert list(history.results) == [5, 10, 15]
    logged = trainer.callback_metrics["validation/bits_per_dim"].item()
    assert logged == pytest.approx(history.results[15].bits_per_dim)
    assert history.best is not None
    assert best.best_model_score.item() == pytest.approx(history.best.bits_per_dim)
    with open(f"{trainer.log_dir}/metrics.csv") as file:  # noqa: PTH123
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    for step, result in history.results.items():
        assert float(rows[step]["validation/bits_per_dim"]) == result.bits_per_dim
        assert scalars(result).keys() <= rows[step].keys()


@pytest.mark.filterwarnings("ignore")
def test_lightning_stores_the_model_of_the_best_validation(lightning: Any, tmp_path: Any) -> None:
    """Also where the callback is appended, after the checkpoints that Lightning puts last."""
    from elbos.adapters.lightning import ValidationCallback

    history = validated()
    remaining = lightning.callbacks.ModelCheckpoint(
        tmp_path, "{step}", monitor="validation/bits_per_dim", every_n_train_steps=5, save_top_k=-1
    )
    trainer = lightning.Trainer(
        max_steps=15,
        callbacks=[remaining],
        default_root_dir=tmp_path,
        **QUIET | {"enable_checkpointing": True},
    )
    trainer.callbacks += [ValidationCallback(history), lightning.callbacks.Timer()]
    data = torch.utils.data.TensorDataset(torch.rand(960, 32))
    trainer.fit(lightning_module(lightning), torch.utils.data.DataLoader(data, batch_size=64))
    stored = {path: score.item() for path, score in remaining.best_k_models.items()}
    expected = {
        str(tmp_path / f"step={step}.ckpt"): pytest.approx(result.bits_per_dim)
        for step, result in history.results.items()
    }
    assert stored == expected


@pytest.mark.filterwarnings("ignore")
def test_lightnings_averaged_weights_are_those_validated(lightning: Any, tmp_path: Any) -> None:
    """Once there are some: with a start at step 7, the module's own at 5, the average at 10."""
    if not hasattr(lightning.callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning 2.6 averages weights")
    from elbos.adapters.lightning import ValidationCallback

    class Copies(lightning.Callback):  # type: ignore[misc]
        models: ClassVar[dict[int, Any]] = {}

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
            self.models[trainer.global_step] = copy.deepcopy(pl_module.eval())
            pl_module.train()

    averaged = lightning.callbacks.EMAWeightAveraging(decay=0.9, update_starting_at_step=7)
    copies, history = Copies(), validated()
    trainer = lightning.Trainer(
        max_steps=10,
        callbacks=[averaged, copies, ValidationCallback(history)],
        default_root_dir=tmp_path,
        **QUIET,
    )
    module = lightning_module(lightning)
    data = torch.utils.data.TensorDataset(torch.rand(640, 32))
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=64))
    after = module.eval()  # at the end Lightning copies the average
    for step, model in ((5, copies.models[5]), (10, after)):
        expected = history.validator(history.denoiser(model)).bits_per_dim
        assert history.results[step].bits_per_dim == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore::elbos.validation.diagnostics.CoupledNoiseWarning")
def test_log_validation_takes_averaged_weights_and_gives_them_back() -> None:
    ema_model = pytest.importorskip("diffusers.training_utils").EMAModel
    from elbos.adapters.diffusers import log_validation

    class Accelerator:
        """As much of accelerate's as the function uses."""

        logged: ClassVar[dict[int, dict[str, float]]] = {}

        def unwrap_model(self, model: nn.Module) -> Any:
            return model.module

        def log(self, metrics: dict[str, float], *, step: int) -> None:
            self.logged[step] = metrics

    model = nn.ModuleDict({"network": nn.Linear(32, 32)})
    history, accelerator = validated(), Accelerator()
    prepared = nn.Module()
    prepared.module = model
    ema = ema_model(model.parameters(), decay=0.9)
    expected = history.validator(history.denoiser(model)).bits_per_dim
    with torch.no_grad():
        model["network"].weight.add_(1)
    weight = model["network"].weight.clone()
    actual = [log_validation(history, accelerator, prepared, step, ema=ema) for step in range(1, 6)]
    assert actual[:4] == [None] * 4
    assert actual[4] == accelerator.logged[5]
    assert list(accelerator.logged) == [5]
    assert history.results[5].bits_per_dim == pytest.approx(expected)
    assert torch.equal(model["network"].weight, weight)
    worse = log_validation(history, accelerator, prepared, 10)
    assert worse is not None
    assert worse["validation/worse_by"] > 4 * worse["validation/worse_by_error"]


@pytest.mark.filterwarnings("ignore")
def test_transformers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from elbos.adapters.transformers import AuditCallback, ValidationCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(32, 32)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": loss(self.network, x)}

    callback, history = AuditCallback("network", num_steps=12), validated()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=14,
        per_device_train_batch_size=64,
        use_cpu=True,
        report_to=["tensorboard"],
        logging_steps=5,
        save_strategy="best",
        metric_for_best_model="bits_per_dim",
        greater_is_better=False,
        eval_strategy="steps",
        eval_steps=5,
        prediction_loss_only=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    data = [{"x": row} for row in torch.rand(1024, 32)]
    trainer = transformers.Trainer(
        Model(), args, train_dataset=data, eval_dataset=data[:64], callbacks=[callback]
    )
    trainer.add_callback(ValidationCallback(history, trainer.log))
    trainer.train()
    assert callback.audit is not None
    assert (callback.audit.parameterization, callback.audit.num_samples) == ("flow", 12 * 64)
    logged = [item for item in trainer.state.log_history if "eval_bits_per_dim" in item]
    assert [item["step"] for item in logged] == list(history.results) == [5, 10, 14]
    assert logged[1]["eval_bits_per_dim"] == history.results[10].bits_per_dim
    assert trainer.state.best_metric == min(r.bits_per_dim for r in history.results.values())
    assert [item["step"] for item in trainer.state.log_history if "loss" in item] == [5, 10]
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for name, value in scalars(history.results[10], name="eval").items():
        _, event, _ = events.Scalars(name)
        assert (event.step, event.value) == (10, pytest.approx(value))
    args.restore_callback_states_from_checkpoint, resumed = True, validated()
    trainer.pop_callback(ValidationCallback)
    trainer.add_callback(ValidationCallback(resumed, trainer.log))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(resumed.results[5].bound, history.results[5].bound)


def test_a_collection_of_metrics_takes_the_loss_by_level() -> None:
    """The numbers of `elbos.LossByLevel`, of a batch and of several, reset and stored."""
    torchmetrics = pytest.importorskip("torchmetrics")
    from elbos.adapters import torchmetrics as adapter

    edges, generator = (-2.0, 0.0, 2.0), torch.Generator().manual_seed(0)
    losses, metrics = (make(edges) for make in (LossByLevel, adapter.LossByLevel))
    collection = torchmetrics.MetricCollection([metrics])
    for _ in range(3):
        logsnr, loss = torch.rand(2, 64, generator=generator)
        losses.update(logsnr, loss)
        collection.update(logsnr=logsnr, loss=loss)
    assert collection.compute() == scalars(losses.result())
    stored = copy.deepcopy(collection)
    collection.reset()
    assert collection(logsnr=logsnr, loss=loss) == collection.compute() != stored.compute()
