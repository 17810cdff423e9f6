"""Where the parts of an evaluation are kept, under digests of all that their numbers depend on."""

from importlib.metadata import version
from typing import Any

from elbos import files
from elbos.codec import digest, encode
from elbos.runs.cache import cache_dir
from elbos.runs.store import Store
from elbos.training.run import Run


def run_store(run: Run, name: str, **key: Any) -> Store:
    """The store in a run's directory for the weights that it has now; files that a killed process
    left half-written in it are deleted.

    Args:
        run: The run.
        name: The beginning of the folder's name.
        key: All else that the numbers depend on, as `codec.encode` takes it.
    """
    of_run = {
        "weights": run.weights_digest(),
        "parameterization": run.config.parameterization,
        "precision": run.config.precision,
        "ends": (run.config.schedule.logsnr_min, run.config.schedule.logsnr_max),
    }
    folder = run.directory.evaluation / f"{name}-{_digest(run, {**of_run, **key})}"
    files.remove_leftovers(folder)
    return Store(folder)


def data_store(run: Run, name: str, **key: Any) -> Store:
    """The store in the cache for what depends on a run's data only, and is shared by all runs on
    them; arguments as those of `run_store`.
    """
    return Store(cache_dir() / name / _digest(run, key))


def _digest(run: Run, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), run.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, run.dataset.fingerprint(), encoded])[:12]
