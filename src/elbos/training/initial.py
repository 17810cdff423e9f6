"""The weights that a training begins with, where they are another run's."""

from pathlib import Path

from torch import Tensor

from elbos.adapters.diffusers.network import DiffusersConfig
from elbos.base.codec import difference, encode
from elbos.training import exported
from elbos.training.config import Config, run_config
from elbos.training.directory import RunDirectory


def averaged_weights(config: Config, init: Path) -> dict[str, Tensor]:
    """The weights of the run in `init`, to start the training of `config` from.

    Raises:
        FileNotFoundError: If there is no run, or no checkpoint yet.
        ValueError: If it is of another network, or one that predicts something else.
    """
    directory = RunDirectory(init)
    own_config = run_config(directory)
    for name in ("network", "parameterization"):
        own, wanted = (encode(getattr(one, name)) for one in (own_config, config))
        if found := difference(own, wanted, name):
            raise ValueError(
                f"The run in {init} has {found}: choose the same, or another run for --init."
            )
    own, wanted = (
        [one.schedule.logsnr_min, one.schedule.logsnr_max] for one in (own_config, config)
    )
    if isinstance(config.network, DiffusersConfig) and own != wanted:
        raise ValueError(
            f"The run in {init} has noise levels of log-SNR {own[0]:g} to {own[1]:g}, by which a "
            f"network of diffusers counts its steps, not {wanted[0]:g} to {wanted[1]:g}: choose "
            "the same, or another run for --init."
        )
    with exported.averaged(directory) as (_, weights):
        return {name: tensor[...] for name, tensor in weights.items()}
