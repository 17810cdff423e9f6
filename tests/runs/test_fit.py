"""Networks and data of one's own: all that `elbos train` gives, and nothing that is stored runs."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import AtStep, Elbos, assert_one_line
from forking import in_processes
from tiny import assert_same_run, bounds, tensors
from torch import Tensor, nn

import elbos
from elbos.base.errors import Interrupted
from elbos.models import samplers
from elbos.runs.fit import fit
from elbos.runs.run import Run
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.denoiser import Denoiser
from elbos.theory.objective import Objective
from elbos.theory.weightings import Tabulated
from elbos.training import checkpoint
from elbos.training.config import Execution, Output
from elbos.training.data import Toy
from elbos.training.network import OwnNetwork

ENDS = {"logsnr_min": -8.0, "logsnr_max": 8.0}
OBJECTIVE = Objective(
    weighting=weightings.Sigmoid(),
    schedule=Adaptive(**ENDS),
    parameterization=parameterizations.V(),
)
OUTPUT = Output(log_every=16, validate_every=10**9, save_every=64)
SETTINGS: dict[str, Any] = {
    "num_images": 160,
    "batch_size": 16,
    "output": OUTPUT,
    "precision": "fp32",
}


class Net(nn.Module):
    """A network of whatever condition: a label, a tensor or a dict of both."""

    def __init__(self, dim: int = 2, num_features: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + 1, num_features)
        self.label = nn.Embedding(4, num_features)  # the last of them is none
        self.text = nn.Linear(3, num_features)
        self.outer = nn.Linear(num_features, dim)
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.0]))
        self.dropout = nn.Dropout(0.1)

    def forward(self, z: Tensor, logsnr: Tensor, cond: Any = None) -> Tensor:
        x = self.inner(torch.cat([z.flatten(1), logsnr[:, None] / 8], dim=1))
        parts = cond if isinstance(cond, dict) else {"label": cond}
        if parts["label"] is not None:
            x = x + self.label(parts["label"])
        if "text" in parts:
            x = x + self.text(parts["text"])
        return self.outer(self.dropout(torch.relu(x))).view_as(z)


class TwoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        return self.layer(z)


class Points(torch.utils.data.Dataset):
    """Points in the plane, augmented, with a condition of some form."""

    def __init__(
        self, form: str = "none", num: int = 100, is_augmented: bool = True, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.rand(num, 2, generator=generator) * 1.6 - 0.8
        self.form, self.noise = form, 0.1 if is_augmented else 0.0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        x = self.x[i] + self.noise * torch.rand(2)
        text = torch.full((3,), i / 100)
        conds = {"label": i % 3, "dict": {"label": i % 3, "text": text}}
        return x if self.form == "none" else (x, conds[self.form])


def new_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


NULLS = {"none": None, "label": torch.tensor([3])}
NULLS["dict"] = {"label": torch.tensor([3]), "text": torch.zeros(1, 3)}


@pytest.mark.parametrize("form", NULLS)
def test_a_fit_is_resumed_bit_for_bit(tmp_path: Path, at_step: AtStep, form: str) -> None:
    """Augmentations, dropped conditions, average and adaptive schedule included."""
    settings = {**SETTINGS, "null_cond": NULLS[form]}
    settings["cond_dropout"] = 0.0 if form == "none" else 0.3
    whole = fit(new_net(), Points(form), OBJECTIVE, run=tmp_path / "whole", **settings)
    at_step(5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="6 of 10"):
        fit(new_net(), Points(form), OBJECTIVE, run=tmp_path / "run", **settings)
    at_step(5, lambda: None)
    run = fit(new_net(seed=1), Points(form), OBJECTIVE, run=tmp_path / "run", **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert run.step == whole.step == 10
    assert torch.equal(run.network.outer.weight, whole.network.outer.weight)


def test_data_made_ahead_are_the_same(tmp_path: Path) -> None:
    for num_workers in (0, 2):
        path = tmp_path / str(num_workers)
        fit(new_net(), Points(), OBJECTIVE, run=path, num_workers=num_workers, **SETTINGS)
    assert_same_run(tmp_path / "0", tmp_path / "2")


def test_a_fit_is_the_loss_of_the_objective_trained(tmp_path: Path) -> None:
    """The trained run is better than the network it began with, by the bound on the data."""
    data = Points(is_augmented=False)
    before = new_net()
    settings = {**SETTINGS, "num_images": 3200, "validation": data}
    run = fit(new_net(), data, OBJECTIVE, run=tmp_path, learning_rate=1e-2, **settings)
    after = run.likelihood(data)
    run.denoiser = Denoiser(before.eval(), parameterizations.V())
    begun = run.likelihood(data)
    gain = begun.difference(after)
    assert gain.mean > 4 * gain.standard_error
    validated = bounds(tmp_path)
    assert validated == [pytest.approx(after.bits.mean, abs=0.5)]


@pytest.mark.parametrize("form", ["label", "dict"])
def test_a_run_is_loaded_with_its_network_and_sampled(tmp_path: Path, form: str) -> None:
    """By any sampler, with the condition that it understands, guided or not."""
    null = NULLS[form]
    fit(
        new_net(),
        Points(form),
        OBJECTIVE,
        run=tmp_path,
        null_cond=null,
        cond_dropout=0.2,
        **SETTINGS,
    )
    run = Run(tmp_path, network=new_net(seed=1), null_cond=null)
    assert repr(run) == f"Run({str(tmp_path)!r}, step={run.step})"
    cond: Any = torch.tensor([0, 1, 2, 0])
    cond = {"label": cond, "text": torch.ones(4, 3)} if form == "dict" else cond
    plain = run.sample(4, cond=cond, num_steps=4)
    assert plain.shape == (4, 2)
    assert torch.equal(run.sample(4, cond=cond, num_steps=4), plain)
    for changes in ({"seed": 1}, {"sampler": samplers.Heun()}, {"guidance": 2.0}):
        assert not torch.equal(run.sample(4, cond=cond, num_steps=4, **changes), plain)
    with pytest.raises(ValueError, match=r"\(4,"):
        run.sample(3, cond=cond)
    with pytest.raises(ValueError, match="null_cond"):
        Run(tmp_path, network=new_net()).sample(4, cond=cond, guidance=2.0)
    with pytest.raises(ValueError, match="null_cond"):
        Run(tmp_path, network=new_net(), null_cond=torch.tensor([2]))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        run.likelihood(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="num_image"):
        run.evaluate(num_image=3)
    with pytest.raises(ValueError, match="likelihood"):
        run.evaluate(num_images=3)
    with pytest.raises(ValueError, match="Net"):
        Run(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        Run(tmp_path, network=Net(num_features=9))


@pytest.mark.parametrize("settings", [{}, {"cond_dropout": 0.1, "null_cond": NULLS["label"]}])
def test_a_run_of_conditions_is_measured_with_conditions_alone(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """An older run, which does not store that it has conditions, is opened and resumed as ever."""
    inputs = {"dataset": Points("label"), "run": tmp_path, **SETTINGS, **settings}
    run, x = fit(new_net(), objective=OBJECTIVE, **inputs), torch.zeros(4, 2)
    for opened in (run, Run(tmp_path, network=new_net())):
        calls = (opened.sample, 4), (opened.likelihood, x), (opened.with_data, Toy())
        for call, argument in calls:
            with pytest.raises(ValueError, match="cond=cond"):
                call(argument)
        assert opened.sample(4, cond=torch.zeros(4).long()).shape == (4, 2)
        assert opened.likelihood(Points("label", is_augmented=False)).bits.num == 100
    stored = json.loads((tmp_path / "data.json").read_text())
    assert stored.pop("has_cond") is True
    (tmp_path / "data.json").write_text(json.dumps(stored))
    assert fit(new_net(), objective=OBJECTIVE, **inputs).sample(4).shape == (4, 2)


def test_a_network_of_two_arguments_takes_no_condition(tmp_path: Path) -> None:
    run = fit(TwoArguments(), Points(), OBJECTIVE, run=tmp_path / "a", **SETTINGS)
    assert run.sample(3).shape == (3, 2)
    with pytest.raises(ValueError, match="logsnr"):
        fit(TwoArguments(), Points("label"), OBJECTIVE, run=tmp_path / "b", **SETTINGS)


def test_items_of_one_are_samples_without_a_condition(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(Points().x)
    item, other = (
        fit(new_net(), inputs, OBJECTIVE, run=tmp_path / name, **SETTINGS)
        for inputs, name in ((data, "one"), (Points().x, "other"))
    )
    assert item.weights_digest() == other.weights_digest()


def test_a_weighting_that_is_a_function_is_its_numbers(tmp_path: Path) -> None:
    objective = replace(OBJECTIVE, weighting=lambda logsnr: torch.sigmoid(2 - logsnr))
    run = fit(new_net(), Points(), objective, run=tmp_path, **SETTINGS)
    assert isinstance(run.config.weighting, Tabulated)


class Tied(Net):
    """Two names for one tensor, which a safetensors file does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.label.weight


