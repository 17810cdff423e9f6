"""What a training run promises: the same numbers however it is cut up, and nothing lost."""

import json
import math
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import AtStep
from tiny import DIGITS, assert_same_run, log, tensors

from elbos.base.errors import Diverged, Interrupted
from elbos.base.philox import Stream
from elbos.base.processes import ALONE
from elbos.models.likelihood import warn_if_unresolved
from elbos.models.networks import MLPConfig
from elbos.runs.run import Run
from elbos.theory import parameterizations, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import Linear
from elbos.theory.weightings import Sigmoid, Tabulated
from elbos.training.config import Config, Optimizer, Output
from elbos.training.data import Toy
from elbos.training.directory import RunDirectory
from elbos.training.log import validate
from elbos.training.loop import train
from elbos.training.presets import PRESETS
from elbos.validation import BinnedLoss

GOLDEN = Path(__file__).with_name(
    "golden_losses.json"
)  # python tests/training/test_loop.py writes it
TOY = Config(
    data=Toy(num_train=1000),
    network=MLPConfig(num_features=16, num_blocks=1),
    parameterization=parameterizations.V(),
    schedule=Adaptive(logsnr_min=-10.0, logsnr_max=10.0),
    weighting=weightings.ELBO(),
    sampling=DIGITS.sampling,
    output=Output(log_every=64, validate_every=10**9, save_every=64),
    num_images=640,
    batch_size=64,
    precision="fp32",
)


def golden_losses(run: Path) -> list[float]:
    """Without dropout, whose masks are torch's and change with its versions."""
    every = replace(DIGITS.output, log_every=DIGITS.batch_size)
    network = replace(DIGITS.network, dropout=0.0)
    train(replace(DIGITS, network=network, precision="fp32", output=every), run)
    return [line["loss"] for line in log(run) if "loss" in line]


# --- the same numbers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(DIGITS, run)
    return run


@pytest.mark.parametrize(("step", "number"), [(0, signal.SIGINT), (14, signal.SIGTERM)])
def test_a_resumed_run_is_the_uninterrupted_run(
    uninterrupted: Path, tmp_path: Path, at_step: AtStep, step: int, number: int
) -> None:
    at_step(step, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=f"{step + 1} of 30"):
        train(DIGITS, tmp_path / "run")
    at_step(step, lambda: None)
    torch.manual_seed(step)  # a new process starts with other random numbers
    train(DIGITS, tmp_path / "run")
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_resumed_run_with_muon_is_the_uninterrupted_run(tmp_path: Path, at_step: AtStep) -> None:
    optimizer = replace(DIGITS.optimizer, use_muon=True)
    config = replace(DIGITS, optimizer=optimizer, num_images=128)
    train(config, tmp_path / "uninterrupted")
    at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run")
    at_step(3, lambda: None)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run")


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(replace(TOY, seed=seed, num_images=64), tmp_path / f"{seed}")
    assert log(tmp_path / "0")[0]["loss"] != log(tmp_path / "1")[0]["loss"]


def test_a_run_in_a_thread_or_asked_to_stop_at_its_last_step_is_the_run(
    tmp_path: Path, at_step: AtStep
) -> None:
    """In a thread, Python handles no signals."""
    train(TOY, tmp_path / "plain")
    with ThreadPoolExecutor() as pool:
        pool.submit(train, TOY, tmp_path / "thread").result()
    at_step(9, lambda: signal.raise_signal(signal.SIGINT))
    train(TOY, tmp_path / "asked")
    for name in ("thread", "asked"):
        assert_same_run(tmp_path / "plain", tmp_path / name)


