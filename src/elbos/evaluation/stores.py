"""Where the parts of an evaluation are kept, under digests of all that their numbers depend on."""

from importlib.metadata import version
from typing import Any

from elbos.base import files
from elbos.base.cache import cache_dir
from elbos.base.codec import digest, encode
from elbos.base.store import Store
from elbos.evaluation.model import Model


def model_store(model: Model, name: str, **key: Any) -> Store:
    """The store in a model's directory for the weights that it has now; files that a killed process
    left half-written in it are deleted. Processes that share the model's evaluation share it.

    Args:
        model: The model.
        name: The beginning of the folder's name.
        key: All else that the numbers depend on, as `codec.encode` takes it.
    """
    folder = model.directory.evaluation / f"{name}-{_digest(model, {**model.identifier(), **key})}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def data_store(model: Model, name: str, **key: Any) -> Store:
    """The store in the cache for what depends on a model's data only, and is shared by all models
    on them; arguments as those of `model_store`.
    """
    return Store(cache_dir() / name / _digest(model, key), model.processes)


def _digest(model: Model, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
