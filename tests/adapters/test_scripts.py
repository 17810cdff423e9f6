"""Whole training scripts, of which only the lines from the noise to the loss can be run."""

import ast
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from elbos import audit
from elbos.adapters.scripts.schedulers import with_local_configuration
from elbos.adapters.scripts.unknown import Stage, Unknown
from elbos.audit import Audit

SCRIPTS = Path(__file__).parent / "scripts"
LATENTS = SCRIPTS / "train_latents.py"
FEW = 200  # samples, where the weighting does not count


def audited(
    script: Path, *flags: str, shape: tuple[int, ...] = (4, 8, 8), num: int = 1000
) -> Audit:
    x = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return audit.from_script(script, x, flags, num)


def script_of(result: Audit) -> dict[str, object]:
    """What the audit says of the script."""
    return next(dict(one.values) for one in result.diagnostics if one.kind == "script")


def lines_of(result: Audit, script: Path) -> list[str]:
    """The lines that the audit says were run."""
    values = script_of(result)
    source, found = script.read_text().splitlines(), []
    for part in str(values["lines"]).split(", "):
        first, _, last = part.partition("-")
        found += source[int(first) - 1 : int(last or first)]
    return [line.strip() for line in found]


def deviation(result: Audit, log_w: torch.Tensor, most: float = 6) -> float:
    """The largest difference of log w from a formula, up to a constant, far from the ends."""
    difference = (result.weight.log() - log_w)[result.logsnr.abs() < most]
    return (difference - difference.median()).abs().max().item()


@pytest.mark.parametrize(("prediction", "gamma"), [("epsilon", 5.0), ("v_prediction", None)])
def test_latents(prediction: str, gamma: float | None) -> None:
    flags = ["--prediction_type", prediction]
    flags += ["--snr_gamma", str(gamma)] if gamma else []
    result = audited(LATENTS, *flags)
    assert result.parameterization == {"epsilon": "eps", "v_prediction": "v"}[prediction]
    assert result.process == "variance preserving"
    snr, limit = result.logsnr.exp(), gamma or torch.inf
    weight = {  # uniform times of the cosine schedule have density sech(logsnr / 2)
        "epsilon": (snr.clamp(max=limit) / snr if gamma else 1) / torch.cosh(result.logsnr / 2),
        "v_prediction": torch.exp(-result.logsnr / 2)
        * (snr.clamp(max=limit) / (snr + 1) if gamma else 1),
    }
    assert deviation(result, weight[prediction].log()) < 0.02  # a kink between two steps


def test_the_lines_and_what_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = audited(LATENTS, num=FEW)
    lines = lines_of(result, LATENTS)
    assert "noise_scheduler = TinyScheduler(num_train_timesteps=500)" in lines
    assert "noise = torch.randn_like(latents)" in lines
    assert "target = noise" in lines
    for missing in ("vae", "hidden_states =", "train_loss", "mkdir", "compute_snr", "logger"):
        assert not any(missing in line for line in lines if not line.startswith("pred = "))
    assert script_of(result)["network"] == "unet"
    assert re.fullmatch(r"latents \(line \d+\)", str(script_of(result)["data"]))
    assert list(tmp_path.iterdir()) == []


def test_flow_with_packed_latents() -> None:
    result = audited(SCRIPTS / "train_flow.py", "--power", "2")
    assert (result.parameterization, result.process) == ("flow", "rectified flow")
    log_w = -result.logsnr / 2 + 2 * torch.nn.functional.logsigmoid(-result.logsnr / 2)
    assert deviation(result, log_w) < 0.02
    assert [one.kind for one in result.diagnostics] == ["script", "script-conditions"]


def test_without_functions() -> None:
    result = audited(SCRIPTS / "train_plain.py", shape=(3, 8, 8))
    assert (result.parameterization, result.sigma_data) == ("edm", pytest.approx(0.5, abs=1e-3))
    assert result.schedule == "Normal()"
    values = script_of(result)
    assert (values["data"], values["network"]) == ("images", "model")


def test_lists_and_a_second_network() -> None:
    script = SCRIPTS / "train_lists.py"
    result = audited(script, "--model", "some/model")
    assert (result.parameterization, result.process) == ("v", "variance preserving")
    assert deviation(result, -result.logsnr / 2) < 0.02
    assert script_of(result)["network"] == "control and transformer"


