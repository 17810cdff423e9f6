r"""Translate a diffusers `scheduler_config.json` and the flags of a training script into a loss,
given as a table over steps.

The file defines a table of noise levels: of betas, of flow matching with time shift $s$, or of
EDM's grid,

$$\lambda_t = \ln\frac{\bar\alpha_t}{1 - \bar\alpha_t}, \;
  \bar\alpha_t = \prod_{r \le t} (1 - \beta_r); \qquad
  \lambda_i = 2\ln\frac{N - i}{s\,i}; \qquad \lambda_i = -2\ln\tilde\sigma_i.$$

The flags determine the probability of each step, the target, and the coefficient of its squared
error. All other entries of the file concern sampling and are ignored.

The table is computed as by the class that the file names, with the class defaults for missing
entries, in float64: diffusers' float32 puts $\lambda$ at the clean end of the usual betas off by up
to 5e-4. The scripts of diffusers load a file of betas as `DDPMScheduler`, even if the file names
another class; where zero terminal SNR makes the tables differ, a diagnostic reports it.

References:
    diffusers 0.42, https://github.com/huggingface/diffusers: its schedulers, `training_utils.py`
    and example scripts
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from elbos.adapters.diffusers.betas import CLASSES, from_betas
from elbos.adapters.diffusers.edm import from_edm
from elbos.adapters.diffusers.flow import from_flow
from elbos.adapters.diffusers.training import Config, Training
from elbos.audit import LossTable
from elbos.base import files


def read_config(path: Path) -> dict[str, Any]:
    """Read and check a diffusers `scheduler_config.json`.

    Raises:
        OSError: If `path` cannot be read.
        ValueError: If it is not the configuration of a scheduler that is known here.
    """
    try:
        config: dict[str, Any] = files.read_json(path)
        _reader(config)
    except ValueError as error:  # JSON's, and the encoding's, too
        raise ValueError(f"{path} is no scheduler_config.json to read: {error}") from error
    return config


def loss_table(config: Config, training: Training) -> LossTable:
    """Return the training loss defined by a scheduler configuration and script flags, as a table
    over steps.

    Raises:
        ValueError: If the configuration is malformed or contradicts the flags.

    Examples:
        >>> config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 4}
        >>> loss_table(config, Training(weighting_scheme="logit_normal")).probability
        tensor([0.1360, 0.3640, 0.3640, 0.1360], dtype=torch.float64)
    """
    return _reader(config)(config, training)


_READERS: dict[str, Callable[[Config, Training], LossTable]] = {
    **{
        f"{name}Scheduler": partial(from_betas, kind)
        for kind, names in CLASSES
        for name in names.split()
    },
    "EDMDPMSolverMultistepScheduler": partial(from_edm, True),
    "EDMEulerScheduler": partial(from_edm, False),
    "FlowMatchEulerDiscreteScheduler": partial(from_flow, "shift", True),
    "FlowMatchHeunDiscreteScheduler": partial(from_flow, "shift", False),
    "FlowMatchLCMScheduler": partial(from_flow, "shift", True),
}


def _reader(config: Any) -> Callable[[Config, Training], LossTable]:
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if name is None:
        raise ValueError("it names no _class_name, which diffusers writes: give the whole file.")
    if str(name) not in _READERS:
        kind = "unknown here" if str(name).endswith("Scheduler") else "no scheduler"
        raise ValueError(f"{name} is {kind}: give a scheduler of betas, flow matching or EDM.")
    return _READERS[name]
