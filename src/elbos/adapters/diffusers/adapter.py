"""LoRA adapters of a pipeline's network, read from safetensors.

diffusers' own loader reads them, in the formats that it knows (its own, peft's, kohya's and
others), into the network alone. An adapter of a text encoder has no effect on cached embeddings.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from elbos.adapters.diffusers.pipeline import Pipeline, read_json
from elbos.base.errors import flat, warn
from elbos.base.extras import imported, needs
from elbos.base.progress import at_level

_OF_TEXT = ("lora_te", "text_encoder")  # prefixes of keys


@contextmanager
def adapted(pipeline: Pipeline, path: str | Path) -> Iterator[Pipeline]:
    """Add a LoRA adapter to a pipeline's network within the `with` block.

    Args:
        pipeline: The pipeline, from `load`.
        path: The adapter, a safetensors file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If peft is not installed, or the adapter does not fit the network.

    Examples:
        >>> with adapted(pipeline, "lora.safetensors"):                             # doctest: +SKIP
        ...     result = validator(pipeline.denoiser)
    """
    path = Path(path)
    with needs("peft"):
        import peft  # noqa: F401
        from safetensors.torch import save_file

        from elbos.base import formats
    with formats.opened(path) as file:
        metadata = file.metadata()  # the scales, where peft's adapters have others than 1
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    of_network = {
        key: parameter for key, parameter in weights.items() if not key.startswith(_OF_TEXT)
    }
    if len(of_network) < len(weights):
        warn(f"{path} also adapts the text encoder, which has no effect on cached embeddings.")
    network = pipeline.network
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            at_level(logging.getLogger("diffusers"), logging.ERROR),
            TemporaryDirectory() as folder,
        ):
            save_file(of_network, Path(folder, "adapter.safetensors"), metadata)
            loader = _loader(pipeline, network)
            loader.load_lora_weights(
                folder,
                weight_name="adapter.safetensors",
                use_safetensors=True,
                local_files_only=True,
            )
    except Exception as error:  # diffusers and peft raise any type
        raise ValueError(f"{path} cannot be added to {pipeline.name}: {flat(error)}") from error
    if not getattr(network, "peft_config", None):
        raise ValueError(
            f"{path} has no weights of {type(network).__name__}: give a LoRA of this network."
        )
    try:
        network.eval().requires_grad_(False)
        yield pipeline
    finally:
        loader.unload_lora_weights()


def _loader(pipeline: Pipeline, network: Any) -> Any:
    """Return a diffusers pipeline of only a network and a scheduler."""
    index, library = read_json(pipeline.folder / "model_index.json"), imported("diffusers")
    name = str(index.get("_class_name"))
    kind: Any = getattr(library, name, None)
    if not hasattr(kind, "load_lora_weights"):
        raise ValueError(f"{pipeline.name} is a {name}, for which diffusers reads no adapters.")
    scheduler = getattr(library, str(pipeline.scheduler["_class_name"]))
    parts = {
        "unet" if "unet" in index else "transformer": network,
        "scheduler": scheduler.from_config(pipeline.scheduler),
    }
    arguments = inspect.signature(kind).parameters.values()
    required = [parameter.name for parameter in arguments if parameter.default is parameter.empty]
    return kind(**{**dict.fromkeys(required), **parts})