def test_a_project_with_flags_of_absl_and_packages_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What merely lies in the current folder is not run, though the script imports that name."""
    (tmp_path / "no_such_library.py").write_text("open('is_run', 'w')")
    monkeypatch.chdir(tmp_path)
    path, shift = [*sys.path], 3.0
    result = audited(SCRIPTS / "train_flags.py", "--shift", str(shift))
    assert (result.parameterization, result.process) == ("flow", "rectified flow")
    # t = shift u / (1 + (shift - 1) u) with uniform u, and w is p / (1 - t)^2
    log_sigmoid, at = torch.nn.functional.logsigmoid, result.logsnr / 2
    log_w = log_sigmoid(at + math.log(shift)) + log_sigmoid(-at - math.log(shift))
    assert deviation(result, log_w - 2 * log_sigmoid(at)) < 0.02
    values = script_of(result)
    assert (values["data"], values["network"]) == ("x (line 26)", "network")
    assert not (tmp_path / "is_run").exists()
    assert sys.path == path
    own = ("no_such_library", "interpolant", "parts")
    assert not [name for name in sys.modules if name.partition(".")[0] in own]


def test_an_object_that_holds_the_network() -> None:
    """Uniform steps of a linear table of alpha^2, and nothing of the size of the network."""
    result = audited(SCRIPTS / "train_wrapped.py", shape=(3, 8, 8))
    assert (result.parameterization, result.process) == ("eps", "variance preserving")
    log_sigmoid = torch.nn.functional.logsigmoid
    assert deviation(result, log_sigmoid(result.logsnr) + log_sigmoid(-result.logsnr), 3) < 0.02
    assert script_of(result)["network"] == "UNet"


def test_a_loss_of_torch_is_no_network(tmp_path: Path) -> None:
    source = LATENTS.read_text()
    old = 'loss = F.mse_loss(pred.float(), target.float(), reduction="mean")'
    assert old in source
    script = tmp_path / "train.py"
    source = source.replace("global_step = 0", "global_step, mse = 0, torch.nn.MSELoss()")
    script.write_text(source.replace(old, "loss = mse(target, pred)"))
    (tmp_path / "tiny_scheduler.py").write_text((SCRIPTS / "tiny_scheduler.py").read_text())
    result = audited(script, num=FEW)
    assert script_of(result)["network"] == "unet"


def test_the_first_of_several_shapes_that_fits(tmp_path: Path) -> None:
    source = LATENTS.read_text()
    old = "noise = torch.randn_like(latents)"
    script = tmp_path / "train.py"
    script.write_text(source.replace(old, f"batch_size, num_tokens, width = latents.shape; {old}"))
    (tmp_path / "tiny_scheduler.py").write_text(
        (SCRIPTS / "tiny_scheduler.py").read_text().replace("-1, 1, 1, 1", "-1, 1, 1")
    )
    xs = [torch.rand(64, *shape) * 2 - 1 for shape in ((4, 8, 8), (64, 4))]
    assert audit.from_script(script, xs, num_samples=FEW).parameterization == "eps"
    with pytest.raises(ValueError, match=r"train\.py, line \d+"):
        audit.from_script(script, xs[0], num_samples=FEW)


def test_lengths_of_what_is_not_known() -> None:
    vae = Unknown(Stage("train.py", x=torch.zeros(7, 1)), frozenset({"vae"}), "vae")
    assert len(vae.config.block_out_channels) == 4  # as images are eight times as wide as latents
    assert len(vae.encode(0)) == 7


def test_the_family_is_that_of_the_class_that_is_used() -> None:
    class Scheduler:
        @classmethod
        def from_config(cls, config: dict[str, float]) -> dict[str, float]:
            return config

    source = """from models import QwenImageTransformer2DModel, ZImageTransformer2DModel
transformer = ZImageTransformer2DModel.from_pretrained("no/such_folder")"""
    assumed: list[str] = []
    scheduler = with_local_configuration(Scheduler, ast.parse(source), assumed)
    assert scheduler.from_pretrained("no/such_folder") == {"shift": 3.0}
    assert len(assumed) == 1


WRONG = {
    "an unknown in the loss": ("                accelerator.backward(loss)",
        "                accelerator.backward(loss * vae.config.some_factor)",
        "line 97: the loss depends on vae"),
    "an unknown in the noise": ("noise = torch.randn_like(latents)",
        "noise = text_encoder.noise(batch)", "the loss depends on"),
    "a library that is needed": ("TinyScheduler(num_train_timesteps=500)",
        "UNet(num_train_timesteps=500)",
        "line 8: UNet cannot be imported: No module named 'no_such_library'"),
    "no backward": ("accelerator.backward(loss)", "pass", "calls no backward()"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_run(case: str, tmp_path: Path) -> None:
    old, new, message = WRONG[case]
    source = LATENTS.read_text()
    assert old in source
    script = tmp_path / "train.py"
    script.write_text(source.replace(old, new))
    (tmp_path / "tiny_scheduler.py").write_text((SCRIPTS / "tiny_scheduler.py").read_text())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        audited(script)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(script))
    assert "elbos.audit.record(" in str(caught.value)


@pytest.mark.parametrize("flags", [["--snr_gama", "5"], ["--snr_gamma", "five"]])
def test_flags_that_the_script_refuses(flags: list[str]) -> None:
    with pytest.raises(ValueError, match="snr_gam"):
        audited(LATENTS, *flags)
