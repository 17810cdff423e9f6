"""Scripts with several losses, and scripts that change objects before the loop."""

from pathlib import Path

import pytest
import torch

from elbos import audit

SETTINGS = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--objective", default="eps")
parser.add_argument("--shift", type=float, default=3.0)
args = parser.parse_args()
"""

LOOP = """
import torch
from no_such_library import build_model, loader
model, optimizer, scaler = build_model()
for x in loader:
    eps, t = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
    alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
    pred = model(alpha * x + sigma * eps, t)
    of_v = (pred - (alpha * eps - sigma * x)).square().mean()
    of_eps = (pred - eps).square().mean()
"""

MODULE = """
import torch
from no_such_library import LightningModule, UNet

class Model(LightningModule):
    def __init__(self, objective="v"):
        self.objective, self.model = objective, UNet()

    def training_step(self, x, index):
        if x is None:
            return None
        eps, t = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
        alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
        pred = self.model(alpha * x + sigma * eps, t)
"""

OF_EPS = "(pred - eps).square().mean()"
OF_V = "(pred - (alpha * eps - sigma * x)).square().mean()"

FLOW = """
import torch
from no_such_library import build_model, loader
model = build_model()
for x in loader:
    eps, t = torch.randn_like(x), torch.rand(len(x), 1, 1, 1)
    t = args.shift * t / (1 + (args.shift - 1) * t)
    loss = (model((1 - t) * x + t * eps, t) - (eps - x)).square().mean()
    loss.backward()
"""

TABLE = """
import torch
from no_such_library import build_model, loader
{}
model = build_model()

class Scheduler:
    def __init__(self):
        self.alpha_bar = torch.linspace(0.99, 0.5, 500)

def main():
    scheduler = Scheduler()
    {}
    for x in loader:
        eps, step = torch.randn_like(x), torch.randint(0, 500, (len(x),))
        alpha_bar = scheduler.alpha_bar[step].view(-1, 1, 1, 1)
        pred = model(alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps, step)
        (pred - eps).square().mean().backward()
"""

TO_ZERO = """
def to_zero(scheduler, least):
    with open("is_run", "a"):
        scheduler.alpha_bar = scheduler.alpha_bar * 2 - 1 + least
"""


def audited(folder: Path, source: str, *flags: str) -> audit.Audit:
    path = folder / "train.py"
    path.write_text(source)
    x = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return audit.from_script(path, x, flags, num_samples=1000)


def shift(result: audit.Audit) -> float:
    """Return the shift of uniform times, from the mean log-SNR."""
    mean = torch.trapezoid(result.density * result.logsnr, result.logsnr)
    return (-mean / torch.trapezoid(result.density, result.logsnr) / 2).exp().item()


def indented(text: str, by: int = 4) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in text.splitlines())


SEVERAL = {
    "two branches": 'if args.objective == "v":\n    of_v.backward()\nelse:\n    of_eps.backward()',
    "a jump": 'if args.objective == "v":\n    of_v.backward()\n    continue\nof_eps.backward()',
    "both": "of_v.backward()\nof_eps.backward()",
    "one name": "loss = of_v\nloss.backward()\nloss = of_eps\nloss.backward()",
    "an item": 'out = {"a": of_v}\nout["a"].backward()\nout["a"] = of_eps\nout["a"].backward()',
    "two loops": "of_v.backward()\nfor _ in range(2):\n    of_eps.backward()",
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_losses(case: str, tmp_path: Path) -> None:
    source = SETTINGS + LOOP + indented(SEVERAL[case])
    first, second = (n for n, line in enumerate(source.splitlines(), 1) if "backward()" in line)
    with pytest.raises(ValueError, match=f" {first}, {second}: .*audit.record") as caught:
        audited(tmp_path, source)
    assert "\n" not in str(caught.value)


def test_several_losses_that_a_method_returns(tmp_path: Path) -> None:
    ways = f'if self.objective == "v":\n    return {OF_V}\nreturn {OF_EPS}\n'
    with pytest.raises(ValueError, match=" 16, 17: "):
        audited(tmp_path, MODULE + indented(ways, 8))


def test_losses_of_two_modules(tmp_path: Path) -> None:
    other = MODULE.replace("Model", "Other") + indented(f"return {OF_EPS}", 8)
    source = MODULE + indented(f"return {OF_V}", 8) + other
    lines = [n for n, line in enumerate(source.splitlines(), 1) if "return (" in line]
    with pytest.raises(ValueError, match=" {}, {}: ".format(*lines)):
        audited(tmp_path, source)


ONE = {
    "a scaler": """
loss = of_v
if scaler:
    scaler.scale(loss).backward()
else:
    loss.backward()""",
    "two branches": """
if scaler:
    loss = of_v
    loss = loss / 2
    scaler.scale(loss).backward()
