"""Output of `elbos --version`: the facts that a bug report needs."""

import platform
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata

from elbos import __version__


def report() -> Iterator[str]:
    """Yield the lines of a report on installed versions and hardware."""
    yield f"elbos {__version__}"
    yield f"Python {platform.python_version()}, {platform.platform()}"
    import torch  # a broken torch is a reason for a report: what is above is printed before

    from elbos.base.hardware import device_name

    yield f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    yield f"CPU: {device_name(torch.device('cpu'))}"
    if torch.accelerator.is_available() and (gpu := torch.accelerator.current_accelerator()):
        yield f"GPU: {torch.accelerator.device_count()} x {device_name(gpu)}"
    else:
        yield "GPU: none"

    required = defaultdict(list)  # names of packages by extra, of the core under ""
    for line in metadata.requires("elbos") or ():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if not extra or extra[1] not in ("all", "bench", "dev", "docs"):
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            required[extra[1] if extra else ""].append(name)
    versions = {p: _version(p) for packages in required.values() for p in packages}
    missing = {
        extra: [package for package in packages if not versions[package]]
        for extra, packages in sorted(required.items())
        if extra
    }
    yield f"extras: {', '.join(extra for extra in missing if not missing[extra]) or 'none'}"
    without = [f"{extra} ({', '.join(names)})" for extra, names in missing.items() if names]
    yield f"not installed: {', '.join(without) or 'none'}"
    installed = [f"{package} {number}" for package, number in sorted(versions.items()) if number]
    yield f"packages: {', '.join(installed)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
