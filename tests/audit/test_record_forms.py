"""Live trainings in the forms that people run them in: recorded, they stay the same bit for bit."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from test_record import Network
from torch import Tensor, nn

from elbos import audit

NUM_STEPS = 24
Step = Callable[[Tensor, int], None]


def loss(net: Callable[..., Tensor], x: Tensor) -> Tensor:
    t = torch.rand(len(x), 1) * torch.pi / 2
    eps = torch.randn_like(x)
    return (net(t.cos() * x + t.sin() * eps, t) - eps).square().mean()


def autocast(net: Any, optimizer: Any) -> tuple[Any, Step]:
    def step(x: Tensor, _: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(net, x)
        value.backward()
        optimizer.step()

    return net, step


def accelerated(net: Any, optimizer: Any) -> tuple[Any, Step]:
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
    net, optimizer = accelerator.prepare(net, optimizer)

    def step(x: Tensor, _: int) -> None:
        with accelerator.accumulate(net):
            accelerator.backward(loss(net, x))
            optimizer.step()
            optimizer.zero_grad()

    return net, step


def plain(net: Any, optimizer: Any) -> tuple[Any, Step]:
    def step(x: Tensor, _: int) -> None:
        optimizer.zero_grad()
        loss(net, x).backward()
        optimizer.step()

    return net, step


def distributed(net: Any, optimizer: Any) -> tuple[Any, Step]:
    return plain(nn.parallel.DistributedDataParallel(net), optimizer)


def compiled(net: Any, optimizer: Any) -> tuple[Any, Step]:
    return plain(torch.compile(net, backend="eager"), optimizer)


def averaged(net: Any, optimizer: Any) -> tuple[Any, Step]:
    average = copy.deepcopy(net)

    def step(x: Tensor, _: int) -> None:
        optimizer.zero_grad()
        t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        z = (1 - t) * x + t * eps
        with torch.no_grad():
            average(z, t), net(z, t)  # between the draws and the call that is trained
        (net(z, t) - (eps - x)).square().mean().backward()
        optimizer.step()
        for mine, its in zip(average.parameters(), net.parameters(), strict=True):
            mine.data.lerp_(its.data, 0.1)

    return net, step


@pytest.fixture
def process_state(tmp_path: Path) -> Iterator[None]:
    """That of one process of a group, which is left as it was found."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.distributed.destroy_process_group()


def trained(form: Any, *, is_recorded: bool) -> tuple[nn.Module, Tensor, audit.Recording | None]:
    torch.manual_seed(3)
    net = Network()
    data, recorded = torch.rand(256, 64) * 2 - 1, None
    called, step = form(net, torch.optim.Adam(net.parameters(), 1e-3))
    batches = [data[64 * (i % 4) :][:64] for i in range(NUM_STEPS)]
    if is_recorded:
        with audit.record(called) as recorded:
            for i, x in enumerate(batches):
                step(x, i)
    else:
        for i, x in enumerate(batches):
            step(x, i)
    return net, torch.get_rng_state(), recorded


FORMS = [autocast, accelerated, distributed, compiled, averaged]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_recording_changes_no_form_of_training(form: Any) -> None:
    net, state, _ = trained(form, is_recorded=False)
    other, other_state, recorded = trained(form, is_recorded=True)
    assert torch.equal(state, other_state)
    for mine, its in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert recorded is not None
    assert recorded.num_samples == 64 * NUM_STEPS
    actual = recorded.audit()
    is_flow = form is averaged
    assert actual.parameterization == ("flow" if is_flow else "eps")
    log_w = -actual.logsnr / 2 if is_flow else -torch.log(torch.cosh(actual.logsnr / 2))
    difference = (actual.weight.log() - log_w)[actual.logsnr.abs() < 5]
    assert (difference - difference.median()).abs().max() < 0.05  # bf16 has 8 binary digits


def test_a_training_in_bfloat16_alone() -> None:
    torch.manual_seed(0)
    net = Network().bfloat16()
    with audit.record(net) as recorded:
        for _ in range(NUM_STEPS):
            x = torch.rand(64, 64).bfloat16()
            t, eps = torch.sigmoid(torch.randn(64, 1)).bfloat16(), torch.randn_like(x)
            (net((1 - t) * x + t * eps, t) - (eps - x)).float().square().mean().backward()
    assert recorded.audit().parameterization == "flow"