else:
    loss = of_v
    loss = loss / 2
    loss.backward()""",
}


@pytest.mark.parametrize("case", ONE)
def test_one_loss_in_two_places(case: str, tmp_path: Path) -> None:
    assert audited(tmp_path, LOOP + indented(ONE[case])).parameterization == "v"


WAYS = ["return loss", "if x.log:\n    return loss, x\nreturn loss", "self.manual_backward(loss)"]


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_of_a_module(way: str, tmp_path: Path) -> None:
    source = MODULE + indented(f"loss = {OF_EPS}\n{way}\n", 8)
    assert audited(tmp_path, source).parameterization == "eps"


@pytest.mark.parametrize("is_inside", [False, True])
@pytest.mark.parametrize("is_imported", [False, True])
def test_a_call_that_changes_the_noise_levels(
    is_inside: bool, is_imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rescaling.py").write_text(TO_ZERO)
    definition = "from rescaling import to_zero" if is_imported else TO_ZERO
    source = TABLE.format(definition, "to_zero(scheduler, least=0.02)")
    if not is_inside:
        built = "    scheduler = Scheduler()\n"
        source = source.replace(built, "").replace("def main", f"{built.lstrip()}\ndef main")
    result = audited(tmp_path, source)
    assert result.logsnr.min().sigmoid().item() == pytest.approx(0.02, abs=0.005)


def test_a_call_of_what_is_not_installed(tmp_path: Path) -> None:
    source = TABLE.format("from no_such_library import to_zero", "to_zero(scheduler)")
    with pytest.raises(ValueError, match="to_zero cannot be imported"):
        audited(tmp_path, source)


def test_calls_of_loggers(tmp_path: Path) -> None:
    source = TABLE.format("import no_such_logger\nlevel = 500", "no_such_logger.init(config=level)")
    source = source.replace("randint(0, 500", "randint(0, level")
    assert audited(tmp_path, source).logsnr.min().sigmoid().item() == pytest.approx(0.5, abs=0.005)


def test_calls_that_change_nothing_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    others = TO_ZERO.replace("scheduler.alpha_bar =", "_ =")
    others += 'def train(scheduler):\n    scheduler.x = open("is_run", "w")\n    main()\n'
    source = TABLE.format(others, "to_zero(scheduler, 0)") + "train(Scheduler())\n"
    result = audited(tmp_path, source)
    assert result.logsnr.min().sigmoid().item() == pytest.approx(0.5, abs=0.005)
    assert [one.name for one in tmp_path.iterdir()] == ["train.py"]


CHANGES = {
    "assigned": "args.shift = args.shift ** 2",
    "in place": "args.shift **= 2",
    "a condition": "if args.objective == 'eps':\n    args.shift = 9.0",
    "by a function": "def finish(opt):\n    opt.shift = opt.shift ** 2\nfinish(args)",
    "others": "args = argparse.Namespace(shift=args.shift ** 2)",
    "two": "args.power = 2\nargs.shift = args.shift ** args.power",
    "by name": 'setattr(args, "shift", args.shift ** 2)',
    "all": "vars(args).update(shift=args.shift ** 2)",
    "an item": "vars(args)['shift'] = args.shift ** 2",
    "a loop": "for k, v in {'shift': 9.0}.items():\n    setattr(args, k, v)",
}


@pytest.mark.parametrize("case", CHANGES)
def test_arguments_that_change(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = SETTINGS + CHANGES[case] + '\nargs.file = open("is_run", "w")\n' + FLOW
    result = audited(tmp_path, source)
    assert shift(result) == pytest.approx(9, rel=0.1)
    assert [one.name for one in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize("name", ["args", "opt"])
@pytest.mark.parametrize("read", ["args.shift", 'getattr(args, "shift")', 'vars(args)["shift"]'])
def test_arguments_that_the_function_of_the_loop_changes(
    name: str, read: str, tmp_path: Path
) -> None:
    main = "args.shift = args.shift ** 2\n" + FLOW.replace("args.shift", read)
    source = SETTINGS + f"def main({name}):\n" + indented(main.replace("args", name))
    assert shift(audited(tmp_path, source + "main(args)\n")) == pytest.approx(9, rel=0.1)


UNKNOWN = {  # the change, and what the refusal names
    "the network": (SETTINGS + "args.shift = model.config.shift", "the loss depends on model,"),
    "a failure": (
        SETTINGS + "args.shift = args.shift['x']",
        "line 7: args.shift fails, TypeError: .* the loss depends on it",
    ),
    "parsing": (
        "def parse():\n"
        + indented(SETTINGS + "args.shift = 2 * args.shift\nreturn args")
        + "args = parse()",
        "line 8: args.shift is assigned where the arguments are parsed; the loss depends on it",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_arguments_whose_change_is_not_known(case: str, tmp_path: Path) -> None:
    change, expected = UNKNOWN[case]
    with pytest.raises(ValueError, match=expected):
        audited(tmp_path, change + FLOW)