def test_a_finished_run_trains_no_more(uninterrupted: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    train(DIGITS, uninterrupted)
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_made_longer_is_the_long_run_where_the_learning_rate_has_no_end(
    tmp_path: Path,
) -> None:
    long = replace(TOY, optimizer=Optimizer(use_decay=False, warmup_images=200))
    train(long, tmp_path / "long")
    train(replace(long, num_images=320), tmp_path / "run")
    train(long, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").config() == long
    expected, actual = tensors(tmp_path / "long"), tensors(tmp_path / "run")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="num_images = 640, not 320"):
        train(replace(long, num_images=320), tmp_path / "run")


def test_a_run_made_longer_says_that_its_learning_rate_rises_again(tmp_path: Path) -> None:
    train(replace(TOY, num_images=320), tmp_path)
    with pytest.warns(UserWarning, match=r"is extended to 640 images.* decayed for 320"):
        train(TOY, tmp_path)
    rates = [line["learning_rate"] for line in log(tmp_path) if "loss" in line]
    assert len(rates) == 10
    assert rates[5] > rates[4]
    assert tensors(tmp_path)["step"] == 10
    with pytest.raises(ValueError, match="seed = 0, not 1"):  # nothing else may change
        train(replace(TOY, num_images=1280, seed=1), tmp_path)


def test_the_share_of_clipped_steps_is_logged(tmp_path: Path) -> None:
    for most, share in ((1e-9, 1.0), (1e9, 0.0)):
        run = tmp_path / f"{share}"
        train(replace(TOY, optimizer=Optimizer(max_grad_norm=most), num_images=128), run)
        assert {line["clipped"] for line in log(run) if "loss" in line} == {share}


def test_the_loss_by_noise_level_is_that_of_the_batches(tmp_path: Path) -> None:
    """Of the ELBO at levels drawn evenly from a range of 20, the loss is 20 times its mean."""
    even = Linear(logsnr_min=-10.0, logsnr_max=10.0)
    train(replace(TOY, schedule=even, output=replace(TOY.output, log_every=128)), tmp_path)
    lines = [line for line in log(tmp_path) if "loss" in line]
    assert len(lines) == 5
    for line in lines:
        actual = BinnedLoss.from_dict(line["loss_by_level"])
        assert actual.edges == pytest.approx(range(-10, 11, 2))
        assert sum(actual.num_samples) == 128
        assert {*actual.num_samples} <= {12, 13, 14}  # low-discrepancy levels
        total = sum(n * m for n, m in zip(actual.num_samples, actual.nats_per_dim, strict=True))
        assert 20 * total / 128 == pytest.approx(line["loss"], rel=1e-6)


def test_the_loss_by_noise_level_depends_on_no_weighting(tmp_path: Path) -> None:
    """Of the network before its first step, even where a weighting has no weight: it says None."""
    half = Tabulated.from_function(lambda logsnr: (logsnr < 0.0).double())
    actual = []
    for name, weighting in (("elbo", weightings.ELBO()), ("k", Sigmoid(k=-3.0)), ("half", half)):
        train(replace(TOY, weighting=weighting, num_images=64), tmp_path / name)
        actual.append(log(tmp_path / name)[0]["loss_by_level"]["nats_per_dim"])
    assert actual[1] == pytest.approx(actual[0], rel=1e-5)
    assert actual[2][:5] == pytest.approx(actual[0][:5], rel=1e-5)
    assert actual[2][6:] == [None] * 4


def test_what_is_written_does_not_change_what_is_trained(
    uninterrupted: Path, tmp_path: Path
) -> None:
    output = Output(log_every=16, validate_every=160, save_every=48, num_kept=3)
    train(replace(DIGITS, output=output), tmp_path)
    expected, actual = tensors(uninterrupted), tensors(tmp_path)
    assert all(torch.equal(actual[name], expected[name]) for name in expected if "log" not in name)
    assert [int(path.name) for path in sorted((tmp_path / "checkpoints").iterdir())] == [24, 27, 30]


def test_losses_are_the_golden_ones(tmp_path: Path) -> None:
    torch.testing.assert_close(
        golden_losses(tmp_path), json.loads(GOLDEN.read_text()), rtol=0, atol=1e-5
    )


def test_levels_that_the_noise_blurs_are_warned_of(tmp_path: Path) -> None:
    """The value, and an end that is enough: 2 ln(3 (K - 1)); the presets' ends are."""
    schedule = replace(DIGITS.schedule, logsnr_max=7.0)
    with pytest.warns(UserWarning, match=r"logsnr_max=7 .*17 levels.*4\.14 .*7\.8") as caught:
        train(replace(DIGITS, schedule=schedule, num_images=16), tmp_path)
    assert len([warning for warning in caught if "logsnr_max" in str(warning.message)]) == 1
    for name, num_levels in {"digits": 17, "fashion": 256, "toy": None}.items():
        warn_if_unresolved(PRESETS[name].schedule.logsnr_max, num_levels)


# --- only the loop changes state ----------------------------------------------------------------


def test_training_leaves_its_configuration_alone(tmp_path: Path) -> None:
    config = replace(
        PRESETS["digits"], network=DIGITS.network, num_images=16, batch_size=16, precision="fp32"
    )
    before = config.schedule.state_dict()
    train(config, tmp_path)
    assert config == RunDirectory(tmp_path).config()
    assert before.keys() == config.schedule.state_dict().keys() == {"total", "count", "ends"}
    assert all(torch.equal(before[name], t) for name, t in config.schedule.state_dict().items())
    assert tensors(tmp_path)["schedule/count"].sum() > 0


def test_validation_is_deterministic_and_draws_from_no_shared_source(
    uninterrupted: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    denoiser, data = Run(uninterrupted).denoiser, DIGITS.data.load()
    first, again = (validate(denoiser, DIGITS, data, ALONE) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first is not None and again is not None
    assert torch.equal(again.bound, first.bound)
    assert first.standard_error > 0


# --- nothing lost --------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, at_step: AtStep) -> None:
    def poison() -> None:
        monkey.setattr(Stream, "normal", lambda *arguments: math.nan * plain(*arguments))

    plain = Stream.normal
    messages = []
    for _ in range(2):  # the same command again explains itself in the same way
        with pytest.MonkeyPatch.context() as monkey:
            at_step(7, poison)
            with pytest.raises(Diverged) as error:
                train(TOY, tmp_path)
        messages.append(str(error.value))
        assert tensors(tmp_path)["step"] == 7
    assert messages[0] == messages[1]
    assert "step 7" in messages[0]
    assert "log-SNR" in messages[0]
    at_step(7, lambda: None)
    train(TOY, tmp_path)  # and nothing is lost
    train(TOY, tmp_path.with_name("whole"))
    assert_same_run(tmp_path.with_name("whole"), tmp_path)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(golden_losses(Path(folder)), indent=1) + "\n")
