"""Output of `elbos --version`: the facts that a bug report needs."""

import platform
import re
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
    installed, missing = [], []
    required = metadata.requires("elbos") or ()  # the core's and all extras'
    for name in sorted(
        {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required} - {"elbos"}
    ):
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield f"packages: {', '.join(installed)}"
    yield f"not installed: {', '.join(missing) or 'none'}"
