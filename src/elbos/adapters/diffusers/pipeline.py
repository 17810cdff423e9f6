r"""Denoiser and VAE of a diffusers pipeline, read from a folder that `save_pretrained` wrote.

`model_index.json` names the components. The network (`unet` or `transformer`), the `scheduler` and,
of latent pipelines, the `vae` are read. The network sees scaled latents (`latents`).

Components that compute conditions (tokenizers, text and image encoders) are not loaded: the user
supplies conditions. Weights are read from safetensors in this folder only, and no code in the
folder is run. A folder may be on the Hugging Face Hub, of which safetensors and JSON are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elbos.adapters.diffusers.families import FAMILIES
from elbos.adapters.diffusers.latents import VAES, Latents
from elbos.adapters.diffusers.scheduled import ScheduledDenoiser, denoiser
from elbos.adapters.diffusers.training import Config
from elbos.base import files, hub
from elbos.base.checks import typed
from elbos.base.errors import flat
from elbos.base.extras import imported
from elbos.theory.denoiser import unwrapped

_NETWORKS = (  # called with the scheduler's timestep and plain latents or images, but for FAMILIES
    *("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "Transformer2DModel"),
    *("PixArtTransformer2DModel", "SD3Transformer2DModel", "SanaTransformer2DModel"),
    *FAMILIES,
)
_WEIGHTS = "diffusion_pytorch_model*.safetensors"
_OF_VAE, _OF_PIPELINE = (  # files on the Hub, without copies of the weights in other precisions
    (
        "*.json",
        *(
            f"{part}diffusion_pytorch_model{number}.safetensors"
            for part in parts
            for number in ("", "-?????-of-?????")
        ),
    )
    for parts in (("", "vae/"), ("", "unet/", "transformer/", "vae/"))
)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Components of a diffusers pipeline that validation needs.

    Attributes:
        denoiser: The network with its scheduler, as a denoiser of the data.
        encode: The encoder from images in [-1, 1] to latents; None if the network models images.
        scheduler: The configuration of the scheduler.
        name: The folder, or OWNER/NAME@COMMIT on the Hugging Face Hub.
        folder: The folder on this machine.
    """

    denoiser: ScheduledDenoiser
    encode: Latents | None
    scheduler: Config
    name: str = ""
    folder: Path = Path()

    @property
    def network(self) -> Any:
        """Network of the pipeline, a module of diffusers."""
        network: Any = self.denoiser.network
        return unwrapped(getattr(network, "inner", network))


@typed
def load(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pipeline:
    """Load a diffusers pipeline from a folder that `DiffusionPipeline.save_pretrained` wrote.

    Args:
        folder: The folder, which contains a model_index.json, or OWNER/NAME or OWNER/NAME@REVISION
            on the Hugging Face Hub.
        device: Device of the network and the VAE.
        dtype: Dtype of the network's parameters, and so of its conditions. The VAE stays in
            float32.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If diffusers is not installed, or a component is missing, unknown, or not stored
            as safetensors.

    Examples:
        >>> pipeline = load("sd-turbo")                                             # doctest: +SKIP
        >>> validator(pipeline.denoiser, cond={"encoder_hidden_states": text})      # doctest: +SKIP
    """
    folder, shown = hub.resolved(folder, _OF_PIPELINE)
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
        if library == "diffusers" and other not in (name, "scheduler", "vae"):
            raise ValueError(
                f"{path} names {other} ({kind}), which is unknown here: give the network and the "
                "scheduler to denoiser(network, scheduler)."
            )
    network = _load_model(_place(folder, name), components[name], _NETWORKS, dtype).to(device)
    encode = None
    if "vae" in components:
        vae = _load_model(folder / "vae", components["vae"], VAES, torch.float32)
        encode = Latents.from_vae(vae.to(device))
    return Pipeline(
        denoiser=denoiser(network, scheduler),
        encode=encode,
        scheduler=scheduler,
        name=shown,
        folder=folder,
    )


@typed
def load_vae(name: str | Path, *, device: torch.device | str = "cpu") -> Latents:
    """Load an `AutoencoderKL` from a folder or the Hugging Face Hub.

    Args:
        name: A folder with a config.json, a pipeline folder with a subfolder vae, or OWNER/NAME or
            OWNER/NAME@REVISION on the Hugging Face Hub.
        device: Device of the VAE, which is loaded in float32.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If diffusers is not installed, or the folder is not that of an AutoencoderKL.
    """
    folder, _ = hub.resolved(name, _OF_VAE)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {name}: give the folder of an AutoencoderKL.")
    if (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    kind = str(read_json(folder / "config.json").get("_class_name"))
    vae = _load_model(folder, ["diffusers", kind], VAES, torch.float32)
    return Latents.from_vae(vae.to(device))


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


def _load_model(
    folder: Path, entry: list[Any], classes: tuple[str, ...], dtype: torch.dtype
) -> nn.Module:
    library, name = entry
    if library != "diffusers" or name not in classes:
        raise ValueError(
            f"{folder} has a {library}.{name}, which is unknown here: load it yourself, for "
            f"denoiser(network, scheduler); known are {', '.join(classes)}."
        )
    weights = [file.name for file in folder.glob(_WEIGHTS)]
    if not weights:
        raise ValueError(f"{folder} has no {_WEIGHTS}: save it with safe_serialization=True.")
    files.require_plain(folder, may_link=True)
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
