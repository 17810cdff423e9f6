"""Writing of the folder of an exported model, which is moved into place when complete."""

import copy
import glob
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from elbos import __version__
from elbos.adapters.diffusers.latents import Latents
from elbos.base import files
from elbos.base.checks import typed
from elbos.base.codec import digest, encode
from elbos.base.extras import imported
from elbos.base.formats import read_object, write_object
from elbos.models.networks.diffusers import DiffusersNetwork, part_name
from elbos.models.networks.timesteps import trained_levels, trained_scheduler
from elbos.runs.export.card import card
from elbos.runs.run import Run
from elbos.training import exported
from elbos.training.config import Config
from elbos.training.directory import MANIFEST
from elbos.training.network import OwnNetwork


@typed
def export(run: Run, folder: Path | str, *, vae: Latents | None = None) -> list[str]:
    """Write a trained model into a folder.

    The files are the averaged weights and all that is needed to load them. An existing folder has
    to be empty or hold an earlier export of the same run, of any step; hidden files in the folder,
    such as git's, are left alone.

    Args:
        run: The run, with its network.
        folder: The folder to write.
        vae: The autoencoder of a diffusers network trained on latents, which is written beside the
            network (`adapters.diffusers.load_vae`). Default: none is written.

    Returns:
        The names of the files that were written, relative to the folder.

    Raises:
        OSError: If files cannot be written.
        ValueError: If the folder holds other files, or network or autoencoder cannot be exported.
    """
    folder = Path(folder)
    require_exportable(run, folder, vae)
    published = copy.copy(run)
    published.config = _without_places(run.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = files.partial(folder.resolve())
    files.remove_leftovers(partial.parent, glob.escape(folder.resolve().name))
    try:
        with files.named_errors(folder):
            partial.mkdir()
        with files.lock(partial / ".lock"), files.named_errors(folder):
            ends = [run.schedule.logsnr_min, run.schedule.logsnr_max]
            manifest = {"format": exported.FORMAT, "elbos": __version__, "run": _identifier(run)}
            manifest |= {"step": run.step, "logsnr": ends}
            if isinstance(run.network, DiffusersNetwork):
                _write_pipeline(run.network, run.config, partial, vae)
            else:
                write_object(partial / "config.json", encode(published.config))
                manifest["sha256"] = exported.write(partial, run.network.state_dict())
            write_object(partial / "data.json", run.directory.read("data.json") or {})
            text = card(published, folder.resolve().name, vae)
            files.write(partial / "README.md", text.encode())
            write_object(partial / MANIFEST, manifest)
            paths = [path.relative_to(partial) for path in partial.rglob("[!.]*") if path.is_file()]
            for path in sorted(
                paths, key=lambda path: (path.name == MANIFEST, path)
            ):  # that one last
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).replace(folder / path)
            return sorted(map(str, paths))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_exportable(run: Run, folder: Path, vae: Latents | None) -> None:
    if vae is not None and not isinstance(run.network, DiffusersNetwork):
        raise ValueError("a VAE is exported with diffusers networks only: leave it out.")
    if vae is not None and (num := vae.vae.config.latent_channels) != run.data.shape[0]:
        raise ValueError(
            f"the VAE makes latents of {num} channels, and the run was trained on "
            f"{run.data.shape[0]}: give the VAE of `elbos data encode`."
        )
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: name a folder.")
    files.require_folder_of(folder, MANIFEST, "--to")
    if (path := folder / MANIFEST).exists() and read_object(path).get("run") != _identifier(run):
        raise ValueError(f"{folder} holds the export of another run: name a new folder.")


def _identifier(run: Run) -> str:
    settings = {**run.config.identity(), "num_images": None, "init": None, "data": None}
    return digest([settings, run.directory.read("data.json")])


def _write_pipeline(
    network: DiffusersNetwork, config: Config, folder: Path, vae: Latents | None
) -> None:
    diffusers = imported("diffusers")
    ends = config.schedule.logsnr_min, config.schedule.logsnr_max
    levels, trained = network.levels, trained_levels(config.parameterization, *ends)
    if (type(levels), vars(levels)) != (type(trained), vars(trained)):
        raise ValueError(
            f"the network was built for other noise levels, or another prediction target, than it "
            f"was trained with: build it with trained_levels({config.parameterization}, "
            f"{ends[0]:g}, {ends[1]:g})."
        )
    settings = trained_scheduler(config.parameterization, network.levels)
    scheduler = getattr(diffusers, settings["_class_name"]).from_config(settings)
    name = part_name(network)
    network.inner.save_pretrained(folder / name)  # safetensors
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": pipeline_name(network, settings),
        "_diffusers_version": diffusers.__version__,
        name: ["diffusers", type(network.inner).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    if vae is not None:
        vae.vae.save_pretrained(folder / "vae")
        index["vae"] = ["diffusers", type(vae.vae).__name__]
    write_object(folder / "model_index.json", index)


def pipeline_name(network: DiffusersNetwork, scheduler: Mapping[str, Any]) -> str:
    """Return the name of the diffusers pipeline class that fits a network and a scheduler.

    For U-Nets, only `ConsistencyModelPipeline` passes class labels and scales the input; none
    passes labels under a scheduler without input scaling, such as that of flow matching.
    """
    if part_name(network) == "transformer":
        return "DiTPipeline"
    if scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler":
        return "DDPMPipeline"
    if network.null_label is not None or scheduler["_class_name"] == "EDMEulerScheduler":
        return "ConsistencyModelPipeline"
    return "DDIMPipeline"


def _without_places(config: Config) -> Config:
    data: Any = config.data
    network = config.network
    if isinstance(network, OwnNetwork):
        network = replace(network, name=Path(network.name).name)
    places = {
        name: type(value)(Path("/") / Path(value).name)
        for name, value in vars(data).items()
        if isinstance(value, Path | str) and Path(value).is_absolute()
    }
    return replace(config, init=None, network=network, data=replace(data, **places))
