"""NumPy array type for shape annotations by jaxtyping.

`numpy.typing.NDArray[...]` is no class since NumPy 2.5, and `Float[NDArray[...], "n"]` fails there.
"""

from typing import Any

import numpy as np

Array = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]
"""float64, for static types; jaxtyping checks the dtype that stands before the bracket."""