class Fourier(TwoArguments):
    """A buffer of a type that safetensors has not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phases", torch.zeros(3, dtype=torch.cdouble))


class OwnSchedule(schedules.Cosine):
    """None of the library's."""


class Broken(nn.Module):
    """A network that is wrong in one way, beside a weight that is trained."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.wrong = wrong

    def forward(self, z: Tensor, logsnr: Tensor, cond: Any = None) -> Any:
        y = self.layer(z)
        if self.wrong == "error":
            raise KeyError("a key")
        return y[:, :1] if self.wrong == "shape" else y.detach()


class Images(Points):
    def __getitem__(self, i: int) -> Any:
        return (255 * self.x[i]).to(torch.uint8)


REFUSED: dict[str, Any] = {
    "weights that cannot be stored": ("Tied", lambda: {"network": Tied()}),
    "a type that cannot be stored": ("complex128", lambda: {"network": Fourier()}),
    "a schedule that cannot be stored": ("OwnSchedule",
        lambda: {"objective": replace(OBJECTIVE, schedule=OwnSchedule(**ENDS))}),
    "integers": ("torch.uint8", lambda: {"dataset": Images()}),
    "dicts": ("dict.*Validator's to_item", lambda: {"dataset": [{"image": torch.zeros(3)}] * 8}),
    "a stream": ("generator", lambda: {"dataset": (torch.zeros(3) for _ in range(8))}),
    "nothing": ("empty", lambda: {"dataset": Points(num=0)}),
    "a validation set of another shape": ("validation",
        lambda: {"validation": torch.zeros(5, 9), "dataset": torch.zeros(64, 3)}),
    "no condition": ("no condition", lambda: {"cond_dropout": 0.1}),
    "no null": ("null_cond", lambda: {"dataset": Points("label"), "cond_dropout": 0.1}),
    "guidance without a null": ("guidance", lambda:
        {"sampling": elbos.training.sampling.Sampling(guidance=2.0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before(tmp_path: Path, name: str) -> None:
    needed, changes = REFUSED[name]
    inputs = {"network": new_net(), "dataset": Points(), "objective": OBJECTIVE, **SETTINGS}
    with pytest.raises((TypeError, ValueError), match=rf"\A.*({needed}).*\Z"):
        fit(**{**inputs, "run": tmp_path / "run", **changes()})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["shape", "gradient", "error"])
def test_a_network_that_fails_is_tried_again_in_the_same_directory(
    tmp_path: Path, wrong: str
) -> None:
    """The error is its own, and nothing but a configuration is there, which may be another."""
    inputs = {"dataset": Points(), "objective": OBJECTIVE, **SETTINGS, "run": tmp_path / "run"}
    with pytest.raises((ValueError, RuntimeError, KeyError)):
        fit(Broken(wrong), **inputs)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    fit(new_net(), **inputs)


CHANGED = {
    "seed": {"seed": 1},
    "means": {"dataset": Points("label", seed=1)},
    "num_levels": {"num_levels": 256},
    "null_cond": {"null_cond": torch.tensor([2])},
    "TwoArguments": {"network": TwoArguments(), "dataset": Points(), "cond_dropout": 0.0},
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of a fit whose run is there."""
    inputs = {
        **SETTINGS,
        "null_cond": torch.tensor([3]),
        "cond_dropout": 0.1,
        "objective": replace(OBJECTIVE, schedule=Adaptive(logsnr_min=-8.0, logsnr_max=13.3)),
        "run": tmp_path_factory.mktemp("runs") / "run",
    }
    for _ in range(2):  # equal data are the same data
        fit(new_net(), **inputs, dataset=Points("label"))
    return inputs


