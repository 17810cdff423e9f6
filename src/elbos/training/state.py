"""Training state: everything that a training step changes and a checkpoint stores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from elbos.base.processes import Processes
from elbos.models.networks.diffusers import DiffusersConfig
from elbos.models.networks.timesteps import trained_levels
from elbos.theory.schedules import Schedule
from elbos.training import checkpoint
from elbos.training.config import Config
from elbos.training.data import DataSpec
from elbos.training.ema import EMA
from elbos.training.optimizer import new_optimizer
from elbos.training.randomness import seed_of
from elbos.training.sampling import Sampling
from elbos.training.sharding import is_sharded, local, shard
from elbos.validation import LossByLevel


@dataclass
class State:
    """Network weights, optimizer state and step of a training run.

    `unlogged` holds the sum and the number of the losses, and the number of clipped gradients,
    since the last line of the log; `by_level` holds the unweighted losses by noise level.
    """

    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    by_level: LossByLevel
    step: int = 0
    unlogged: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def groups(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{name}.{moment}": tensor
            for name, parameter in self.network.named_parameters()
            for moment, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": moments,
            "schedule": self.schedule.state_dict(),
            "log": {"unlogged": self.unlogged.clone(), **self.by_level.state_dict()},
        }

    def start_from(self, weights: dict[str, Tensor]) -> None:
        for network in (self.network, self.ema.network):
            _load(network, weights)

    def restore(self, step: int, groups: checkpoint.Groups) -> None:
        self.step = step
        require_dtypes(groups, self.groups())
        _load(self.network, groups["network"])
        _load(self.ema.network, groups["ema"])
        self.schedule.load_state_dict(dict(groups["schedule"]))
        self.unlogged.copy_(groups["log"]["unlogged"])
        self.by_level.load_state_dict(dict(groups["log"]))
        parameters = dict(self.network.named_parameters())
        for key, saved in groups["optimizer"].items():
            name, _, moment = key.rpartition(".")
            parameter = parameters[name]
            if saved.ndim == 0:  # AdamW's count of steps
                self.optimizer.state[parameter][moment] = saved.clone().to(parameter.device)
                continue
            # the optimizer itself uses the memory format of the weights
            self.optimizer.state[parameter][moment] = torch.empty_like(parameter)
            _fill(self.optimizer.state[parameter][moment], saved)


def require_dtypes(groups: checkpoint.Groups, expected: checkpoint.Groups) -> None:
    # torch itself would convert the stored tensor silently
    for group, tensors in expected.items():
        for name, tensor in tensors.items():
            stored = groups[group].get(name)
            if stored is not None and stored.dtype != tensor.dtype:
                raise ValueError(f"{group} {name} is {stored.dtype}, not {tensor.dtype}")


@torch.no_grad()
def _fill(target: Tensor, value: Shaped[Tensor, "*d"]) -> None:
    """Copy values into a tensor, of which this process may hold some rows."""
    rows: Any = ...
    if is_sharded(target):
        mesh = target.device_mesh["shard"]  # type: ignore[attr-defined]
        start = min(-(-len(target) // mesh.size()) * mesh.get_local_rank(), len(target))
        rows = slice(start, start + len(local(target)))
    local(target).copy_(value[rows])


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load unsharded weights into a possibly sharded network.

    Raises:
        RuntimeError: If names or shapes differ from those of the network.
    """
    targets = network.state_dict()
    if names := sorted(targets.keys() ^ state.keys()):
        raise RuntimeError(f"tensors missing or unexpected: {', '.join(names[:5])}")
    for name, target in targets.items():
        if target.shape != state[name].shape:
            raise RuntimeError(f"{name} is {tuple(state[name].shape)}, not {tuple(target.shape)}")
        _fill(target, state[name])


def uses_labels(config: Config, data: DataSpec) -> bool:
    return config.use_labels and data.num_classes is not None


def require_guidable(
    config: Config, data: DataSpec, sampling: Sampling, *, has_null: bool = False
) -> None:
    config.require_guidable(sampling)
    if sampling.guidance != 1 and data.num_classes is None and not has_null:
        raise ValueError(
            f"guidance is {sampling.guidance}, but {data.name} has no classes: give a condition "
            "and its null_cond, or leave guidance at 1."
        )


def build_network(config: Config, data: DataSpec) -> nn.Module:
    """Build a network with random weights of the run's seed, in channels-last memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed) % 2**63)
        network: nn.Module
        num_classes = data.num_classes if uses_labels(config, data) else None
        if isinstance(config.network, DiffusersConfig):
            ends = config.schedule.logsnr_min, config.schedule.logsnr_max
            levels = trained_levels(config.parameterization, *ends)
            network = config.network.build(data.shape, num_classes, levels)
        else:
            network = config.network.build(data.shape, num_classes)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def memory_format(network: nn.Module) -> torch.memory_format:
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    last = [w for w in weights if w.is_contiguous(memory_format=torch.channels_last)]
    is_last = not all(weight.is_contiguous() for weight in last)  # 1x1 kernels have both formats
    return torch.channels_last if is_last else torch.contiguous_format


def in_format(x: Float[Tensor, "b *d"], format_: torch.memory_format) -> Float[Tensor, "b *d"]:
    return x.to(memory_format=format_) if x.ndim == 4 else x


def new_state(
    network: nn.Module, config: Config, processes: Processes, *, by_blocks: bool = True
) -> State:
    ema = EMA(network, config.averaging.relative_width)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for copy in (network, ema.network):
        shard(copy, processes, config.execution.shard_size, by_blocks=by_blocks, dtype=dtype)
    optimizer = new_optimizer(network, config.optimizer, dtype)
    schedule = replace(config.schedule)  # adaptive schedules change: this one starts uniform
    return State(network, ema, optimizer, schedule, LossByLevel(schedule))
