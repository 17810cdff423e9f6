"""A weighting of the user's own: a function in a Python file, `FILE.py:FUNCTION`.

It gets log-SNRs, float64 `[n]`, and returns their weights. The file is run once, as it is for the
audit (`user_code`); what is trained with, and kept, are the numbers.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from elbos.tabulated import Tabulated
from elbos.user_code import as_script, code_path, described, load_function


def tabulated(target: str) -> Tabulated:
    """The weighting that FILE.py:FUNCTION computes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If there is no such function, it fails, or returns something else than weights.
    """
    file = code_path(target).resolve()
    with as_script(target):
        function = load_function(target, arguments=("logsnr",), verb="train")

        def weights(logsnr: Tensor) -> Any:
            try:
                return function(logsnr)
            except Exception as error:
                raise ValueError(f"{target} fails: {described(error, file)}") from error

        return Tabulated.of(weights, Path(target).name)