@pytest.mark.parametrize("name", CHANGED)
def test_a_directory_belongs_to_one_run(fitted: dict[str, Any], name: str) -> None:
    inputs = {"network": new_net(), "dataset": Points("label"), **fitted}
    with pytest.raises(ValueError, match=name):
        fit(**{**inputs, **CHANGED[name]})


def test_statistics_of_a_network_may_be_nan_and_are_averaged(tmp_path: Path) -> None:
    """A buffer is the user's: a checkpoint with NaN is whole."""

    class Normalized(TwoArguments):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2, affine=False)
            self.register_buffer("unused", torch.tensor(torch.nan))

        def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
            return self.layer(self.norm(z))

    network = Normalized()
    run = fit(network, Points(), OBJECTIVE, run=tmp_path, **SETTINGS)
    assert torch.equal(run.network.norm.running_var, network.norm.running_var)
    assert not torch.equal(network.norm.running_var, torch.ones(2))
    assert network.norm.num_batches_tracked == run.step  # none by the check before the training
    assert Run(tmp_path, network=Normalized()).network.unused.isnan()


def test_a_schedule_that_has_learned_starts_anew(tmp_path: Path) -> None:
    """What it has learned is in no file, so that the run could not be resumed."""
    schedule = Adaptive(**ENDS)
    logsnr = schedule.sample(64)
    schedule.update(logsnr, logsnr.sigmoid())
    for name, objective in (("a", replace(OBJECTIVE, schedule=schedule)), ("b", OBJECTIVE)):
        fit(new_net(), Points(), objective, run=tmp_path / name, **SETTINGS)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert schedule.state_dict()["count"].sum() == 64


