"""Denoiser of a diffusers pipeline, read from a folder that `save_pretrained` wrote.

`model_index.json` names the components: a network (`unet` or `transformer`) of pixels, without
conditions or with a class, and its `scheduler`. Weights are read from safetensors in this folder
only, and no code in the folder is run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elbos.adapters.diffusers.scheduled import ScheduledDenoiser, denoiser
from elbos.adapters.diffusers.training import Config
from elbos.base import files
from elbos.base.checks import typed
from elbos.base.errors import flat
from elbos.base.extras import imported

_NETWORKS = ("UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel")
_WEIGHTS = "diffusion_pytorch_model*.safetensors"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Components of a diffusers pipeline that validation needs.

    Attributes:
        denoiser: The network with its scheduler, as a denoiser of the data.
        scheduler: The configuration of the scheduler.
        folder: The folder.
    """

    denoiser: ScheduledDenoiser
    scheduler: Config
    folder: Path = Path()


@typed
def load(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pipeline:
    """Load a diffusers pipeline from a folder that `DiffusionPipeline.save_pretrained` wrote.

    Args:
        folder: The folder, which contains a model_index.json.
        device: Device of the network.
        dtype: Dtype of the network's parameters.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If diffusers is not installed, or a component is missing, unknown, or not stored
            as safetensors.

    Examples:
        >>> result = validator(load("ddpm-cifar10-32").denoiser)                    # doctest: +SKIP
    """
    folder = Path(folder)
    path = folder / "model_index.json"
    components = {  # entries [library, class]
        name: entry
        for name, entry in read_json(path).items()
        if isinstance(entry, list) and len(entry) == 2 and None not in entry
    }
    names = [name for name in ("unet", "transformer") if name in components]
    if len(names) != 1:
        raise ValueError(
            f"{path} names {', '.join(components) or 'nothing'}: it has to name a unet or a "
            "transformer, and only one of them."
        )
    scheduler = read_scheduler(folder)
    name = names[0]
    for other, (library, kind) in components.items():
        if library == "diffusers" and other not in (name, "scheduler"):
            raise ValueError(
                f"{path} names {other} ({kind}), and only pipelines of pixels are read: give the "
                "network and the scheduler to denoiser(network, scheduler)."
            )
    network = _load_model(_place(folder, name), components[name], dtype).to(device)
    return Pipeline(
        denoiser=denoiser(network, scheduler),
        scheduler=scheduler,
        folder=folder,
    )


def read_scheduler(folder: Path) -> Config:
    """Return the configuration of a pipeline's scheduler.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the pipeline has no scheduler.
    """
    if "scheduler" not in read_json(folder / "model_index.json"):
        raise ValueError(f"{folder / 'model_index.json'} names no scheduler: add it.")
    return read_json(_place(folder, "scheduler") / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = files.read_value(path)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no configuration: give a file that diffusers wrote.")
    return content


def _place(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _load_model(folder: Path, entry: list[Any], dtype: torch.dtype) -> nn.Module:
    library, name = entry
    if library != "diffusers" or name not in _NETWORKS:
        raise ValueError(
            f"{folder} has a {library}.{name}, which is unknown here: load it yourself, for "
            f"denoiser(network, scheduler); known are {', '.join(_NETWORKS)}."
        )
    weights = [file.name for file in folder.glob(_WEIGHTS)]
    if not weights:
        raise ValueError(f"{folder} has no {_WEIGHTS}: save it with safe_serialization=True.")
    for index in folder.glob("*.index*.json"):
        names = read_json(index).get("weight_map")
        are_safe = isinstance(names, dict) and all(
            Path(str(file)).suffix == ".safetensors" for file in names.values()
        )
        if not are_safe:
            raise ValueError(f"{index} names other files than safetensors: save the weights anew.")
    options = {
        "torch_dtype": dtype,
        "variant": "fp16" if all(".fp16" in file for file in weights) else None,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    kind = getattr(imported("diffusers"), name)
    model: nn.Module
    try:
        model, loading = kind.from_pretrained(str(folder), **options)
    except Exception as error:  # diffusers raises any type
        raise ValueError(f"{folder} cannot be read as {name}: {flat(error)}") from error
    if loading["missing_keys"]:
        raise ValueError(f"{folder} lacks weights of {name}, as {loading['missing_keys'][0]}.")
    return model.eval()