# --- on the command line -------------------------------------------------------------------------

OWN = """
import pathlib
import torch
pathlib.Path("was-run").touch()
class Net(torch.nn.Linear):
    def forward(self, z, logsnr, label): return super().forward(z) + logsnr[:, None] / 100
def build(shape, num_classes): return Net(shape[0], shape[0])
def number(shape, num_classes): return 3
"""
TRAIN = ["train", "toy", "--run", "run", "--num-images", "256", "--batch-size", "64"]
BUILD = ["--network.function", "net.py:build"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(OWN)
    return tmp_path


def test_a_network_in_a_file_is_trained_and_sampled(own: Path, elbos: Elbos) -> None:
    for _ in range(2):
        assert elbos(*TRAIN, "network:own", *BUILD).status == 0
    assert tensors(own / "run")["step"] == 4
    assert elbos("sample", "run", "--num", "3", *BUILD).status == 0
    few = ["--num-images", "20", "--num-pilot-images", "10", "--ode.num-images", "0"]
    assert elbos("evaluate", "run", *BUILD, *few).status == 0


def test_nothing_that_is_stored_runs_code(own: Path, elbos: Elbos) -> None:
    assert elbos(*TRAIN, "network:own", *BUILD).status == 0
    (own / "was-run").unlink()
    for words in (["sample", "run"], ["evaluate", "run"], ["train", "--config", "run/config.json"]):
        assert_one_line(elbos(*words), "net.py:build", "network.function")
    assert not (own / "was-run").exists()
    assert OwnNetwork(name="net.py:build") == OwnNetwork.from_file("net.py:build")


@pytest.mark.parametrize("function", ["net.py:nope", "net.py:number", "nope.py:build", "net.py"])
def test_a_file_without_a_network_is_refused(own: Path, elbos: Elbos, function: str) -> None:
    result = elbos(*TRAIN, "network:own", "--network.function", function)
    assert_one_line(result, function.partition(":")[0])
    assert not (own / "run").exists()


class Multiplied(Points):
    """Data that are computed when they are needed, by a matrix product."""

    def __getitem__(self, i: int) -> Any:
        return torch.nn.functional.linear(self.x[i], torch.eye(self.x.shape[1]))


def test_the_data_are_not_computed_in_the_networks_precision(tmp_path: Path) -> None:
    """In bfloat16 they would be none of the pixel values."""
    data = Multiplied()
    data.x = 2 * torch.randint(256, data.x.shape) / 255 - 1
    settings = {**SETTINGS, "precision": "bf16", "num_levels": 256, "validation": data}
    objective = replace(OBJECTIVE, schedule=schedules.Cosine(logsnr_min=-8.0, logsnr_max=13.3))
    run = fit(new_net(), data, objective, run=tmp_path / "run", **settings)
    assert run.likelihood(data).bits_per_dim > 0
    for changes in ({"num_evaluations": 0}, {"num_evaluations": 3}, {"num_samples": 0}):
        with pytest.raises(ValueError, match=r"num_evaluations|num_samples"):
            run.likelihood(data, **changes)


def test_a_run_that_holds_a_link_is_not_opened(tmp_path: Path) -> None:
    """Samples and evaluations would be written through it."""
    fit(new_net(), Points(), OBJECTIVE, run=tmp_path / "run", **SETTINGS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "evaluation").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        Run(tmp_path / "run", network=new_net())
    assert caught.value.filename == str(tmp_path / "run" / "evaluation")


def stopped(run: Path) -> None:
    """One of two processes that share a network, stopped in the middle."""
    torch.manual_seed(0)
    network = TwoArguments()

    def stop(num_images: int) -> None:
        if num_images == 80:
            os.kill(os.getpid(), signal.SIGTERM)

    sharded = {**SETTINGS, "execution": Execution(shard_size=2), "on_images": stop}
    with pytest.raises(Interrupted):
        fit(network, torch.ones(32, 2) / 2, OBJECTIVE, run=run, **sharded)
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None and 0 < int(newest.name) < 10
    stored = checkpoint.read(newest, "network")[1]["network"]
    assert all(torch.equal(weight, stored[n]) for n, weight in network.state_dict().items())


def test_a_sharded_training_that_is_stopped_leaves_its_weights_in_the_network(
    tmp_path: Path,
) -> None:
    in_processes(2, stopped, tmp_path / "run")
